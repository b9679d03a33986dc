"""Curves over training steps as SVG: a page of forty costs milliseconds, so every validation can draw it anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from stages.reports.axes import Axis, linear_axis, log_axis, short
from stages.reports.history import Series, smoothed, thinned

# Told apart in print and by the colour-blind, on white; the page turns them round in the dark.
COLOURS = ("#1f6fb4", "#c8641a", "#23856d", "#8457b0", "#b3304f", "#7b7420")
_GREY = "#8a8f98"
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
    across = linear_axis(0.0, float(steps.max()) * 1.015, _PLOT_WIDTH, 4)
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


def _is_smoothed(curve: Curve) -> bool:
    return not curve.dots and len(curve.series.values) > _FEW_POINTS


def _value_axis(values: np.ndarray, scale: str) -> Axis:
    low, high = float(values.min()), float(values.max())
    if low > 0 and (scale == "log" or (scale == "auto" and high / low > _LOG_RATIO)):
        return log_axis(low, high, _PLOT_HEIGHT)
    if scale == "zero" and low >= 0:
        return linear_axis(0.0, (high or 1.0) * 1.05, _PLOT_HEIGHT, 4)
    inner_low, inner_high = np.percentile(values, [2, 98])
    if high - low > 8 * (inner_high - inner_low) > 0:  # a few outliers leave the picture
        low, high = max(low, 2 * inner_low - inner_high), min(high, 2 * inner_high - inner_low)
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 0.5
    return linear_axis(low - margin, high + margin, _PLOT_HEIGHT, 4)


def _line(curve: Curve, across: Axis, up: Axis, pale: bool = False) -> str:
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


def _grid(across: Axis, up: Axis, top: int) -> str:
    parts, bottom = [], top + _PLOT_HEIGHT
    for label, place in zip(up.labels, bottom - up.at(np.array(up.ticks)), strict=True):
        parts.append(f'<path d="M{_LEFT} {place:.1f}h{_PLOT_WIDTH}" stroke="#e6e8eb"/>'
                     f'<text x="{_LEFT - 5}" y="{place + 3.5:.1f}" text-anchor="end">{label}</text>')
    for label, place in zip(across.labels, across.at(np.array(across.ticks)) + _LEFT, strict=True):
        anchor = "end" if place > _WIDTH - _RIGHT - 12 else "middle"
        parts.append(f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{label}</text>')
    return "".join(parts) + f'<path d="M{_LEFT} {bottom}h{_PLOT_WIDTH}" stroke="{_GREY}"/>'
