"""How loud a recording is from moment to moment: where its sound begins and ends, and how much of it may be speech."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAME_SECONDS = 0.02
_SHORTEST_FRAMES = 3  # of sound; a click of the mouse that ended the recording is shorter
_BELOW_DB = 40.0  # under the loudest frames: quieter than unvoiced speech, louder than most rooms


@dataclass(frozen=True)
class Activity:
    """Figures of a recording, from the levels of 20 ms frames.

    `begin` and `end` are the samples between which there is sound; `sounding` is the share of frames, between these,
    that are within 40 dB of the loudest; `variation_db` is between the tenth and the ninetieth percentile of all
    frames: large for speech, which has pauses and quiet sounds, small for noise.
    """

    begin: int
    end: int
    sounding: float
    variation_db: float


def activity(waveform: np.ndarray, sample_rate: int) -> Activity:
    """Measure [samples]. The threshold follows the recording's own level; of silence nothing sounds."""
    size = round(FRAME_SECONDS * sample_rate)
    levels = frame_levels(waveform, size)
    if not len(levels):
        return Activity(0, 0, 0.0, 0.0)
    sounding = levels > max(np.percentile(levels, 99) - _BELOW_DB, -100.0)
    begins = np.flatnonzero(np.convolve(sounding, np.ones(_SHORTEST_FRAMES), "valid") == _SHORTEST_FRAMES)
    if not len(begins):
        return Activity(0, 0, 0.0, 0.0)
    first, last = int(begins[0]), int(begins[-1]) + _SHORTEST_FRAMES
    share = float(sounding[first:last].mean())
    low, high = np.percentile(levels, (10, 90))
    return Activity(first * size, min(last * size, len(waveform)), share, float(high - low))


def frame_levels(waveform: np.ndarray, size: int) -> np.ndarray:
    """Return the RMS of frames of `size` samples [frames], in dB below full scale; the last frame may be shorter."""
    padded = np.pad(waveform.astype(np.float64), (0, -len(waveform) % size)).reshape(-1, size)
    return 10 * np.log10(np.mean(padded**2, axis=1) + 1e-12)


def clipped_share(waveform: np.ndarray) -> float:
    """Return the share of samples at full scale: more than a few are peaks that were cut off."""
    return float(np.mean(np.abs(waveform) >= 0.99)) if len(waveform) else 0.0
