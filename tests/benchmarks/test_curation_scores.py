"""Scores against the truth, on examples that can be counted by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from curation_scores import cuts_inside_words, diarization_error, num_speakers_in, unaccounted_seconds

from stages.speech.spans import Span, Turn, union

TRUTH = [Turn(0, 10, "A"), Turn(12, 20, "B"), Turn(24, 27, "A"), Turn(30, 40, "C")]
FOUND = [Turn(2, 13, "a"), Turn(13, 14, "d"), Turn(14, 20, "b"), Turn(22, 38, "c"), Turn(38, 40, "d")]


def test_the_example_of_pyannote_metrics_has_its_error_rate():
    # https://pyannote.github.io/pyannote-metrics/tutorial.html
    error = diarization_error(TRUTH, FOUND)
    assert (error.total, error.missed, error.false_alarm, error.confused) == pytest.approx((31, 2, 7, 7))
    assert error.rate == pytest.approx(0.516, abs=5e-4)


def test_nothing_is_scored_within_a_collar():
    truth, found = [Turn(0, 10, "A"), Turn(10, 20, "B")], [Turn(0.2, 10.2, "x"), Turn(10.2, 20.5, "y")]
    assert diarization_error(truth, found).rate == pytest.approx((0.2 + 0.2 + 0.5) / 20)
    lenient = diarization_error(truth, found, collar=0.25)
    assert lenient.total == pytest.approx(20 - 4 * 0.25)
    assert lenient.rate == pytest.approx((0.5 - 0.25) / 19)


def test_overlap_counts_for_each_speaker():
    truth = [Turn(0, 10, "A"), Turn(8, 12, "B")]
    error = diarization_error(truth, [Turn(0, 10, "x"), Turn(10, 12, "y")])
    assert (error.total, error.missed, error.confused) == (14, 2, 0)


def test_turns_of_a_speaker_that_touch_have_no_border_between_them():
    whole, parts = [Turn(0, 10, "A")], [Turn(0, 4, "A"), Turn(4, 10, "A")]
    assert diarization_error(parts, whole, 0.25) == diarization_error(whole, whole, 0.25)


def test_nothing_found_is_all_missed():
    assert diarization_error(TRUTH, []).rate == 1.0
    assert diarization_error(TRUTH, []).missed == 31


@pytest.mark.parametrize("seed", range(20))
def test_no_other_mapping_of_speakers_is_better(seed):
    """On whole seconds, the seconds can be counted one by one, for every mapping."""
    random = np.random.default_rng(seed)

    def some(names):
        spans = {name: union(Span(start, start + random.integers(1, 6)) for start in random.integers(0, 30, 3))
                 for name in names}
        return [Turn(float(span.start), float(span.end), name) for name, own in spans.items() for span in own]

    truth, found = some("ABC"), some("wxyz")

    def talking(turns, second):
        return {turn.speaker for turn in turns if turn.start <= second < turn.end}

    def wrong(mapping):
        total = 0
        for second in range(40):
            true, given = talking(truth, second), talking(found, second)
            total += max(len(true), len(given)) - sum(mapping[speaker] in given for speaker in true)
        return total

    best = min(wrong(dict(zip("ABC", chosen, strict=True))) for chosen in permutations("wxyz", 3))
    error = diarization_error(truth, found)
    assert error.missed + error.false_alarm + error.confused == best


def test_errors_of_recordings_are_added_up():
    error = diarization_error(TRUTH, FOUND)
    assert (error + error).rate == error.rate and (error + error).total == 62


def test_a_short_word_of_another_does_not_make_two_speakers():
    assert num_speakers_in(Span(0, 12.2), TRUTH) == 1
    assert num_speakers_in(Span(0, 12.3), TRUTH) == 2
    assert num_speakers_in(Span(0, 40), TRUTH) == 3
    assert num_speakers_in(Span(20, 24), TRUTH) == 0
    assert num_speakers_in(Span(9, 10), [Turn(0, 10, "A"), Turn(9, 10, "B")]) == 2


def test_cuts_beside_words_are_in_none():
    words = [Span(1.0, 1.5), Span(1.5, 2.0)]
    utterances = [Span(0.9, 1.5), Span(1.54, 1.7), Span(2.0, 1.2)]
    assert cuts_inside_words(utterances, words) == 2


def test_seconds_in_no_stretch_and_in_two_are_both_not_accounted_for():
    assert unaccounted_seconds([Span(0, 4), Span(4, 10)], 10.0) == 0
    assert unaccounted_seconds([Span(0, 4), Span(5, 10)], 10.0) == 1
    assert unaccounted_seconds([Span(0, 6), Span(5, 10)], 10.0) == 1
    assert unaccounted_seconds([Span(0, 11)], 10.0) == 1
