"""The measurement finds what was put into results on disk."""

from __future__ import annotations

import json

import pytest
from curation import FIGURES, Truth, kept_utterances, measure, speed_table, throughput, to_table, word_error_rate

from stages.speech.spans import Turn

CLIPS = [
    {"start": 0.0, "end": 4.0, "speaker": "ann", "text": "one two",
     "words": [{"text": "one", "start": 0.5, "end": 1.5}, {"text": "two", "start": 2.0, "end": 3.5}]},
    {"start": 5.0, "end": 10.0, "speaker": "bob", "text": "three",
     "words": [{"text": "three", "start": 5.5, "end": 9.5}]},
]
TRUTH = Truth("voices-00", 10.0, [Turn(0.5, 3.5, "ann"), Turn(5.5, 9.5, "bob")], CLIPS)


@pytest.fixture
def out(tmp_path):
    def put(step, **found):
        path = tmp_path / "work" / step / "voices-00.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {"seconds": 10.0, "took": 2.0, "cpu": 1.0, "first": False}
        path.write_text(json.dumps({**known, **found}), encoding="utf-8")

    put("diarize", turns=[[0.5, 3.5, "A"], [5.5, 7.5, "A"], [7.5, 9.5, "B"]])
    put("cut", utterances=[{"start": 0.2, "end": 4.0, "text": "one to"}, {"start": 4.0, "end": 7.0, "text": "tree"}],
        dropped=[{"start": 0.0, "end": 0.2}, {"start": 7.5, "end": 10.0}])
    return tmp_path


def test_turns_and_utterances_are_compared_with_the_truth(out):
    scores = measure([TRUTH], out)["voices"]
    assert scores.exact.rate == pytest.approx(2.0 / 7.0) and scores.right_count == 1
    assert (scores.utterances, scores.cuts_in_words, scores.two_speakers) == (2, 1, 0)
    assert scores.unaccounted == pytest.approx(0.5) and scores.kept_seconds == pytest.approx(6.8)
    assert scores.said == ["one two", ""] and scores.word_error_rate == pytest.approx((1 + 1) / 2)


def test_the_manifest_counts_once_there_is_one(out):
    row = {"source": "sub/voices-00.flac", "source_start": 2.0, "duration": 5.0, "text": "Two three!"}
    other = {"source": "voices-01.flac", "source_start": 0.0, "duration": 5.0, "text": "other"}
    (out / "manifest.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(other)}\n", encoding="utf-8")
    assert kept_utterances(TRUTH, out) == [{"start": 2.0, "end": 7.0, "text": "Two three!"}]
    scores = measure([TRUTH], out)["voices"]
    assert (scores.utterances, scores.two_speakers, scores.written) == (1, 1, ["two three"])


def test_steps_that_were_not_done_are_left_out(tmp_path):
    scores = measure([TRUTH], tmp_path)
    assert scores["voices"].utterances == 0 and scores["voices"].exact.missed == 7.0
    assert throughput([TRUTH], tmp_path) == {}
    assert "utterances holding two speakers | 5 % |  |" in to_table(scores)


def test_speed_is_of_the_recordings_after_the_first(out):
    assert throughput([TRUTH], out) == {"diarize": (5.0, 10.0), "cut": (5.0, 10.0)}
    first = {"seconds": 10.0, "took": 98.0, "cpu": 97.0, "first": True}
    (out / "work" / "cut" / "voices-01.json").write_text(json.dumps(first), encoding="utf-8")
    assert throughput([TRUTH, Truth("voices-01", 10.0, [], [])], out)["cut"] == (5.0, 10.0)
    assert "| cut |  | 5.0 | 10.0 |" in speed_table(throughput([TRUTH], out)).splitlines()


def test_words_where_nothing_was_said_are_errors():
    assert word_error_rate(["a b c", ""], ["a c", "d"]) == pytest.approx(2 / 3)


def test_the_table_has_a_column_a_kind_and_one_for_all(out):
    scores = measure([TRUTH, Truth("an4-00", 5.0, [Turn(0.0, 5.0, "cat")], [])], out)
    lines = to_table(scores).splitlines()
    assert lines[0] == "| figure | at most | voices | an4 | all |"
    assert len(lines) == 2 + len(FIGURES) and {line.count("|") for line in lines} == {6}
    assert "| diarization error rate, no collar | 25 % | 28.6% | 100.0% | 58.3% |" in lines
