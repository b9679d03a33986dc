from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.artifacts.manifest import Utterance
from stages.config.stage_configs import EvalConfig
from stages.metrics.cases import Case
from stages.metrics.text_limits import limits_of, limits_of_training


def case(text, seconds=None):
    recording = Utterance("a", Path("/a.wav"), 0.0, seconds, "ann", text, "test") if seconds else None
    return Case("a", text, recording=recording)


def refused(limits, text, seconds=None):
    return limits.applied(case(text, seconds)).refused


@pytest.mark.parametrize("setting, name, protocol, on", [
    ("auto", "test-90s", None, True), ("auto", "mine", None, False), ("auto", "mine", "halle", True),
    ("auto", "mine", "valle", False), ("none", "test-90s", None, False), ("curate", "mine", None, True),
])  # fmt: skip
def test_limits_are_on_for_the_papers_sets_and_protocol_or_when_asked_for(setting, name, protocol, on):
    config = EvalConfig.model_construct(text_limits=setting, protocol=protocol)
    assert (limits_of(config, name) is not None) == on


def test_the_limits_of_curate_are_characters_a_second():
    limits = limits_of(EvalConfig(text_limits="curate"), "mine")
    assert "2.0 to 35.0 characters a second, got 1.5, as in what `halle curate` takes" in refused(limits, "abc", 2.0)
    assert "got 36.0" in refused(limits, "a" * 36, 1.0)
    assert not refused(limits, "a" * 35, 1.0) and not refused(limits, "abcd", 2.0)


def test_a_text_without_a_recording_has_no_rate():
    assert not refused(limits_of(EvalConfig(text_limits="curate"), "mine"), "a" * 1000)


def test_the_limits_of_a_training_set_are_its_extremes(tmp_path):
    texts = {"a" * 10: 1.0, "a" * 30: 2.0, "a" * 99: 1.0}
    rows = [{"id": str(number), "audio": "a.wav", "duration": seconds, "text": text,
             "split": "train" if len(text) < 99 else "test"} for number, (text, seconds) in enumerate(texts.items())]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    limits = limits_of_training(str(tmp_path))
    assert (limits.rates, limits.lengths) == ((10.0, 15.0), (10, 30))
    assert "expected a text of 10 to 30 characters, got 31" in refused(limits, "a" * 31, 2.5)
    assert "expected a text of 10 to 30 characters, got 9" in refused(limits, "a" * 9)
    assert "10.0 to 15.0 characters a second, got 20.0" in refused(limits, "a" * 20, 1.0)
    assert not refused(limits, "a" * 30, 2.0) and not refused(limits, "a" * 30)


def test_what_was_refused_before_keeps_its_reason_and_no_text_has_no_length():
    limits = limits_of(EvalConfig(text_limits="curate"), "mine")
    assert limits.applied(Case("a", "a", refused="before")).refused == "before"
    assert not refused(limits, "", 1.0)
