"""Fillers in texts and in what was heard."""

from __future__ import annotations

import pytest

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import MetricInput
from stages.metrics.fillers import ENGLISH, Fillers, FillersInText, find_fillers
from stages.metrics.languages import normalise
from stages.metrics.registry import choose_metrics, why_not
from stages.metrics.summary import summarise


@pytest.mark.parametrize(("text", "expected"), [
    ("Um, so I, uh, left.", {"um": 1, "uh": 1}),
    ("UM... um—um!", {"um": 3}),
    ("You know, I mean, you know?", {"you know": 2, "i mean": 1}),
    ("Do you? I know what you mean.", {}),
    ("Mm-hmm, uh-huh, uh.", {"mm-hmm": 1, "uh-huh": 1, "uh": 1}),
    ("The umbrella of the album, her error", {}),
    ("", {}),
])
def test_fillers_are_found_whole_and_once(text, expected):
    assert find_fillers(text, ENGLISH) == expected


def test_the_normaliser_would_have_deleted_them():
    assert normalise("um, uh, hmm") == ""


def test_texts_and_what_is_heard_are_counted_apart_with_their_words():
    items = [MetricInput("Um, I uh left.", 16_000, transcript="um i left"),
             MetricInput("Hello there.", 16_000, transcript="hello uh there")]
    heard, written = (summarise(metric, [metric.measure(item) for item in items])
                      for metric in (Fillers(), FillersInText()))
    assert (heard.value, heard.totals) == (1.0, {"fillers": 2, "words": 6})
    assert (written.value, written.totals) == (1.0, {"fillers": 2, "words": 6})
    assert Fillers().measure(items[0]).details == {"fillers": {"um": 1}}


def test_an_output_that_is_missing_has_no_fillers_to_count_but_its_text_has():
    item = MetricInput("Um, hello.", 0)
    assert Fillers().measure_failure(item).value is None
    assert FillersInText().measure_failure(item).value == 1.0


def test_other_lists_are_counted_when_given_and_other_languages_need_one():
    german = Fillers().configured(EvalConfig(language="de"))
    assert "list" in why_not(german, {"transcript"})
    own = Fillers().configured(EvalConfig(language="de", fillers=("äh", "ähm", "sozusagen")))
    assert not why_not(own, {"transcript"})
    assert own.measure(MetricInput("Ähm, ja.", 16_000, transcript="ähm ja äh")).value == 2.0
    assert own.settings() != Fillers().settings()


def test_they_and_the_rates_of_skips_are_measured_wherever_somebody_listens():
    names = {metric.name for metric in choose_metrics((), {"transcript"})}
    assert {"wer", "skipped_words", "repeated_words", "fillers", "fillers_in_text"} <= names
    assert "cer" not in names
