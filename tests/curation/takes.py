"""Utterances for tests of what is decided about them, and something that sounds a little like speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from stages.curation.recordings import Recording
from stages.curation.screening import Take


def take(name: str, text: str = "words", seconds: float = 10.0, source: str = "", start: float = 0.0, **extra) -> Take:
    """Return an utterance; ids like `one-0002` are of the recording `one.wav` unless `source` says another."""
    source = source or f"{name.rsplit('-', 1)[0]}.wav"
    recording = Recording(name, Path(source), source, text, "A", start=start, duration=seconds, extra=extra)
    return Take(recording, seconds, 16_000)


def voice(seed: int, seconds: float, rate: int = 16_000) -> np.ndarray:
    """Something like speech: pulses and noise through resonances that move every 0.15 s, with pauses."""
    random_numbers = np.random.default_rng(seed)
    parts = []
    for _ in range(int(seconds / 0.15)):
        pulses = np.zeros(int(0.15 * rate))
        pulses[:: int(rate / random_numbers.uniform(90, 220))] = 1.0
        sound = pulses + 0.02 * random_numbers.standard_normal(len(pulses))
        for frequency in random_numbers.uniform((250, 900, 2200), (850, 2200, 3300)):
            radius, angle = 0.97, 2 * np.pi * frequency / rate
            sound = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], sound)
        parts.append(sound * np.hanning(len(sound)) * random_numbers.choice([0, 1, 1, 1]))
    joined = np.concatenate(parts)
    return (0.3 * joined / np.abs(joined).max()).astype(np.float32)
