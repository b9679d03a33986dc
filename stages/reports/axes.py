"""Scales of charts: where a value lies, and which values are written beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """A value's place between 0 and `pixels`, and the values that are written beside it."""

    low: float
    high: float
    pixels: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def at(self, values: np.ndarray) -> np.ndarray:
        low, high = self.low, self.high
        if self.logarithmic:
            values, low, high = np.log10(np.where(values > 0, values, np.nan)), math.log10(low), math.log10(high)
        return (values - low) / (high - low) * self.pixels

    @property
    def labels(self) -> list[str]:
        """What is written at the ticks, with more digits where they would read alike."""
        labels = [short(tick) for tick in self.ticks]
        return labels if len(set(labels)) == len(labels) else [f"{tick:.6g}" for tick in self.ticks]


def linear_axis(low: float, high: float, pixels: float, most_ticks: int) -> Axis:
    rough = (high - low) / most_ticks
    size = 10.0 ** math.floor(math.log10(rough))
    spacing = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.ceil(low / spacing), math.floor(high / spacing)
    return Axis(low, high, pixels, tuple(round(number * spacing, 12) for number in range(first, last + 1)))


def log_axis(low: float, high: float, pixels: float) -> Axis:
    low, high = low / 1.15, high * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [10.0**decade * factor for decade in decades for factor in factors]
    inside = [tick for tick in ticks if low <= tick <= high]
    return Axis(low, high, pixels, tuple(inside[:: math.ceil(len(inside) / 6) or 1]), logarithmic=True)


def short(value: float) -> str:
    """Write a number in at most about six characters: 0.031, 12k, 1.5M, 2e-5."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:.3g}{letter}"
    if value and abs(value) < 1e-3:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3g}"
