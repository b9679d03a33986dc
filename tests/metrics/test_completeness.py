"""Words skipped and words said again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.metrics.base import MetricInput
from stages.metrics.completeness import RepeatedWords, SkippedWords, find_differences
from stages.metrics.summary import summarise

TEXT = "the train left an hour late because of the heavy snow that fell last night"
WORDS = TEXT.split()


def runs(heard, text=TEXT):
    found = find_differences(text, heard)
    return [" ".join(run) for run in found.skipped], [" ".join(run) for run in found.repeated]


@pytest.mark.parametrize(("heard", "skipped", "repeated"), [
    (TEXT, [], []),
    (TEXT.replace("heavy ", ""), ["heavy"], []),
    (TEXT.replace("because of the heavy ", ""), ["because of the heavy"], []),
    (TEXT.replace("an hour", "an hour an hour"), [], ["an hour"]),
    (TEXT.replace("the train", "the the train"), [], ["the"]),
    (TEXT.replace("late", "late late late late"), [], ["late late late"]),
    # a round of the loop is misheard
    (TEXT.replace("an hour late", "an hour late an our late an hour late"), [], ["an hour late an our late"]),
    # the same mistake twice
    (TEXT.replace("heavy snow", "heaven no heaven no"), [], ["heaven no"]),
    (TEXT.replace("left", "left completely unannounced"), [], []),  # put in, from nowhere
    (TEXT.replace("an hour late", "in our late"), [], []),  # misheard
    (TEXT.replace("because of", "be cause of"), [], []),  # one word heard as two
    (TEXT.replace("last night", "lastnight"), [], []),  # and two as one
    ("", [TEXT], []),
])
def test_skips_and_repetitions_are_told_from_mistakes_of_the_recogniser(heard, skipped, repeated):
    assert runs(heard) == (skipped, repeated)


def test_what_the_text_itself_says_twice_is_no_repetition():
    text = "he said that that was that and that was all"
    assert runs(text, text) == ([], [])
    assert runs(text.replace("that that", "that that that"), text) == ([], ["that"])
    assert runs(text.replace("that that", "that"), text) == (["that"], [])


@given(st.integers(0, len(WORDS) - 1), st.integers(1, 6), st.integers(1, 3))
def test_any_run_said_again_is_counted_with_all_its_rounds(first, length, rounds):
    run = WORDS[first : first + length]
    heard = WORDS[: first + length] + run * rounds + WORDS[first + length :]
    found = find_differences(TEXT, " ".join(heard))
    assert not found.skipped
    assert sum(map(len, found.repeated)) == len(run) * rounds


@given(st.integers(0, len(WORDS) - 1), st.integers(1, 6))
def test_any_run_left_out_is_counted_with_all_its_words(first, length):
    found = find_differences(TEXT, " ".join(WORDS[:first] + WORDS[first + length :]))
    assert sum(map(len, found.skipped)) == len(WORDS[first : first + length])
    assert not found.repeated


def test_rates_are_per_hundred_words_of_the_whole_set():
    items = [MetricInput(text, 16_000, transcript=heard) for text, heard in (
        (TEXT, TEXT.replace("an hour", "an hour an hour").replace("heavy ", "")), ("hello world", "hello world"))]
    skipped, repeated = SkippedWords(), RepeatedWords()
    scores = [summarise(metric, [metric.measure(item) for item in items]) for metric in (skipped, repeated)]
    assert [score.value for score in scores] == [pytest.approx(100 / 17), pytest.approx(200 / 17)]
    assert scores[1].totals == {"repeated": 2, "runs": 1, "words": 17}
    assert repeated.measure(items[0]).details == {"runs": ["an hour"]}


def test_a_missing_output_skips_every_word_and_repeats_none_that_could_be_judged():
    item = MetricInput(TEXT, 0)
    assert SkippedWords().measure_failure(item).value == pytest.approx(100.0)
    assert RepeatedWords().measure_failure(item).value is None


@pytest.mark.parametrize("metric", [SkippedWords(), RepeatedWords()])
def test_a_text_without_words_has_no_rate_and_says_why(metric):
    measured = metric.measure(MetricInput(" um ", 16_000, transcript="anything"))
    assert measured.value is None and "reference text" in measured.reason


def test_what_is_too_long_to_be_aligned_in_memory_has_a_reason_and_what_nobody_spoke_is_skipped():
    text = "so it went on " * 1000
    measured = SkippedWords().measure(MetricInput(text, 16_000, transcript=text))
    assert measured.value is None and measured.reason == "4000 words of the text and 4000 heard are too many to align"
    assert SkippedWords().measure(MetricInput(text, 16_000, transcript="")).value == pytest.approx(100.0)
