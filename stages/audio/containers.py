"""The first audio stream of MP4 and WebM files (m4a, mp4, webm), through PyAV: the extra `halle[av]`.

A telephone or a browser records these, and many podcasts are published so. A part is decoded from a second before it
on, so that ten hours need no more memory, and little more time, than a minute.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stages.audio.base import AudioError, AudioInfo, check_format

_BLOCK_SAMPLES = 1 << 18
_LEAD_SECONDS = 1.0  # decoded before a part: what comes before is in the first block of a compressed stream
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


def decode_part(path: Path, first: int, count: int) -> np.ndarray:
    """Decode `count` samples from sample `first` on to mono float32 [samples]: fewer where the header counts padding.

    Times in a WebM are exact to a millisecond. Raises `AudioError` when the file is damaged there, or cut off.
    """
    with _opened(path) as (container, audio):
        frame = next(container.decode(audio), None)
        begin = frame and frame.pts
    with _opened(path) as (container, audio):
        rate = audio.codec_context.sample_rate
        at, blocks = _from_before(container, audio, first, begin)
        if at > first:  # its frames have no times
            return decode(path)[1][first : first + count]
        held, end = [np.zeros(0, np.float32)], at
        for block in blocks:
            held.append(block.mean(axis=0, dtype=np.float32))
            end += block.shape[1]
            if end >= first + count:
                break
    waveform = np.concatenate(held)[first - at : first - at + count]
    if len(waveform) < count - _LATE_SECONDS * rate:
        raise AudioError(path, "TRUNCATED", f"expected {count} samples from {first / rate:.2f} s on by its header, "
                                            f"decoded {len(waveform)}")
    return waveform


def _from_before(container: Any, stream: Any, first: int, begin: int | None
                 ) -> tuple[int, Iterator[np.ndarray]]:
    """Return the number of a sample shortly before `first`, or 0, and the blocks [channels, samples] from it on.

    `begin` is the time of the first sample, in the stream's ticks. Where times are not known, the number is too large.
    """
    rate, tick = stream.codec_context.sample_rate, stream.time_base
    ahead = int((first / rate - _LEAD_SECONDS) / tick)
    if ahead <= 0:
        return 0, _blocks(container, stream)
    if begin is None:
        return first + 1, iter(())
    container.seek(begin + ahead, stream=stream)
    frames = container.decode(stream)
    frame = next(frames, None)
    if frame is None or frame.pts is None:
        return first + 1, iter(())
    return round((frame.pts - begin) * tick * rate), _converted(container, chain([frame], frames))


def stream(path: Path) -> Iterator[np.ndarray]:
    """Yield the first audio stream as float32 blocks [samples, channels]; raise what `decode` would."""
    with _opened(path) as (container, audio):
        num_samples = 0
        for block in _gathered(_blocks(container, audio)):
            num_samples += block.shape[1]
            yield block.T
        _check_complete(path, _info(path, container, audio, num_samples), _stated_seconds(container, audio))


def _blocks(container: Any, stream: Any) -> Iterator[np.ndarray]:
    return _converted(container, container.decode(stream))


def _converted(container: Any, frames: Iterable[Any]) -> Iterator[np.ndarray]:
    """Yield [channels, samples], some thousand at a time; only their number format is left to the resampler."""
    resampler = _av(Path(container.name)).AudioResampler(format="fltp")
    for frame in frames:
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
