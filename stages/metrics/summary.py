"""From measurements of utterances to one number with its interval and its denominator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stages.metrics.base import Measurement, Metric

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """A metric over a test set. `denominator` of `total` utterances have a value; `reasons` tell why others have not.

    `interval` is the 95 % bootstrap interval over utterances, None for fewer than two of them.
    `totals` are the sums of the metric's numbers, such as the words that were substituted.
    """

    value: float | None
    interval: tuple[float, float] | None
    denominator: int
    total: int
    reasons: dict[str, int]
    totals: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """One system's value less another's, over the `pairs` of utterances that both have, with its 95 % interval."""

    value: float
    interval: tuple[float, float] | None
    pairs: int


def summarise(
    metric: Metric, measurements: Sequence[Measurement], seed: int = 0, bootstrap_samples: int = 1000
) -> Score:
    """Return the value of `metric` over the measured utterances; none is dropped without being counted."""
    numbers = numbers_of(metric, measurements)
    reasons = Counter(m.reason for m in measurements if m.value is None)
    if not len(numbers):
        return Score(None, None, 0, len(measurements), dict(reasons), {})
    interval = bootstrap_interval(numbers, metric.summarise, np.random.default_rng(seed), bootstrap_samples)
    totals = dict(zip(metric.columns, numbers.sum(axis=0).tolist(), strict=True))
    return Score(metric.summarise(numbers), interval, len(numbers), len(measurements), dict(reasons), totals)


def paired_difference(
    metric: Metric,
    ours: Sequence[Measurement],
    theirs: Sequence[Measurement],
    seed: int = 0,
    bootstrap_samples: int = 1000,
) -> Difference | None:
    """Return the value of `ours` less that of `theirs`, measurements of the same utterances in the same order.

    Both are drawn together, so that what makes an utterance hard for either does not widen the interval; a corpus
    rate weighs utterances by their words in each draw. None when no utterance has both values.
    """
    both = [pair for pair in zip(ours, theirs, strict=True) if None not in (pair[0].value, pair[1].value)]
    if not both:
        return None
    width = len(metric.columns)
    rows = np.hstack([numbers_of(metric, side) for side in zip(*both, strict=True)])

    def difference(drawn: np.ndarray) -> float:
        return metric.summarise(drawn[:, :width]) - metric.summarise(drawn[:, width:])

    interval = bootstrap_interval(rows, difference, np.random.default_rng(seed), bootstrap_samples)
    return Difference(difference(rows), interval, len(rows))


def numbers_of(metric: Metric, measurements: Sequence[Measurement]) -> np.ndarray:
    """Return float64 [utterances with a value, columns]."""
    rows = [[m.numbers[column] for column in metric.columns] for m in measurements if m.value is not None]
    return np.array(rows, dtype=np.float64).reshape(-1, len(metric.columns))


def bootstrap_interval(
    rows: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    generator: np.random.Generator,
    num_resamples: int = 1000,
    confidence: float = CONFIDENCE,
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of `statistic` over `rows` [utterances, columns].

    Utterances are drawn with replacement, each with all its numbers, so ratios of sums such as the word error
    rate of a corpus are treated rightly. None for fewer than two rows, of which nothing can be said.
    """
    if len(rows) < 2:
        return None
    draws = generator.integers(0, len(rows), size=(num_resamples, len(rows)))
    values = [statistic(rows[draw]) for draw in draws]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
