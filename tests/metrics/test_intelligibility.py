from __future__ import annotations

import jiwer
import numpy as np
import pytest

from stages.metrics.base import MetricInput
from stages.metrics.intelligibility import CorpusWER, MeanWER, WordErrors, count_word_errors, reference_problem
from stages.metrics.summary import summarise

LONG = "one two three four five six seven eight nine apple"


def heard(text, transcript):
    return MetricInput(text, 16_000, np.ones(10, np.float32), transcript=transcript)


@pytest.mark.parametrize(
    ("reference", "transcript", "substitutions", "insertions", "deletions"),
    [
        ("the cat sat down", "the cat sat down", 0, 0, 0),
        ("the cat sat down", "the bat sat down", 1, 0, 0),
        ("the cat sat down", "the cat down", 0, 0, 1),
        ("the cat sat down", "the cat sat right down", 0, 1, 0),
        ("the cat sat down", "", 0, 0, 4),
        ("the cat", "a dog ran over there", 2, 3, 0),
    ],
)
def test_edits_are_counted_as_by_hand(reference, transcript, substitutions, insertions, deletions):
    errors = count_word_errors(reference, transcript)
    assert (errors.substitutions, errors.insertions, errors.deletions) == (substitutions, insertions, deletions)
    assert errors.words == len(reference.split())
    assert errors.rate == pytest.approx(jiwer.wer(reference, transcript or " "))


def test_both_sides_are_normalised_in_the_same_way():
    assert count_word_errors("It's twenty-one, Mr. Smith!", "it is 21 mister smith").total == 0
    assert count_word_errors("um the colour", "the color").total == 0
    assert count_word_errors("and then...", "and then").words == 2


def test_spaces_keep_words_apart():
    assert count_word_errors("a b c d", "a b c x").rate == pytest.approx(0.25)


@pytest.mark.parametrize("text", ["", "  ", "um", "...", "[music]"])
def test_a_reference_without_words_is_refused_with_a_reason(text):
    assert reference_problem(text)
    with pytest.raises(ValueError, match=reference_problem(text)):
        count_word_errors(text, "anything")
    measured = CorpusWER().measure(heard(text, "anything"))
    assert (measured.value, measured.reason) == (None, reference_problem(text))


def test_a_missing_output_is_all_its_words_deleted_and_stays_in_the_denominator():
    metric = CorpusWER()
    measurements = [
        metric.measure(heard(LONG, LONG)),
        metric.measure_failure(MetricInput(LONG, 16_000)),
    ]
    assert measurements[1].value == pytest.approx(100.0)
    assert measurements[1].numbers["deletions"] == measurements[1].numbers["words"]
    score = summarise(metric, measurements)
    assert (score.denominator, score.total) == (2, 2)
    assert score.value == pytest.approx(50.0)


def test_the_corpus_rate_weighs_words_and_the_mean_weighs_utterances():
    items = [heard("the big cat sat down on a mat there today", "the big cat sat down on a mat there today"),
             heard("hello world", "yellow")]  # fmt: skip
    corpus = summarise(CorpusWER(), [CorpusWER().measure(item) for item in items])
    mean = summarise(MeanWER(), [MeanWER().measure(item) for item in items])
    assert corpus.value == pytest.approx(100 * 2 / 12)
    assert mean.value == pytest.approx(50.0)
    assert corpus.totals == {"substitutions": 1, "insertions": 0, "deletions": 1, "words": 12}


def test_the_rate_may_exceed_one():
    assert WordErrors(1, 4, 0, 2).rate == 2.5
