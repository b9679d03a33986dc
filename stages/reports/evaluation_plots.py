"""The plots of an evaluation's page, each of all its systems together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.audio.io import read_audio
from stages.metrics.duration_classes import by_class
from stages.metrics.sounds import RECORDINGS
from stages.reports import plots
from stages.reports.evaluation_tables import error_rate
from stages.reports.page import figures, heading, plot_figure, waves
from stages.reports.plots import Layer, Line
from stages.reports.word_alignment import sentence_spans

_OUTLIERS = 97  # per cent of the error rates set the height of their plot; higher ones are arrowheads
_RATE = 24_000  # Hz, of waveforms
_MARGIN = 1.06  # what `plots.plot` leaves above
_ASIDE = 4  # units of the SVG between the lines of systems


def looks(scores: dict) -> dict[str, int]:
    """Return what each system looks like in every plot: 0 for the recordings."""
    others = (name for name in scores["systems"] if name != RECORDINGS)
    return {RECORDINGS: 0} | {name: look for look, name in enumerate(others, 1)}


def duration_plots(scores: dict, rows: Sequence[dict]) -> list[str]:
    """Return outputs' durations against recordings', and how both are distributed."""
    if scores["setting"] == "reconstruction":  # there, they are the same
        return []
    judged = [row for row in rows if not row["refused"]]
    drawn = [each for each in (durations(scores, judged), *histograms(scores, judged)) if each]
    return [heading("Durations"), figures(drawn)] if drawn else []


def errors_by_duration(scores: dict, rows: Sequence[dict]) -> list[str]:
    """Return the error rate of every output against its recording's duration, and those of duration classes."""
    shown, signs, metric = [], [], error_rate(scores)
    rows = [row for row in rows if not row["refused"]]
    for system, look in looks(scores).items():
        points = _points(rows, system, lambda row, entry: (_seconds(row, entry), value_of(entry, metric)))
        if len(points):
            aside = _ASIDE * (look - (len(scores["systems"]) - 1) / 2)
            shown.append(Layer(look, points, _class_line(scores, rows, system, metric), aside))
            signs.append((plots.swatch(look), system))
    if not shown:
        return []
    label = scores["metrics"][metric]["label"]
    rates = np.concatenate([layer.points[:, 1] for layer in shown])
    ends = [layer.line.high[np.isfinite(layer.line.high)] for layer in shown if layer.line is not None]
    most = max([float(np.percentile(rates, _OUTLIERS)), 1.0, *np.concatenate([[], *ends])])
    caption = (f"{label} against the recording's duration: a dot an output; lines join the rates of duration classes, "
               "with 95 % intervals over texts.")
    if hidden := int((rates > most * _MARGIN).sum()):
        caption += f" {hidden} higher values are arrowheads at the upper edge."
    title = f"{label} against duration of {len(shown)} systems; the table by duration holds the values"
    svg = plots.plot(title, "duration, s", label, shown, y_most=most, log_x=True)
    return [plot_figure(svg, caption, signs)]


def durations(scores: dict, rows: Sequence[dict]) -> str:
    """Return outputs' durations against those of the recordings, beside the line of equality."""
    layers, signs = [], []
    for system, look in looks(scores).items():
        points = _points(rows, system, lambda row, entry: (row["reference_seconds"], entry["seconds"]))
        if system != RECORDINGS and len(points):
            layers.append(Layer(look, points))
            signs.append((plots.swatch(look), system))
    if not layers:
        return ""
    svg = plots.plot("Durations of outputs against those of the recordings", "recording, s", "output, s", layers,
                     diagonal=True)
    return plot_figure(svg, "Duration of each output against its recording's; on the broken line both are equal.",
                       signs)


def histograms(scores: dict, rows: Sequence[dict]) -> list[str]:
    """Return how each system's durations are distributed, and the recordings' (the paper's Fig. 10)."""
    reference = [row["reference_seconds"] for row in _one_each(rows) if row["reference_seconds"] is not None]
    lengths = {system: [entry["seconds"] for _, entry in _entries(rows, system) if entry["seconds"] is not None]
               for system in looks(scores) if system != RECORDINGS}
    lengths = {system: seconds for system, seconds in lengths.items() if seconds}
    if not lengths:
        return []
    edges = plots.histogram_edges(*lengths.values(), *([reference] if reference else []))
    return [_histogram(scores, system, seconds, reference, edges) for system, seconds in lengths.items()]


def _histogram(
    scores: dict, system: str, seconds: Sequence[float], reference: Sequence[float], edges: np.ndarray
) -> str:
    look = looks(scores)[system]
    signs = [(plots.swatch(look), f"{system}, n = {len(seconds)}")]
    caption = f"Durations of {system}"
    if reference:
        signs.append((plots.swatch(0), f"recordings, n = {len(reference)}"))
        caption += " as bars, of the recordings as an outline"
    distance = scores["systems"][system]["scores"].get("duration_distance", {}).get("value")
    caption += f"; Wasserstein distance {distance:.2f} s." if distance is not None else "."
    return plot_figure(plots.histogram(f"Durations of {system}", "duration, s", seconds, look, reference, edges),
                       caption, signs)


def curve_plots(scores: dict) -> list[str]:
    """Return the curves of scores.json, such as similarity over time: a line a system, with its interval as a band."""
    drawn = []
    for curve in scores.get("curves", {}).values():
        layers, signs = [], []
        for place, (system, points) in enumerate(curve["systems"].items(), 1):
            line = _curve_line(points)
            if len(line.x):
                look = looks(scores).get(system, place)  # a curve may be of models that are several systems
                layers.append(Layer(look, line=line))
                signs.append((plots.swatch(look), system))
        if layers:
            svg = plots.plot(curve["label"], curve["x_label"], curve["y_label"], layers, from_zero=False)
            caption = f"{curve['label']}. {curve['caption']} Bands: 95 % intervals over texts."
            drawn.append(plot_figure(svg, caption, signs))
    return [heading("Curves"), figures(drawn)] if drawn else []


def waveform_plot(scores: dict, row: dict, folder: Path) -> list[str]:
    """Return prompt, recording and every output of one utterance over the same time, sentences in turning colours
    where the recogniser tells times (the paper's Fig. 6)."""
    sounds = {} if not row.get("prompt_audio") else {"prompt": {"audio": row["prompt_audio"]}}
    sounds |= {system: row["systems"][system] for system in looks(scores)
               if row["systems"].get(system, {}).get("audio")}
    heard = {label: (read_audio(folder / entry["audio"], _RATE), entry) for label, entry in sounds.items()
             if (folder / entry["audio"]).is_file()}
    if not heard:
        return []
    longest = max(len(waveform) for waveform, _ in heard.values()) / _RATE
    drawn = [_wave(label, waveform, longest, sentence_spans(
        row["text"], entry.get("heard_words") or (), len(waveform) / _RATE, scores["language"]))
        for label, (waveform, entry) in heard.items()]
    several = any(entry.get("heard_words") for _, entry in heard.values())
    caption = f"{row['id']}, all over the same time." + (
        " Each sentence has a colour, by when the recogniser heard its words." if several else "")
    return [heading("Waveforms"), waves(drawn, plots.time_axis(longest), caption)]


def longest_row(rows: Sequence[dict]) -> dict | None:
    """Return the longest utterance of which the most systems have audio."""
    judged = [row for row in rows if not row["refused"] and row["systems"]]

    def rank(row: dict) -> tuple[int, float]:
        spoken = [entry for entry in row["systems"].values() if entry["audio"]]
        return len(spoken), row["reference_seconds"] or max((entry["seconds"] for entry in spoken), default=0.0)

    return max(judged, key=rank, default=None)


def value_of(entry: Mapping, metric: str) -> float | None:
    """Return what a metric says of one output, None where it says nothing."""
    return entry["metrics"].get(metric, {}).get("value")


def _wave(label: str, waveform: np.ndarray, longest: float, spans: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Return a label and the waveform, as high as its loudest sample allows, a colour a sentence."""
    loud = waveform / max(float(np.abs(waveform).max(initial=0.0)), 1e-4)
    drawn = []
    for index, (start, end) in enumerate(spans, 1):
        part = loud[round(start * _RATE) : round(end * _RATE)]
        if len(part):
            shape = plots.envelope(part, max(2, round(900 * len(part) / _RATE / longest)))
            drawn.append((index if len(spans) > 1 else 0, (start, end), shape))
    return f"{label}, {len(waveform) / _RATE:.1f} s", plots.waveform_svg(f"Waveform of {label}", drawn, longest)


def _entries(rows: Sequence[dict], system: str) -> list[tuple[dict, dict]]:
    return [(row, row["systems"][system]) for row in rows if system in row["systems"]]


def _one_each(rows: Sequence[dict]) -> list[dict]:
    """Return the first row of each utterance: its further takes have the same recording."""
    return list({row["id"]: row for row in reversed(rows)}.values())[::-1]


def _seconds(row: dict, entry: dict) -> float | None:
    return entry["seconds"] if row["reference_seconds"] is None else row["reference_seconds"]


def _points(rows: Sequence[dict], system: str, of) -> np.ndarray:
    """Return [points, 2] of the rows for which `of(row, entry)` gives two numbers, a duration above 0 first."""
    found = [pair for row, entry in _entries(rows, system)
             if None not in (pair := of(row, entry)) and pair[0] > 0]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _class_line(scores: dict, rows: Sequence[dict], system: str, metric: str) -> Line | None:
    """Return a metric's values of duration classes where the middle of their recordings' durations is."""
    parted = by_class([row for row, _ in _entries(rows, system)], system)
    points = []
    for name, theirs in parted.items():
        score = scores["classes"].get(name, {}).get(system, {}).get(metric)
        lengths = [seconds for row in theirs if (seconds := _seconds(row, row["systems"][system])) is not None]
        if score and score["value"] is not None and lengths:
            points.append((float(np.median(lengths)), score["value"], *(score["interval"] or (math.nan, math.nan))))
    return Line(*np.array(points).T) if points else None


def _curve_line(points: Sequence[dict]) -> Line:
    """Return a curve out of points {x, value, interval}; those without a value are left out."""
    found = [(point["x"], point["value"], *(point.get("interval") or (math.nan, math.nan))) for point in points
             if point["value"] is not None]
    return Line(*np.array(found, dtype=np.float64).reshape(-1, 4).T)
