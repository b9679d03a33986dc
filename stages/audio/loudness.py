"""One loudness for everything a model hears and says."""

from __future__ import annotations

import math

import numpy as np

PEAK = 0.99  # full scale is never reached, so that nothing is clipped on its way through a file


def normalise_loudness(waveform: np.ndarray, target_db: float) -> np.ndarray:
    """Scale [samples] to an RMS of `target_db` dB below full scale; softer where a peak would clip. Silence stays."""
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0
    if rms == 0.0:
        return waveform
    gain = min(10 ** (target_db / 20) / rms, PEAK / float(np.abs(waveform).max()))
    return (waveform * gain).astype(waveform.dtype)


def loudness(waveform: np.ndarray, sample_rate: int) -> float:
    """Return how loud [samples] sound, in LUFS: ITU-R BS.1770-4 for one channel. Silence is minus infinity.

    What is much quieter than the rest, such as the pauses of speech, counts for nothing.
    """
    meter = LoudnessMeter(sample_rate)
    meter.add(waveform)
    return meter.loudness


class LoudnessMeter:
    """Measures the `loudness` of a recording that comes in blocks."""

    def __init__(self, sample_rate: int):
        self._filters = [(*coefficients, np.zeros(2)) for coefficients in _ear(sample_rate)]
        self._hop = round(0.1 * sample_rate)
        self._rest = np.zeros(0)  # squares that do not fill a hop yet
        self._powers: list[np.ndarray] = []  # mean squares of hops; a window is four of them

    def add(self, waveform: np.ndarray) -> None:
        """Go on with the next samples [samples]."""
        from scipy.signal import lfilter  # takes half a second to import

        weighted = waveform.astype(np.float64)
        for numerator, denominator, state in self._filters:
            weighted, state[:] = lfilter(numerator, denominator, weighted, zi=state)
        squares = np.concatenate([self._rest, weighted**2])
        whole = len(squares) - len(squares) % self._hop
        self._powers.append(squares[:whole].reshape(-1, self._hop).mean(axis=1))
        self._rest = squares[whole:]

    @property
    def loudness(self) -> float:
        hops = np.concatenate(self._powers) if self._powers else np.zeros(0)
        if len(hops) < 4:
            hops = np.pad([*hops, self._rest.sum() / self._hop], (0, 3 - len(hops)))
        powers = np.convolve(hops, np.full(4, 0.25), "valid")
        levels = -0.691 + 10 * np.log10(np.maximum(powers, 1e-12))
        powers, levels = powers[levels > -70.0], levels[levels > -70.0]
        if not len(powers):
            return -math.inf
        threshold = -0.691 + 10 * math.log10(powers.mean()) - 10.0
        return -0.691 + 10 * math.log10(powers[levels > threshold].mean())


def _ear(sample_rate: int) -> tuple[tuple[list[float], list[float]], ...]:
    """Return the two filters of BS.1770-4, which gives them at 48 kHz only, as analogue filters at any rate.

    The first stands for the head, which strengthens what is above 1.7 kHz, the second for the ear's deafness below
    40 Hz. The constants are those of libebur128.
    """
    k, q, high = np.tan(np.pi * 1681.974450955533 / sample_rate), 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    middle = high**0.4996667741545416
    scale = 1 + k / q + k * k
    head = ([(high + middle * k / q + k * k) / scale, 2 * (k * k - high) / scale,
             (high - middle * k / q + k * k) / scale],
            [1.0, 2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale])
    k, q = np.tan(np.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    scale = 1 + k / q + k * k
    return head, ([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale])
