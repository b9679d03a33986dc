"""The curves of a run: metrics.jsonl as one series a name. It only reads: a page may be made while a run writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from stages.artifacts.run_dir import METRICS


@dataclass(frozen=True)
class Series:
    """Values [points] of one name at rising `steps` [points]; a value that was not finite is NaN."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        return float(self.values[-1])

    def finite(self) -> Series:
        kept = np.isfinite(self.values)
        return Series(self.steps[kept], self.values[kept])


def read_history(run_dir: Path) -> dict[str, Series]:
    """Return every series of a run, in the order in which names first appear; empty before anything is logged."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in _whole_rows(run_dir / METRICS):
        for name, value in row.items():
            if name != "step":
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(np.nan if value is None else value)
    return {name: Series(np.array(steps), np.array(values, dtype=np.float64))
            for name, (steps, values) in found.items()}


def _whole_rows(path: Path) -> list[dict]:
    """Return all rows but a last one that is still being written."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.split(b"\n") if line]


def total(several: Sequence[Series]) -> Series:
    """Return the sum of series at the steps that all of them have."""
    steps = reduce(np.intersect1d, [series.steps for series in several])
    return Series(steps, np.sum([series.values[np.isin(series.steps, steps)] for series in several], axis=0))


def thinned(series: Series, most: int = 500) -> Series:
    """Return at most `most` points: means of neighbours; a group of which nothing is finite stays a gap."""
    if len(series.values) <= most:
        return series
    starts = np.arange(most) * len(series.values) // most
    known = np.isfinite(series.values)
    sums, counts, steps, sizes = (np.add.reduceat(values, starts) for values in (
        np.where(known, series.values, 0.0), known.astype(np.float64), series.steps, np.ones(len(known))))
    return Series(steps / sizes, np.divide(sums, counts, out=np.full(most, np.nan), where=counts > 0))


def smoothed(series: Series, share: float = 0.05) -> Series:
    """Return a moving average over about `share` of the points, centred, so that it lags nothing; gaps stay gaps."""
    half = round(len(series.values) * share / 2)
    if half == 0:
        return series
    window = np.hanning(2 * half + 3)[1:-1]
    known = np.isfinite(series.values)
    sums = np.convolve(np.where(known, series.values, 0.0), window)[half:-half]
    weights = np.convolve(known.astype(np.float64), window)[half:-half]
    values = np.divide(sums, weights, out=np.full(len(known), np.nan), where=known)
    return Series(series.steps, values)
