"""The worked example of a metric in a file of its own, run as its page says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.audio.io import write_audio
from stages.metrics.base import Metric, MetricInput
from stages.metrics.registry import load_metric

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "new_metric"
RATE = 8000
NAME = "pauses:PauseShare"


def speech(*parts):
    """Noise and silence in turn, of these seconds."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 0.1, round(seconds * RATE)) if index % 2 == 0 else
                           np.zeros(round(seconds * RATE)) for index, seconds in enumerate(parts)]).astype(np.float32)


@pytest.fixture
def metric(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.delitem(sys.modules, "pauses", raising=False)
    return load_metric(NAME)


def measured(metric, waveform, prompt_seconds=0.0):
    return metric.measure(MetricInput("text", RATE, waveform, prompt_samples=round(prompt_seconds * RATE)))


def test_the_share_of_pauses_is_that_of_the_silence_that_was_put_in(metric):
    found = measured(metric, speech(1.0, 0.5, 2.0, 0.3, 1.2))
    assert found.value == pytest.approx(100 * 0.8 / 5.0) and found.details["pauses"] == pytest.approx([0.5, 0.3])
    assert measured(metric, speech(1.0, 0.1, 1.0)).value == 0.0  # too short to be one
    assert measured(metric, speech(1.0, 4.0, 1.0, 0.5, 0.5), 5.0).value == pytest.approx(25.0)  # the prompt's is not
    assert measured(metric, np.zeros(RATE, np.float32)).value is None


def test_halle_eval_measures_with_it_as_the_page_says(tmp_path):
    rows = []
    for index, pause in enumerate((0.5, 1.0)):
        write_audio(tmp_path / "set" / f"u{index}.wav", speech(1.0, 0.2, 1.0), RATE)
        write_audio(tmp_path / "system" / f"u{index}.wav", speech(1.0, pause, 1.0), RATE)
        rows.append({"id": f"u{index}", "audio": f"u{index}.wav", "duration": 2.2, "text": "some words"})
    manifest = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "set" / "manifest.jsonl").write_text(manifest, encoding="utf-8")
    command = [sys.executable, "-m", "halle_cli", "eval", "--set", "set", "--hypotheses", "system", "--out", "out",
               "--metric", NAME]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLE), str(ROOT)])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                          encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    score = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["systems"]["system"]["scores"]
    assert score["pause_share"]["value"] == pytest.approx(100 * 1.5 / 5.5) and score["pause_share"]["interval"]
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["systems"]["system"]["metrics"]["pause_share"]["details"]["pauses"] for row in items] == [[0.5], [1.0]]
    assert "pauses, %" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_page_names_the_example_and_every_part_of_a_metric():
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert "PYTHONPATH=examples/new_metric halle eval" in page and f"--metric {NAME}" in page
    told = {"name", "label", "unit", "digits", "better", "measure", "needs", "columns", "summarise", "measure_failure",
            "configured", "settings", "unavailable"}
    public = {name for name in (*vars(Metric), *Metric.__annotations__) if not name.startswith("_")}
    assert told == public - {"by_default"} and all(f"`{name}" in page for name in told)
