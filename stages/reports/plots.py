"""Plots as PNG bytes. matplotlib is loaded when the first one is drawn, and needs no display."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#1f6fb4", "#c8641a", "#8a8f98"  # told apart in print and by the colour-blind
_SIZE = (5.2, 3.7)  # inches
_DPI = 130


def draw(paint: Callable[[Axes], None], x_label: str, y_label: str, title: str = "") -> bytes:
    """Return a PNG of one pair of axes that `paint` draws on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    paint(axes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def wer_against_duration(seconds: Sequence[float], output: Sequence[float], recording: Sequence[float]) -> bytes:
    """Plot each utterance's WER (%) of the output and of the recording against the recording's length (s).

    Lines join the means of up to six groups of equal size, since long speech is what this is about.
    """
    lengths = np.asarray(seconds, dtype=np.float64)

    def paint(axes: Axes) -> None:
        for values, colour, label in ((recording, ORANGE, "recordings"), (output, BLUE, "output")):
            rates = np.asarray(values, dtype=np.float64)
            axes.scatter(lengths, rates, s=18, color=colour, alpha=0.6, linewidths=0)
            x, y = grouped_means(lengths, rates)
            axes.plot(x, y, color=colour, marker="o", markersize=5, linewidth=1.8, label=label)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))

    return draw(paint, "length of the recording, s", "WER, %")


def durations(reference: Sequence[float], output: Sequence[float]) -> bytes:
    """Plot the output's duration against the recording's (s), one point an utterance, beside the line of equality."""
    pairs = np.array([reference, output], dtype=np.float64)

    def paint(axes: Axes) -> None:
        longest = float(pairs.max(initial=1.0)) * 1.05
        axes.plot([0, longest], [0, longest], color=GREY, linewidth=1.2, linestyle="--", label="equally long")
        axes.scatter(pairs[0], pairs[1], s=20, color=BLUE, alpha=0.6, linewidths=0, label="utterance")
        axes.set_xlim(0, longest)
        axes.set_ylim(0, longest)

    return draw(paint, "duration of the recording, s", "duration of the output, s")


def duration_distributions(reference: Sequence[float], output: Sequence[float]) -> bytes:
    """Plot the share of utterances not longer than x; the area between the curves is the Wasserstein distance."""

    def paint(axes: Axes) -> None:
        longest = max([*reference, *output, 1.0]) * 1.05
        for values, colour, label in ((reference, ORANGE, "recordings"), (output, BLUE, "output")):
            ordered = np.sort(np.asarray(values, dtype=np.float64))
            shares = np.arange(len(ordered) + 1) / max(1, len(ordered))
            axes.step([0, *ordered, longest], [*shares, 1.0], where="post", color=colour, linewidth=1.8, label=label)
        axes.set_xlim(0, longest)
        axes.set_ylim(0, 1.02)

    return draw(paint, "duration, s", "share of utterances")


def grouped_means(x: np.ndarray, y: np.ndarray, most_groups: int = 6, least: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return means of `x` and `y` in groups of neighbouring x, of equal size and at least `least` points each."""
    groups = max(1, min(most_groups, len(x) // least))
    parts = np.array_split(np.argsort(x, kind="stable"), groups)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])
