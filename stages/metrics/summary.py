"""From measurements of outputs to one number with its intervals and its denominator.

An utterance may have been spoken several times, with other seeds: its *takes*. Takes of one text are alike, so they
never count as if they were further texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.metrics.base import Measurement, Metric

CONFIDENCE = 0.95
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Score:
    """A metric over a test set. `denominator` of `total` outputs have a value; `reasons` tell why others have not.

    The outputs are of `texts` utterances, each spoken up to `takes` times. `interval` is the 95 % bootstrap interval
    over texts (None for fewer than two with a value): what other texts, spoken with other seeds, might give.
    `seed_interval` is the one over seeds alone: the same texts, spoken again (None with one take each). `totals` are
    the sums of the metric's numbers, such as the words that were substituted.
    """

    value: float | None
    interval: Interval
    seed_interval: Interval
    denominator: int
    total: int
    texts: int
    takes: int
    reasons: dict[str, int]
    totals: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """One system's value less another's, over the `pairs` of outputs that both have of `texts`, with 95 % intervals.

    The intervals are those of `Score`.
    """

    value: float
    interval: Interval
    seed_interval: Interval
    pairs: int
    texts: int


def summarise(
    metric: Metric,
    measurements: Sequence[Measurement],
    seed: int = 0,
    bootstrap_samples: int = 1000,
    texts: Sequence[Hashable] | None = None,
) -> Score:
    """Return the value of `metric` over the measured outputs; none is dropped without being counted.

    `texts` says which text each measurement is of; by default, each of another.
    """
    texts = range(len(measurements)) if texts is None else texts
    takes_of = Counter(texts)
    counts = {"total": len(measurements), "texts": len(takes_of), "takes": max(takes_of.values(), default=0),
              "reasons": dict(Counter(m.reason for m in measurements if m.value is None))}
    rows = numbers_of(metric, measurements)
    if not len(rows):
        return Score(None, None, None, 0, **counts, totals={})
    members = takes_by_text([text for text, m in zip(texts, measurements, strict=True) if m.value is not None])
    totals = dict(zip(metric.columns, rows.sum(axis=0).tolist(), strict=True))
    intervals = _intervals(rows, metric.summarise, members, seed, bootstrap_samples)
    return Score(metric.summarise(rows), *intervals, len(rows), **counts, totals=totals)


def paired_difference(
    metric: Metric,
    ours: Sequence[Measurement],
    theirs: Sequence[Measurement],
    seed: int = 0,
    bootstrap_samples: int = 1000,
    texts: Sequence[Hashable] | None = None,
) -> Difference | None:
    """Return the value of `ours` less that of `theirs`, measurements of the same utterances in the same order.

    Both are drawn together, so that what makes a text hard for either does not widen the interval; a corpus rate
    weighs utterances by their words in each draw. None when no utterance has both values.
    """
    texts = range(len(ours)) if texts is None else texts
    both = [pair for pair in zip(ours, theirs, texts, strict=True) if None not in (pair[0].value, pair[1].value)]
    if not both:
        return None
    ours, theirs, texts = zip(*both, strict=True)
    width = len(metric.columns)
    rows = np.hstack([numbers_of(metric, side) for side in (ours, theirs)])

    def difference(drawn: np.ndarray) -> float:
        return metric.summarise(drawn[:, :width]) - metric.summarise(drawn[:, width:])

    members = takes_by_text(texts)
    intervals = _intervals(rows, difference, members, seed, bootstrap_samples)
    return Difference(difference(rows), *intervals, len(rows), len(members))


def numbers_of(metric: Metric, measurements: Sequence[Measurement]) -> np.ndarray:
    """Return float64 [outputs with a value, columns]."""
    rows = [[m.numbers[column] for column in metric.columns] for m in measurements if m.value is not None]
    return np.array(rows, dtype=np.float64).reshape(-1, len(metric.columns))


def takes_by_text(texts: Sequence[Hashable]) -> np.ndarray:
    """Return int64 [texts, most takes]: where each text's takes are in `texts`, -1 for those it lacks."""
    places: dict[Hashable, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, []).append(place)
    members = np.full((len(places), max(map(len, places.values()), default=0)), -1)
    for row, found in zip(members, places.values(), strict=True):
        row[: len(found)] = found
    return members


def _intervals(
    rows: np.ndarray, statistic: Callable[[np.ndarray], float], members: np.ndarray, seed: int, num_resamples: int
) -> tuple[Interval, Interval]:
    """Return the intervals of `statistic` over texts and over seeds."""
    over_texts = drawn_texts(members, np.random.default_rng(seed), num_resamples) if len(members) > 1 else ()
    several = members.shape[1] > 1
    over_seeds = drawn_takes(members, np.random.default_rng(seed), num_resamples) if several else ()
    return bootstrap_interval(rows, statistic, over_texts), bootstrap_interval(rows, statistic, over_seeds)


def bootstrap_interval(
    rows: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    draws: Iterable[np.ndarray],
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the percentile bootstrap interval of `statistic` over `rows` [outputs, columns]; None without `draws`.

    Each draw holds the places of the rows it consists of. A row comes with all its numbers, so ratios of sums such
    as the word error rate of a corpus are treated rightly.
    """
    values = [statistic(rows[draw]) for draw in draws]
    if not values:
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def drawn_texts(members: np.ndarray, generator: np.random.Generator, num_resamples: int) -> Iterator[np.ndarray]:
    """Yield the rows of as many texts as there are, drawn with replacement, each with all its takes.

    `members` is that of `takes_by_text`. Texts differ by their own difficulty and by the luck of their takes, so
    drawing texts varies both. Takes drawn with replacement within a text again would count their luck twice: where
    texts are equally hard, as in differences, such intervals were a third too wide with three takes and held the
    truth in 98 of 100 experiments (Davison and Hinkley 1997, section 3.8, compare the two).
    """
    for draw in generator.integers(0, len(members), size=(num_resamples, len(members))):
        rows = members[draw].ravel()
        yield rows[rows >= 0]


def drawn_takes(members: np.ndarray, generator: np.random.Generator, num_resamples: int) -> Iterator[np.ndarray]:
    """Yield the rows of every text, of whose `m` takes `m - 1` are drawn with replacement; an only one stays.

    With `m` drawn, the variance of a mean would come out too small by `(m - 1) / m`: a third for three takes.
    """
    takes = (members >= 0).sum(axis=1, keepdims=True)
    wanted = np.arange(members.shape[1]) < np.maximum(takes - 1, 1)
    for _ in range(num_resamples):
        chosen = (generator.random(members.shape) * takes).astype(np.int64)
        yield np.take_along_axis(members, chosen, axis=1)[wanted]
