"""One loudness for everything a model hears and says."""

from __future__ import annotations

import numpy as np

PEAK = 0.99  # full scale is never reached, so that nothing is clipped on its way through a file


def normalise_loudness(waveform: np.ndarray, target_db: float) -> np.ndarray:
    """Scale [samples] to an RMS of `target_db` dB below full scale; softer where a peak would clip. Silence stays."""
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0
    if rms == 0.0:
        return waveform
    gain = min(10 ** (target_db / 20) / rms, PEAK / float(np.abs(waveform).max()))
    return (waveform * gain).astype(waveform.dtype)
