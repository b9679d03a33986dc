from __future__ import annotations

import pytest

from stages.config.stage_configs import EvalConfig
from stages.metrics.curves import curves_of
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.speaker import SimilarityDrift

CONFIG = EvalConfig(bootstrap_samples=50)


def row(name, take=1, **systems):
    """A line of items.jsonl: of each system, (second, similarity) of its windows."""
    entries = {}
    for system, curve in systems.items():
        details = {"seconds": [second for second, _ in curve], "similarity": [value for _, value in curve]}
        entries[system] = {"metrics": {"speaker_similarity_drift": {"value": None, "reason": "", "details": details}}}
    return {"id": name, "take": take, "systems": entries}


def over_time(rows, *systems):
    known = {name: {"scores": {}} for name in systems}
    return curves_of([CorpusWER(), SimilarityDrift("resemblyzer")], rows, known, CONFIG)["similarity_over_time"]


def test_a_point_is_the_mean_of_the_outputs_that_have_a_window_in_its_five_seconds():
    rows = [row("a", ours=[(2.5, 0.9), (7.5, 0.5), (12.5, 0.3)]), row("b", ours=[(2.0, 0.7), (6.0, 0.4), (9.9, 0.2)])]
    points = over_time(rows, "ours")["systems"]["ours"]
    assert [point["x"] for point in points] == [2.5, 7.5, 12.5]
    assert [point["value"] for point in points] == pytest.approx([0.8, (0.5 + 0.3) / 2, 0.3])
    assert [point["denominator"] for point in points] == [2, 2, 1]
    assert points[0]["interval"][0] >= 0.7 and points[0]["interval"][1] <= 0.9
    assert points[2]["interval"] is None


def test_takes_of_one_text_are_no_further_texts_in_an_interval():
    takes = [row("a", take, ours=[(2.5, value)]) for take, value in ((1, 0.1), (2, 0.9))]
    assert over_time(takes, "ours")["systems"]["ours"][0]["interval"] is None


def test_a_system_without_windows_and_refused_utterances_have_no_curve():
    rows = [row("a", ours=[(2.5, 0.9)], theirs=[]), {"id": "b", "take": 1, "systems": {}}]
    curve = over_time(rows, "recordings", "ours", "theirs")
    assert list(curve["systems"]) == ["ours"] and curve["y_label"] == "SIM (resemblyzer)"
    assert curves_of([SimilarityDrift()], [row("a", theirs=[])], {"theirs": {"scores": {}}}, CONFIG) == {}
    assert curves_of([CorpusWER()], rows, {"ours": {"scores": {}}}, CONFIG) == {}
