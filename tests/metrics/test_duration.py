from __future__ import annotations

import numpy as np
import pytest

from stages.metrics.base import MetricInput
from stages.metrics.duration import DurationDistance, PeakMemory, RealTimeFactor
from stages.metrics.summary import summarise

RATE = 100


def item(output, reference, **more):
    waveforms = [np.zeros(round(seconds * RATE), np.float32) for seconds in (output, reference)]
    return MetricInput("text", RATE, waveforms[0], reference=waveforms[1], **more)


def distance(pairs):
    metric = DurationDistance()
    return summarise(metric, [metric.measure(item(*pair)) for pair in pairs]).value


def test_outputs_that_are_all_a_second_longer_are_a_second_away():
    assert distance([(3, 2), (5, 4), (11, 10)]) == pytest.approx(1.0)


def test_distributions_are_compared_and_not_pairs():
    assert distance([(2, 5), (5, 2)]) == pytest.approx(0.0)


def test_the_distance_is_the_mean_gap_of_sorted_durations():
    rng = np.random.default_rng(0)
    output, reference = rng.integers(1, 60, 20), rng.integers(1, 60, 20)
    by_hand = np.abs(np.sort(output) - np.sort(reference)).mean()
    assert distance(list(zip(output, reference, strict=True))) == pytest.approx(by_hand)


def test_an_utterance_without_output_is_left_out_and_counted():
    metric = DurationDistance()
    score = summarise(metric, [metric.measure(item(3, 2)), metric.measure_failure(item(3, 2))])
    assert (score.denominator, score.total, score.reasons) == (1, 2, {"no output": 1})


def test_the_real_time_factor_counts_what_was_generated_and_not_the_prompt():
    metric = RealTimeFactor()
    measured = metric.measure(item(5, 5, prompt_samples=3 * RATE, seconds_to_make=4.0))
    assert measured.value == pytest.approx(2.0)


def test_the_real_time_factor_of_a_set_is_total_time_over_total_speech():
    metric = RealTimeFactor()
    made = [item(1, 1, seconds_to_make=3.0), item(9, 9, seconds_to_make=2.0)]
    assert summarise(metric, [metric.measure(each) for each in made]).value == pytest.approx(0.5)


def test_nothing_generated_has_no_real_time_factor():
    measured = RealTimeFactor().measure(item(3, 3, prompt_samples=3 * RATE, seconds_to_make=1.0))
    assert measured.value is None and measured.reason


def test_the_peak_memory_of_a_set_is_the_most_that_any_utterance_took_in_mebibytes():
    metric = PeakMemory()
    measured = [metric.measure(item(1, 1, peak_memory=mebibytes * 2**20)) for mebibytes in (3, 700, 12)]
    assert [each.value for each in measured] == [3.0, 700.0, 12.0]
    assert summarise(metric, measured).value == 700.0
    unseen = metric.measure(item(1, 1, peak_memory=0))
    assert unseen.value is None and "held before" in unseen.reason


@pytest.mark.parametrize("metric", [RealTimeFactor(), PeakMemory()], ids=lambda metric: metric.name)
def test_a_cost_that_nobody_measured_has_no_value_and_a_reason(metric):
    measured = metric.measure(item(3, 3))
    assert measured.value is None and "nobody says how" in measured.reason
