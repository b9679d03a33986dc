from __future__ import annotations

import numpy as np
import pytest

from stages.metrics.base import Measurement, Metric
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.summary import bootstrap_interval, paired_difference, summarise


class Plain(Metric):
    name = label = "plain"
    better = "higher"

    def measure(self, item):
        raise AssertionError("not used here")


def measured(*values):
    return [Measurement(value, "" if value is not None else "too short", {"value": value} if value is not None else {})
            for value in values]


def test_the_interval_covers_the_true_mean_in_about_95_of_100_experiments():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(3.0, 1.0, (40, 1)), lambda rows: rows.mean(), rng, 300)
        covered += low <= 3.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_holds_the_value_and_narrows_with_more_utterances():
    rng = np.random.default_rng(2)
    few, many = (summarise(Plain(), measured(*rng.normal(0, 1, count).tolist())) for count in (20, 500))
    for score in (few, many):
        assert score.interval[0] < score.value < score.interval[1]
    assert many.interval[1] - many.interval[0] < (few.interval[1] - few.interval[0]) / 2


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = measured(*np.random.default_rng(3).normal(0, 1, 30).tolist())
    assert summarise(Plain(), values, seed=1) == summarise(Plain(), values, seed=1)
    assert summarise(Plain(), values, seed=1).interval != summarise(Plain(), values, seed=2).interval


def test_one_utterance_has_a_value_and_no_interval():
    score = summarise(Plain(), measured(0.7))
    assert (score.value, score.interval) == (0.7, None)


def test_values_that_are_missing_are_counted_with_their_reason_and_never_become_zero():
    score = summarise(Plain(), measured(4.0, None, 2.0))
    assert score.value == pytest.approx(3.0)
    assert (score.denominator, score.total, score.reasons) == (2, 3, {"too short": 1})


def test_without_any_value_the_score_is_none():
    score = summarise(Plain(), measured(None, None))
    assert (score.value, score.interval, score.denominator, score.total) == (None, None, 0, 2)


def test_an_utterance_is_drawn_with_all_its_numbers():
    """Errors and words of one utterance stay together: equal rates have no spread, whatever the lengths."""
    rows = [Measurement(50.0, "", {"substitutions": n, "insertions": 0, "deletions": 0, "words": 2 * n})
            for n in (1, 7, 20)]
    assert summarise(CorpusWER(), rows).interval == pytest.approx((50.0, 50.0))


def test_a_difference_is_over_the_utterances_that_both_have():
    found = paired_difference(Plain(), measured(5.0, 1.0, None), measured(4.0, None, 2.0))
    assert (found.value, found.pairs, found.interval) == (1.0, 1, None)
    assert paired_difference(Plain(), measured(None, 1.0), measured(1.0, None)) is None


def test_systems_that_differ_alike_everywhere_have_an_interval_of_no_width():
    hard = np.random.default_rng(4).normal(0, 10, 30).tolist()
    found = paired_difference(Plain(), measured(*(value + 0.5 for value in hard)), measured(*hard))
    assert found.value == pytest.approx(0.5) and found.interval == pytest.approx((0.5, 0.5))


def test_a_difference_of_word_error_rates_weighs_words():
    def heard(*pairs):
        return [Measurement(100 * wrong / words, "", {"substitutions": wrong, "insertions": 0, "deletions": 0,
                                                      "words": words}) for wrong, words in pairs]

    found = paired_difference(CorpusWER(), heard((1, 1), (0, 9)), heard((0, 1), (0, 9)))
    assert found.value == pytest.approx(10.0)
    assert found.interval[0] == 0.0 and found.interval[1] > 10.0


def test_the_paired_interval_holds_the_true_difference_in_about_95_of_100_experiments():
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(150):
        hard = rng.normal(0, 5, 40)
        ours, theirs = hard + rng.normal(1.0, 1, 40), hard + rng.normal(0, 1, 40)
        low, high = paired_difference(Plain(), measured(*ours), measured(*theirs), seed, 300).interval
        covered += low <= 1.0 <= high
        assert high - low < 2.0  # the spread of `hard` would make it five times as wide
    assert 0.88 <= covered / 150 <= 0.99
