from __future__ import annotations

import numpy as np
import pytest

from stages.metrics.base import Measurement, Metric
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.summary import (
    bootstrap_interval,
    drawn_takes,
    drawn_texts,
    paired_difference,
    summarise,
    takes_by_text,
)


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
        draws = drawn_texts(takes_by_text(range(40)), rng, 300)
        low, high = bootstrap_interval(rng.normal(3.0, 1.0, (40, 1)), lambda rows: rows.mean(), draws)
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


# ---- several takes of a text


def spoken(values):
    """Return measurements and the texts they are of, from a row of values a text."""
    texts = [text for text, takes in enumerate(values) for _ in takes]
    return measured(*(float(value) for takes in values for value in takes)), texts


def slow_interval(values, chosen_takes, seed, num_resamples, texts_drawn):
    """The bootstrap by its definition, one draw at a time: of whole texts, or of `chosen_takes` in every text."""
    generator, means = np.random.default_rng(seed), []
    for _ in range(num_resamples):
        texts = generator.integers(0, len(values), len(values)) if texts_drawn else range(len(values))
        heard = []
        for text in texts:
            heard += list(chosen_takes(generator, values[text]))
        means.append(sum(heard) / len(heard))
    return np.quantile(means, [0.025, 0.975])


def test_intervals_are_those_of_the_bootstrap_by_its_definition():
    """With ragged takes, which the fast way pads."""
    rng = np.random.default_rng(6)
    values = [rng.normal(rng.normal(0, 1), 1, count).tolist() for count in (3, 1, 2, 3, 3, 2, 1, 3) * 3]
    measurements, texts = spoken(values)
    score = summarise(Plain(), measurements, seed=1, bootstrap_samples=4000, texts=texts)
    whole = slow_interval(values, lambda _, takes: takes, 2, 4000, texts_drawn=True)
    assert score.interval == pytest.approx(whole, abs=0.05)

    def one_less(generator, takes):
        return generator.choice(takes, max(1, len(takes) - 1))

    assert score.seed_interval == pytest.approx(slow_interval(values, one_less, 2, 4000, False), abs=0.05)
    width = score.interval[1] - score.interval[0]
    assert width > 0.7 and score.seed_interval[1] - score.seed_interval[0] < 0.8 * width


def test_with_one_take_each_the_interval_is_that_over_utterances():
    values = np.random.default_rng(7).normal(0, 1, 25)
    draws = np.random.default_rng(3).integers(0, 25, size=(1000, 25))
    expected = np.quantile([values[draw].mean() for draw in draws], [0.025, 0.975])
    for texts in (None, [f"text-{index}" for index in range(25)]):
        score = summarise(Plain(), measured(*values.tolist()), seed=3, texts=texts)
        assert score.interval == pytest.approx(expected) and score.seed_interval is None
        assert (score.texts, score.takes) == (25, 1)


def test_saying_the_same_again_tells_nothing_new_and_other_takes_do():
    """The same value three times is one text's; taken for three texts, it would narrow the interval by 0.58."""
    rng = np.random.default_rng(8)
    once = rng.normal(0, 1, (30, 1))
    widths = {}
    for name, values in {"once": once, "copied": once.repeat(3, axis=1),
                         "again": np.hstack([once, rng.normal(0, 1, (30, 2))])}.items():
        score = summarise(Plain(), *spoken(values)[:1], texts=spoken(values)[1])
        widths[name] = score.interval[1] - score.interval[0]
        if name == "copied":
            assert score.seed_interval == pytest.approx((score.value, score.value))
    assert widths["copied"] == pytest.approx(widths["once"])
    assert 0.4 < widths["again"] / widths["once"] < 0.8


def test_more_seeds_do_not_help_where_texts_differ_and_do_where_takes_differ():
    rng = np.random.default_rng(9)

    def widths(text_spread, take_spread, takes):
        values = rng.normal(0, text_spread, (60, 1)) + rng.normal(0, take_spread, (60, takes))
        measurements, texts = spoken(values)
        score = summarise(Plain(), measurements, texts=texts)
        return [high - low for low, high in (score.interval, score.seed_interval)]

    hard_texts, more_seeds = widths(1.0, 0.1, 2), widths(1.0, 0.1, 8)
    assert 0.8 < more_seeds[0] / hard_texts[0] < 1.25 and more_seeds[1] < 0.7 * hard_texts[1]
    luck, more_luck = widths(0.0, 1.0, 2), widths(0.0, 1.0, 8)
    assert more_luck[0] < 0.7 * luck[0] and more_luck[1] < 0.7 * luck[1]


@pytest.mark.parametrize("text_spread", [0.0, 1.0])
def test_with_takes_the_interval_holds_the_truth_in_about_95_of_100_experiments(text_spread):
    """Also where all texts are equally hard: takes drawn again within a text would make it 1.3 times as wide."""
    rng, covered, widths = np.random.default_rng(10), 0, []
    for seed in range(300):
        values = rng.normal(0, text_spread, (40, 1)) + rng.normal(0, 1, (40, 3))
        measurements, texts = spoken(values)
        low, high = summarise(Plain(), measurements, seed, 200, texts).interval
        covered += low <= 0.0 <= high
        widths.append(high - low)
    true_width = 2 * 1.96 * np.sqrt((text_spread**2 + 1 / 3) / 40)
    assert 0.88 <= covered / 300 <= 0.98 and np.mean(widths) == pytest.approx(true_width, rel=0.08)


def test_over_seeds_the_interval_holds_what_endless_takes_of_these_texts_would_give():
    rng, covered = np.random.default_rng(11), 0
    hard = rng.normal(0, 5, (40, 1))
    for seed in range(300):
        measurements, texts = spoken(hard + rng.normal(0, 1, (40, 3)))
        low, high = summarise(Plain(), measurements, seed, 200, texts).seed_interval
        covered += low <= hard.mean() <= high
        assert high - low < 1.0  # over texts it is 3 wide
    assert 0.88 <= covered / 300 <= 0.98


def test_no_difference_lies_in_the_interval_of_the_difference_in_about_95_of_100_experiments():
    rng, covered = np.random.default_rng(12), 0
    for seed in range(300):
        hard = rng.normal(0, 5, (40, 1))
        (ours, texts), (theirs, _) = (spoken(hard + rng.normal(0, 1, (40, 3))) for _ in range(2))
        found = paired_difference(Plain(), ours, theirs, seed, 200, texts)
        covered += found.interval[0] <= 0.0 <= found.interval[1]
        assert (found.pairs, found.texts) == (120, 40)
    assert 0.88 <= covered / 300 <= 0.98


def test_the_denominator_counts_outputs_and_says_of_how_many_texts_and_takes():
    measurements = measured(1.0, 2.0, 3.0, None, None, None)
    score = summarise(Plain(), measurements, texts=["a", "a", "b", "b", "c", "c"])
    assert (score.denominator, score.total, score.texts, score.takes) == (3, 6, 3, 2)
    only = summarise(Plain(), measured(1.0, 3.0), texts=["a", "a"])
    assert only.interval is None and only.seed_interval is not None


def test_every_take_of_a_text_is_drawn_as_often_as_the_others():
    members = takes_by_text(["a", "b", "a", "b", "a"])
    assert members.tolist() == [[0, 2, 4], [1, 3, -1]]
    rows = np.concatenate(list(drawn_takes(members, np.random.default_rng(13), 3000)))
    times = np.bincount(rows, minlength=5)
    assert times.sum() == 3 * 3000, "two of three takes, one of two"
    assert times == pytest.approx([2000, 1500, 2000, 1500, 2000], rel=0.06)
