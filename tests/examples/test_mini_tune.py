"""The mini recipe compares settings of sampling: every trial is spoken and heard, and the best is said."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from stages.artifacts.storage import write_json

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "mini" / "tune.py"


@pytest.fixture
def tune():
    spec = importlib.util.spec_from_file_location("mini_tune", SCRIPT)
    module = sys.modules["mini_tune"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_trial_is_an_evaluation_of_its_own_and_the_best_is_named(tune, tmp_path, monkeypatch, capsys):
    asked = []

    def run(config):
        asked.append(config)
        drawn = config.sampling
        error = 1 + abs(drawn.guidance - 2.0) + abs(drawn.nar_guidance - 2.0) + abs(drawn.mean_temperature - 1)
        score = {"scores": {"wer": {"value": error, "interval": [error - 0.1, error + 0.1]}}}
        write_json(Path(config.out) / "scores.json", {"systems": {"recordings": {"scores": {}}, "m": score}})

    monkeypatch.setattr(tune.evaluate, "run", run)
    monkeypatch.setattr(sys, "argv", ["tune.py", "--set", "data", "--model", "m", "--out", str(tmp_path)])
    tune.main()
    assert len({config.out for config in asked}) == len(tune.TRIALS) == len(set(tune.TRIALS))
    assert [tuple(getattr(c.sampling, name) for name in tune.NAMES) for c in asked] == list(tune.TRIALS)
    said = capsys.readouterr().out
    best = ("temperature=0.5", "guidance=2", "nar_guidance=2", "nar_mean=true", "mean_temperature=1")
    assert "best: " + " ".join(f"--sampling {setting}" for setting in best) in said
    assert (tmp_path / "tuning.md").read_text(encoding="utf-8").count("\n") == 2 + len(tune.TRIALS)
    assert "| 1 | 1 | 1 | false | 0 | 4.0 (3.9 to 4.1) |" in said
