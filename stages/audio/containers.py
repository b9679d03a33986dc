"""The first audio stream of MP4 and WebM files (m4a, mp4, webm), through PyAV: the extra `halle[av]`.

A telephone or a browser records these. Compressed streams have no exact place for every sample, so a part of one is
cut from the whole: long recordings of which many parts are wanted are better converted once.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stages.audio.base import AudioError, AudioInfo, check_format

_BLOCK_SAMPLES = 1 << 18
_LATE_SECONDS = 0.1  # a header's duration may count what an encoder pads; more missing than this was cut off


class MissingDecoderError(AudioError):
    """A file that only the package `av` reads, which is not installed."""

    exit_code = 7

    def __init__(self, path: Path):
        super().__init__(path, "NEEDS_AV", "MP4 and WebM files need the package `av`, which is not installed",
                         "pip install 'halle[av]', or convert it: "
                         f"ffmpeg -i {shlex.quote(path.name)} {shlex.quote(path.stem + '.wav')}")


def is_container(path: Path) -> bool:
    """Tell by its first bytes, whatever its name, whether a file is MP4 (or its relative QuickTime) or WebM."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False  # the reader of all other files says what is wrong
    return head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3"


def describe(path: Path) -> AudioInfo:
    """Describe the first audio stream; one whose header gives no duration (a browser's recording) is read through."""
    with _opened(path) as (container, stream):
        seconds = _stated_seconds(container, stream)
        if seconds is None:
            ends = [(packet.pts + (packet.duration or 0)) * packet.time_base for packet in container.demux(stream)
                    if packet.pts is not None]
            seconds = float(max(ends, default=0))
        return _info(path, container, stream, round(seconds * stream.codec_context.sample_rate))


def decode(path: Path) -> tuple[AudioInfo, np.ndarray]:
    """Decode the first audio stream, a block at a time, to mono float32 [samples]: the mean of its channels.

    Raises `AudioError` when it is damaged, or shorter than its header says.
    """
    with _opened(path) as (container, stream):
        blocks = [block.mean(axis=0, dtype=np.float32) for block in _blocks(container, stream)]
        waveform = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
        info = _info(path, container, stream, len(waveform))
        _check_complete(path, info, _stated_seconds(container, stream))
    return info, waveform


def stream(path: Path) -> Iterator[np.ndarray]:
    """Yield the first audio stream as float32 blocks [samples, channels]; raise what `decode` would."""
    with _opened(path) as (container, audio):
        num_samples = 0
        for block in _gathered(_blocks(container, audio)):
            num_samples += block.shape[1]
            yield block.T
        _check_complete(path, _info(path, container, audio, num_samples), _stated_seconds(container, audio))


def _blocks(container: Any, stream: Any) -> Iterator[np.ndarray]:
    """Yield [channels, samples], some thousand at a time; only their number format is left to the resampler."""
    resampler = _av(Path(container.name)).AudioResampler(format="fltp")
    for frame in container.decode(stream):
        for block in resampler.resample(frame):
            yield block.to_ndarray()


def _gathered(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Join blocks [channels, samples] to larger ones."""
    held: list[np.ndarray] = []
    for block in blocks:
        held.append(block)
        if sum(part.shape[1] for part in held) >= _BLOCK_SAMPLES:
            yield np.concatenate(held, axis=1)
            held = []
    if held:
        yield np.concatenate(held, axis=1)


def _check_complete(path: Path, info: AudioInfo, stated: float | None) -> None:
    if info.duration < (stated or 0.0) - _LATE_SECONDS:
        raise AudioError(path, "TRUNCATED", f"expected {stated:.2f} s by its header, decoded {info.duration:.2f} s")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the container and its first audio stream; errors of the decoder in the body are the file's."""
    av = _av(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(path, "NO_AUDIO", f"no sound in it, only {_streams(container)}")
            stream = container.streams.audio[0]
            check_format(path, stream.codec_context.sample_rate, stream.codec_context.channels)
            yield container, stream
    except av.FFmpegError as error:
        raise AudioError(path, "DECODE_ERROR", f"the decoder says: {error.strerror}") from error


def _av(path: Path) -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError:
        raise MissingDecoderError(path) from None


def _streams(container: Any) -> str:
    return ", ".join(stream.type for stream in container.streams) or "an empty container"


def _stated_seconds(container: Any, stream: Any) -> float | None:
    """Return the duration that the header gives to the stream, or else to the file."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return container.duration / 1_000_000
    return None


def _info(path: Path, container: Any, stream: Any, num_samples: int) -> AudioInfo:
    if num_samples <= 0:
        raise AudioError(path, "NO_SAMPLES", "it has a header but no samples")
    context = stream.codec_context
    kind = "WEBM" if "webm" in container.format.name else "MP4"
    return AudioInfo(context.sample_rate, num_samples, num_samples / context.sample_rate, context.channels,
                     context.name.upper(), kind)
