"""Whether there is anything to judge in a sound: measures of silence, of a click or of NaN would be mere numbers."""

from __future__ import annotations

import numpy as np

SILENCE = 1e-4  # peak, -80 dB


def sound_problem(waveform: np.ndarray, sample_rate: int, min_seconds: float, name: str = "output") -> str:
    """Return why [samples] cannot be judged (too short, not finite, silent), or ''. `name` says whose sound it is."""
    if len(waveform) < min_seconds * sample_rate:
        return f"the {name} is shorter than {min_seconds:g} s"
    if not np.isfinite(waveform).all():
        return f"the {name} is not finite"
    if np.abs(waveform).max(initial=0.0) < SILENCE:
        return f"the {name} is silent"
    return ""
