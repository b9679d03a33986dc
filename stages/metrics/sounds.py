"""Sounds in memory, and what systems said, before it lies on disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from stages.artifacts.manifest import Utterance
from stages.audio.io import audio_info, read_audio

# What a system did with an utterance. `missing` and `failed` are without output and count against it.
SCORED, MISSING, FAILED = "scored", "missing", "failed"
RECORDINGS = "recordings"  # the system that everyone else is compared with: the test set's own speech


@dataclass(frozen=True)
class Sound:
    """A waveform, float32 [samples], at `sample_rate` Hz."""

    waveform: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True)
class Output:
    """What a system said for one utterance; the first `prompt_samples` of the sound were given to it.

    It took `seconds_to_make` and `peak_memory` bytes, where that is known.
    """

    sound: Sound
    prompt_samples: int = 0
    seconds_to_make: float | None = None
    stop_reason: str = ""
    peak_memory: int | None = None

    @property
    def finished(self) -> bool:
        """Tell whether the system came to its own end; audio from elsewhere is taken as finished."""
        return self.stop_reason in ("", "end")


@dataclass(frozen=True)
class Attempt:
    """How a system fared with an utterance: `reason` says why there is no `output`."""

    status: str
    reason: str = ""
    output: Output | None = None


def read_recording(utterance: Utterance) -> Sound:
    """Return the test set's own recording at its own sample rate."""
    sample_rate = audio_info(utterance.audio).sample_rate
    return Sound(read_audio(utterance.audio, None, utterance.start, utterance.duration), sample_rate)


def resample(sound: Sound, sample_rate: int) -> np.ndarray:
    """Return the waveform float32 [samples] at `sample_rate` Hz."""
    if sound.sample_rate == sample_rate:
        return sound.waveform
    return soxr.resample(sound.waveform, sound.sample_rate, sample_rate).astype(np.float32)
