"""Long recordings, read by parts: memory does not grow with their length.

    recording = open_recording("episode.mp3")
    recording.read(600.0, 630.0, 16_000)             30 s out of the middle
    for start, block in recording.blocks(60.0, 16_000): ...
    forward = ForwardReader("episode.mp3")
    forward.read(600.0, 630.0); forward.read(700.0, 710.0)      parts in order: all of it is decoded once
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from stages.audio.base import AudioError, AudioInfo
from stages.audio.io import audio_info, mix_down, read_audio, stream_audio


@dataclass(frozen=True)
class Recording:
    """An audio file that is not held in memory. Waveforms are float32 [samples], mono: the mean of the channels.

    Reading raises `AudioError` when the file is not complete, finite, plausible audio.
    """

    path: Path
    info: AudioInfo

    @property
    def seconds(self) -> float:
        return self.info.duration

    @property
    def sample_rate(self) -> int:
        return self.info.sample_rate

    @property
    def channels(self) -> int:
        return self.info.channels

    def read(self, start: float, end: float, sample_rate: int | None = None) -> np.ndarray:
        """Return what lies from `start` to `end` seconds, at the file's own rate or resampled."""
        return read_audio(self.path, sample_rate, start, end - start)

    def blocks(self, seconds: float, sample_rate: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """Yield (start in seconds, waveform) of blocks that tile the recording; the last one may be shorter.

        Resampling goes on across borders, so that blocks joined are what resampling the whole would give.
        """
        rate = sample_rate or self.sample_rate
        resampler = soxr.ResampleStream(self.sample_rate, rate, 1, "float32") if rate != self.sample_rate else None
        own = (mix_down(block) for block in stream_audio(self.path))
        for index, block in enumerate(_cut(_resampled(own, resampler) if resampler else own, round(seconds * rate))):
            yield index * round(seconds * rate) / rate, block


class ForwardReader:
    """Parts of a recording that follow one another in time, each exactly what decoding the whole gives there.

    A seek in an MP3 takes a second an hour into it, and what it finds may differ in the last bit from what lay there
    when decoding came from before. Here decoding goes on from where the last part ended; going back begins again.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.info = audio_info(self.path)
        self._begin()

    def read(self, start: float, end: float, sample_rate: int | None = None) -> np.ndarray:
        """Return what lies from `start` to `end` seconds, at the file's own rate or resampled."""
        rate = self.info.sample_rate
        first, last = round(start * rate), round(end * rate)
        if first < self._first:
            self._begin()
        while self._first + len(self._held) < last and (block := next(self._blocks, None)) is not None:
            keep = self._held[max(0, first - self._first) :]
            self._first += len(self._held) - len(keep)
            self._held = np.concatenate([keep, mix_down(block)])
        part = self._held[first - self._first : last - self._first]
        if not len(part):
            raise AudioError(self.path, "OUT_OF_FILE", f"expected a part of its {self.info.duration:.3f} s, "
                                                       f"got {start:.3f} to {end:.3f} s")
        return soxr.resample(part, rate, sample_rate) if sample_rate and sample_rate != rate else part.copy()

    def _begin(self) -> None:
        self._blocks = stream_audio(self.path)
        self._held, self._first = np.zeros(0, np.float32), 0  # decoded, and the number of its first sample


def _resampled(blocks: Iterator[np.ndarray], resampler: soxr.ResampleStream) -> Iterator[np.ndarray]:
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _cut(blocks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield what the blocks hold in blocks of `size` samples; the last one may be shorter."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(held)
            whole = count - count % size
            yield from np.split(joined[:whole], whole // size)
            held, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(held)


def open_recording(path: Path | str) -> Recording:
    """Return the recording in a file; raise `AudioError` when its header is wrong. Nothing is decoded yet."""
    return Recording(Path(path), audio_info(path))
