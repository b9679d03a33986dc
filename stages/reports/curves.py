"""Curves over training steps as SVG: a page of forty costs milliseconds, so every validation can draw it anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from stages.reports.history import Series, smoothed, thinned
from stages.reports.plots import BLUE, GREY, ORANGE

COLOURS = (BLUE, ORANGE, "#23856d", "#8457b0", "#b3304f", "#7b7420")
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 180, 70), (205, 160, 0))  # viridis, its yellow darkened
_WIDTH, _LEFT, _RIGHT, _BOTTOM = 340, 44, 10, 22  # pixels
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, 152
_TITLE_HEIGHT, _LEGEND_HEIGHT = 27, 13  # of the legend: a line
_LOG_RATIO = 30  # positive values that differ by more are drawn on a logarithmic scale
_FEW_POINTS = 25  # so few are joined as they are
_MOST_DOTS = 40
_CHARACTER = 6.1  # width in pixels, for the legend


@dataclass(frozen=True)
class Curve:
    """One line of a chart. `dots` marks its points and keeps it as it is: for measures that are taken seldom."""

    label: str
    series: Series
    colour: str
    dots: bool = False


@dataclass(frozen=True)
class _Axis:
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


def ramp(count: int) -> list[str]:
    """Return `count` colours from dark to light, for things in an order, such as codebooks."""
    places = np.linspace(0, len(_RAMP) - 1, max(2, count))
    channels = [np.interp(places, range(len(_RAMP)), [colour[channel] for colour in _RAMP]) for channel in range(3)]
    return [f"#{round(r):02x}{round(g):02x}{round(b):02x}" for r, g, b in zip(*channels, strict=True)][:count]


def chart(title: str, curves: Sequence[Curve], scale: Literal["auto", "zero", "log"] = "auto") -> str:
    """Return a chart as SVG, nothing when no value is finite.

    Its scale begins at `zero`, is logarithmic (`log`) where values are positive, or follows the values (`auto`:
    positive ones of very different size get a logarithmic scale). Behind the moving average of up to three long
    curves the raw one is drawn in a pale colour.
    """
    drawn = [Curve(curve.label, thinned(curve.series), curve.colour, curve.dots) for curve in curves]
    values = np.concatenate([curve.series.values for curve in drawn])
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    steps = np.concatenate([curve.series.steps for curve in drawn])
    across = _linear_axis(0.0, float(steps.max()) * 1.015, _PLOT_WIDTH, 4)
    up = _value_axis(values, scale)
    lines = [_line(curve, across, up, pale=True) for curve in drawn if len(drawn) <= 3 and _is_smoothed(curve)]
    lines += [_line(curve, across, up) for curve in drawn]
    name = title + (", logarithmic" if up.logarithmic else "")
    legend, top = _legend(drawn)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {top + _PLOT_HEIGHT + _BOTTOM}" role="img" aria-label="{escape(title)}" '
        f'font-size="11" fill="#5c6672"><text x="0" y="13" font-size="12.5" font-weight="600" fill="#1c2430">'
        f"{escape(name)}</text>"
        f"{legend}{_grid(across, up, top)}"
        f'<svg x="{_LEFT}" y="{top}" width="{_PLOT_WIDTH}" height="{_PLOT_HEIGHT}">{"".join(lines)}</svg></svg>'
    )


def short(value: float) -> str:
    """Write a number in at most about six characters: 0.031, 12k, 1.5M, 2e-5."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:.3g}{letter}"
    if value and abs(value) < 1e-3:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3g}"


def _is_smoothed(curve: Curve) -> bool:
    return not curve.dots and len(curve.series.values) > _FEW_POINTS


def _value_axis(values: np.ndarray, scale: str) -> _Axis:
    low, high = float(values.min()), float(values.max())
    if low > 0 and (scale == "log" or (scale == "auto" and high / low > _LOG_RATIO)):
        return _log_axis(low, high)
    if scale == "zero" and low >= 0:
        return _linear_axis(0.0, (high or 1.0) * 1.05, _PLOT_HEIGHT, 4)
    inner_low, inner_high = np.percentile(values, [2, 98])
    if high - low > 8 * (inner_high - inner_low) > 0:  # a few outliers leave the picture
        low, high = max(low, 2 * inner_low - inner_high), min(high, 2 * inner_high - inner_low)
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 0.5
    return _linear_axis(low - margin, high + margin, _PLOT_HEIGHT, 4)


def _linear_axis(low: float, high: float, pixels: float, most_ticks: int) -> _Axis:
    rough = (high - low) / most_ticks
    size = 10.0 ** math.floor(math.log10(rough))
    spacing = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.ceil(low / spacing), math.floor(high / spacing)
    return _Axis(low, high, pixels, tuple(round(number * spacing, 12) for number in range(first, last + 1)))


def _log_axis(low: float, high: float) -> _Axis:
    low, high = low / 1.15, high * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [10.0**decade * factor for decade in decades for factor in factors]
    inside = [tick for tick in ticks if low <= tick <= high]
    return _Axis(low, high, _PLOT_HEIGHT, tuple(inside[:: math.ceil(len(inside) / 6) or 1]), logarithmic=True)


def _line(curve: Curve, across: _Axis, up: _Axis, pale: bool = False) -> str:
    series = smoothed(curve.series) if _is_smoothed(curve) and not pale else curve.series
    x, y = across.at(series.steps), _PLOT_HEIGHT - up.at(series.values)
    parts, pen = [], "M"
    for left, top in zip(x, y, strict=True):
        if math.isfinite(top):
            parts.append(f"{pen}{left:.1f} {top:.1f}")
            pen = "L"
        else:
            pen = "M"
    look = 'stroke-width="1" opacity="0.3"' if pale else 'stroke-width="1.6"'
    path = f'<path d="{"".join(parts)}" fill="none" stroke="{curve.colour}" stroke-linejoin="round" {look}/>'
    alone = (curve.dots and len(series.values) <= _MOST_DOTS) or len(series.values) == 1
    dots = [f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.3" fill="{curve.colour}"/>'
            for left, top in zip(x, y, strict=True) if alone and not pale and math.isfinite(top)]
    return path + "".join(dots)


def _legend(curves: Sequence[Curve]) -> tuple[str, int]:
    """Return a coloured label a curve, with its newest value where there is room, and where the legend ends."""
    texts = [curve.label for curve in curves]
    if len(curves) <= 2:
        values = [short(curve.series.last) for curve in curves]
        texts = [f"{text}: {value}" if text else value for text, value in zip(texts, values, strict=True)]
    parts, left, line = [], 0.0, _TITLE_HEIGHT
    for text, curve in zip(texts, curves, strict=True):
        width = 12 + _CHARACTER * len(text)
        if left and left + width > _WIDTH:
            left, line = 0.0, line + _LEGEND_HEIGHT
        parts.append(f'<rect x="{left:.0f}" y="{line - 4}" width="9" height="3" fill="{curve.colour}"/>'
                     f'<text x="{left + 12:.0f}" y="{line + 1}">{escape(text)}</text>')
        left += width + 9
    return "".join(parts), line + _LEGEND_HEIGHT


def _labels(axis: _Axis) -> list[str]:
    """Return what is written at the ticks, with more digits where they would read alike."""
    labels = [short(tick) for tick in axis.ticks]
    return labels if len(set(labels)) == len(labels) else [f"{tick:.6g}" for tick in axis.ticks]


def _grid(across: _Axis, up: _Axis, top: int) -> str:
    parts, bottom = [], top + _PLOT_HEIGHT
    for label, place in zip(_labels(up), bottom - up.at(np.array(up.ticks)), strict=True):
        parts.append(f'<path d="M{_LEFT} {place:.1f}h{_PLOT_WIDTH}" stroke="#e6e8eb"/>'
                     f'<text x="{_LEFT - 5}" y="{place + 3.5:.1f}" text-anchor="end">{label}</text>')
    for label, place in zip(_labels(across), across.at(np.array(across.ticks)) + _LEFT, strict=True):
        anchor = "end" if place > _WIDTH - _RIGHT - 12 else "middle"
        parts.append(f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{label}</text>')
    return "".join(parts) + f'<path d="M{_LEFT} {bottom}h{_PLOT_WIDTH}" stroke="{GREY}"/>'
