"""Long recordings, read by parts: memory does not grow with their length.

    recording = open_recording("episode.mp3")
    recording.read(600.0, 630.0, 16_000)             30 s out of the middle
    for start, block in recording.blocks(60.0, 16_000): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from stages.audio.base import AudioInfo
from stages.audio.io import audio_info, read_audio


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
        given, held, size = 0, np.zeros(0, dtype=np.float32), max(1, round(seconds * rate))
        for waveform, is_last in self._own_blocks(seconds):
            held = np.concatenate([held, resampler.resample_chunk(waveform, is_last) if resampler else waveform])
            while len(held) >= size:
                yield given / rate, held[:size]
                given, held = given + size, held[size:]
        if len(held):
            yield given / rate, held

    def _own_blocks(self, seconds: float) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield blocks at the file's own rate, and whether it is the last."""
        size, count = max(1, round(seconds * self.sample_rate)), self.info.num_samples
        for first in range(0, count, size):
            end = min(first + size, count)
            yield self.read(first / self.sample_rate, end / self.sample_rate), end == count


def open_recording(path: Path | str) -> Recording:
    """Return the recording in a file; raise `AudioError` when its header is wrong. Nothing is decoded yet."""
    return Recording(Path(path), audio_info(path))
