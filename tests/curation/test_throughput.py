"""How fast steps are told to be: of what was computed, without loading the model, and not of what had nothing to do."""

from __future__ import annotations

from stages.config.stage_configs import CurateConfig
from stages.curation.throughput import MEASURED, estimate, hours_per_hour
from stages.curation.work import Head


def done(seconds: float, took: float, first: bool = False) -> Head:
    return Head("key", "", seconds, took, first)


def test_a_processs_first_recording_counts_only_when_there_is_no_other():
    assert hours_per_hour([done(60, 50, first=True), done(60, 2), done(30, 1)]) == 30
    assert hours_per_hour([done(60, 50, first=True)]) == 1.2
    assert hours_per_hour([]) is None


def test_what_had_nothing_to_do_has_no_speed():
    assert hours_per_hour([done(3600, 0.002), done(3600, 0.001)]) is None
    assert hours_per_hour([done(3600, 0.0)]) is None


def test_what_is_written_is_estimated_until_it_is_there():
    config = CurateConfig(source="x", out="y")
    told = {step["step"]: step for step in estimate(10.0, {"check": [done(36_000, 36)], "write": []}, config)["steps"]}
    assert (told["check"]["hours_left"], told["check"]["measured"]) == (0.0, "here")
    assert told["write"]["hours_left"] == round(10 / MEASURED["write"], 2)
