"""Plots of an evaluation as SVG whose colours the page gives, so that they suit light and dark and any width.

A *look* is how a system is told from others in every plot and legend: a colour, the shape of its marks and a dash.
Look 0 is the recordings'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from stages.reports.axes import Axis, linear_axis, log_axis

NUM_COLOURS = 7  # of looks, that of the recordings included; the page's style holds them as --look-0, --look-1 ...
_WIDTH, _HEIGHT = 400, 272  # units of the SVG
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 14, 24, 38
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_SHAPES = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-4.8L4.8 3.6h-9.6z",
           "M0-5L5 0L0 5L-5 0z", "M0 4.8L-4.8-3.6h9.6z", "M-4.5-1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",
           "M-4.5-3.2L-3.2-4.5L0-1.3L3.2-4.5L4.5-3.2L1.3 0L4.5 3.2L3.2 4.5L0 1.3L-3.2 4.5L-4.5 3.2L-1.3 0z")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2", "1 2", "9 2 1 2 1 2")
_MOST_BINS = 24
_COLUMNS = 900  # of a waveform


@dataclass(frozen=True)
class Line:
    """Values [points] at `x` [points], with the ends of their intervals, NaN where there is none."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Layer:
    """What a plot shows of one system: single points [points, 2], a line through summaries, or both.

    Lines whose values lie at the same x are moved aside, by `aside` units, to be told apart.
    """

    look: int
    points: np.ndarray | None = None
    line: Line | None = None
    aside: float = 0.0


def plot(
    title: str, x_label: str, y_label: str, layers: Sequence[Layer], *,
    from_zero: bool = True, y_most: float = math.inf, diagonal: bool = False, log_x: bool = False,
) -> str:
    """Return layers on one pair of axes. Values above `y_most` are drawn as arrowheads at the upper edge.

    The y axis begins at zero or, without `from_zero`, below the lowest value; `diagonal` draws where y is x. With
    `log_x`, equal ratios of x are equally far apart.
    """
    xs, ys = _values(layers, 0), _values(layers, 1)
    high = min(float(ys.max()), y_most)
    low = min(0.0, float(ys.min())) if from_zero else float(ys.min())
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    up = linear_axis(low if from_zero else low - margin, high + margin, _PLOT_HEIGHT, 5)
    across = log_axis(float(xs.min()), float(xs.max()), _PLOT_WIDTH) if log_x else \
        linear_axis(0.0, float(xs.max()) * 1.04, _PLOT_WIDTH, 5)
    if diagonal:
        up, across = (linear_axis(0.0, max(up.high, across.high), size, 5) for size in (_PLOT_HEIGHT, _PLOT_WIDTH))
    line = [f'<path class="axis" stroke-dasharray="5 4" d="M0 {_PLOT_HEIGHT}L{_PLOT_WIDTH} 0"/>'] if diagonal else []
    drawn = [*line, *(_points(layer, across, up) for layer in layers if layer.points is not None),
             *(_line(layer, across, up) for layer in layers if layer.line is not None)]
    return _frame(title, x_label, y_label, across, up, drawn)


def histogram(title: str, x_label: str, seconds: Sequence[float], look: int, reference: Sequence[float],
              edges: np.ndarray) -> str:
    """Return the shares of `seconds` between `edges` as bars, and those of `reference`, if any, as an outline."""
    shares = {0: np.histogram(reference, edges)[0] / max(1, len(reference)),
              look: np.histogram(seconds, edges)[0] / max(1, len(seconds))}
    most = 100 * max(float(share.max()) for share in shares.values())
    across = linear_axis(float(edges[0]), float(edges[-1]), _PLOT_WIDTH, 5)
    up = linear_axis(0.0, most * 1.08 or 1.0, _PLOT_HEIGHT, 4)
    drawn = []
    for of in (look, 0) if len(reference) else (look,):
        x, y = across.at(edges), _PLOT_HEIGHT - up.at(100 * shares[of])
        steps = "".join(f"H{left:.1f}V{top:.1f}H{right:.1f}" for left, top, right in zip(x, y, x[1:], strict=False))
        path = f"M{x[0]:.1f} {_PLOT_HEIGHT}{steps}V{_PLOT_HEIGHT}"
        drawn.append(f'<path class="{"line" if of == 0 else "bars"} look-{_colour(of)}" d="{path}"/>')
    return _frame(title, x_label, "share of utterances, %", across, up, drawn)


def histogram_edges(*seconds: Sequence[float]) -> np.ndarray:
    """Return the edges of bins of a round width that hold all of these durations, fewer for few of them."""
    longest, count = max(map(max, seconds)), min(map(len, seconds))
    wanted = min(_MOST_BINS, max(8, round(2 * count**0.5)))
    width = np.diff(linear_axis(0.0, longest, 1.0, wanted).ticks[:2])[0]
    return np.arange(0, math.floor(longest / width) + 2) * width


def envelope(waveform: np.ndarray, columns: int = _COLUMNS) -> np.ndarray:
    """Return the lowest and highest sample [columns, 2] of equal stretches of samples [samples]."""
    starts = np.linspace(0, len(waveform), min(columns, len(waveform)), endpoint=False).astype(int)
    return np.stack([np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)], axis=1)


def waveform_svg(title: str, spans: Sequence[tuple[int, float, np.ndarray]], seconds: float) -> str:
    """Return a waveform stretched over `seconds`: `spans` are (colour, where in seconds it begins and ends, envelope).

    It fills whatever width it is given; nothing in it is text, which would be stretched too.
    """
    drawn = []
    for colour, (start, end), shape in spans:
        x = (np.linspace(start, end, len(shape)) / seconds * _COLUMNS).tolist()
        upper = "L".join(f"{left:.1f} {-50 * high:.1f}" for left, high in zip(x, shape[:, 1], strict=True))
        lower = "L".join(f"{left:.1f} {-50 * low:.1f}" for left, low in zip(x[::-1], shape[::-1, 0], strict=True))
        drawn.append(f'<path class="wave look-{_colour(colour)}" d="M{upper}L{lower}z"/>')
    return (f'<svg class="waveform" viewBox="0 -50 {_COLUMNS} 100" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape(title)}">{"".join(drawn)}</svg>')


def time_axis(seconds: float) -> str:
    """Return the seconds below waveforms; places are percentages, so that the text keeps its shape."""
    axis = linear_axis(0.0, seconds, 100.0, 6)
    ticks = []
    for place, label in zip(axis.at(np.array(axis.ticks)), axis.labels, strict=True):
        anchor = "start" if place < 1 else "end" if place > 97 else "middle"
        ticks.append(f'<text x="{place:.2f}%" y="16" text-anchor="{anchor}">{label} s</text>'
                     f'<line x1="{place:.2f}%" x2="{place:.2f}%" y2="4"/>')
    return f'<svg class="time" aria-hidden="true"><line x2="100%"/>{"".join(ticks)}</svg>'


def swatch(look: int) -> str:
    """Return the sign of a look for a legend."""
    return (f'<svg class="swatch look-{_colour(look)}" viewBox="-13 -6 26 12" aria-hidden="true">'
            f'<path class="line" stroke-dasharray="{_dash(look)}" d="M-13 0h26"/>'
            f'<path class="mark" d="{_shape(look)}"/></svg>')


def _values(layers: Sequence[Layer], column: int) -> np.ndarray:
    """Return every x (0) or y (1) that layers show, intervals included."""
    found = [layer.points[:, column] for layer in layers if layer.points is not None]
    for line in (layer.line for layer in layers if layer.line is not None):
        found += [line.x] if column == 0 else [line.y, line.low, line.high]
    values = np.concatenate(found).astype(np.float64)
    return values[np.isfinite(values)]


def _points(layer: Layer, across: Axis, up: Axis) -> str:
    """Return single utterances as pale dots; those above the axis as arrowheads at its end."""
    x, y = across.at(layer.points[:, 0]), _PLOT_HEIGHT - up.at(layer.points[:, 1])
    inside = y >= 0
    dots = "".join(f"M{left:.1f} {top:.1f}h0" for left, top in zip(x[inside], y[inside], strict=True))
    heads = "".join(f"M{left - 3:.1f} 6l3-5l3 5z" for left in x[~inside])
    return (f'<g class="look-{_colour(layer.look)}"><path class="dots" d="{dots}"/>'
            + (f'<path class="heads" d="{heads}"/>' if heads else "") + "</g>")


def _line(layer: Layer, across: Axis, up: Axis) -> str:
    """Return a band of intervals with the line through the values, its marks, and the intervals' ends."""
    line = layer.line
    x = across.at(line.x) + layer.aside
    y, low, high = (_PLOT_HEIGHT - up.at(ends) for ends in (line.y, line.low, line.high))
    known = np.isfinite(low) & np.isfinite(high)
    there = [f"{left:.1f} {top:.1f}" for left, top in zip(x[known], high[known], strict=True)]
    back = [f"{left:.1f} {top:.1f}" for left, top in zip(x[known][::-1], low[known][::-1], strict=True)]
    bars = "".join(f"M{left:.1f} {top:.1f}V{end:.1f}" for left, top, end
                   in zip(x[known], high[known], low[known], strict=True))
    through = "L".join(f"{left:.1f} {top:.1f}" for left, top in zip(x, y, strict=True))
    marks = "".join(f'<path class="mark" transform="translate({left:.1f} {top:.1f})" d="{_shape(layer.look)}"/>'
                    for left, top in zip(x, y, strict=True)) if len(x) <= _MOST_BINS else ""  # fmt: skip
    band = f'<path class="band" d="M{"L".join([*there, *back])}z"/>' if there else ""
    return (f'<g class="look-{_colour(layer.look)}">{band}<path class="whiskers" d="{bars if marks else ""}"/>'
            f'<path class="line" stroke-dasharray="{_dash(layer.look)}" d="M{through}"/>{marks}</g>')


def _frame(title: str, x_label: str, y_label: str, across: Axis, up: Axis, drawn: Sequence[str]) -> str:
    parts, bottom = [], _TOP + _PLOT_HEIGHT
    for label, place in zip(up.labels, bottom - up.at(np.array(up.ticks)), strict=True):
        parts.append(f'<path class="grid" d="M{_LEFT} {place:.1f}h{_PLOT_WIDTH}"/>'
                     f'<text x="{_LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{label}</text>')
    for label, place in zip(across.labels, across.at(np.array(across.ticks)) + _LEFT, strict=True):
        parts.append(f'<text x="{place:.1f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}'
        f'<path class="axis" d="M{_LEFT} {bottom}h{_PLOT_WIDTH}"/>'
        f'<text x="{_LEFT}" y="12">{escape(y_label)}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>'
        f'<svg x="{_LEFT}" y="{_TOP}" width="{_PLOT_WIDTH}" height="{_PLOT_HEIGHT}" overflow="visible">'
        f'{"".join(drawn)}</svg></svg>'
    )


def _colour(look: int) -> int:
    return look if look == 0 else 1 + (look - 1) % (NUM_COLOURS - 1)


def _shape(look: int) -> str:
    return _SHAPES[look % len(_SHAPES)]


def _dash(look: int) -> str:
    return _DASHES[look % len(_DASHES)]
