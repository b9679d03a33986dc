"""What the trainers say before they train: an estimate, a probe that keeps nothing, a trial that changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from codec_runs import assert_same_state, codec_config, make_manifest, mreq_config
from tiny_chain import TINY, tiny_config
from tiny_tokens import tiny_codec

from halle_cli.app import app
from stages import mreq, train_ar, train_codec, train_nar
from stages.artifacts.storage import read_journal
from stages.codec.registry import export_codec
from stages.codec.residual import ResidualCodec
from stages.errors import MemoryFullError

TRAINERS = {"train-codec": train_codec, "mreq": mreq, "train-ar": train_ar, "train-nar": train_nar}
LANGUAGE_MODEL = ("training.validation_utterances=0", "training.log_every=1")


@pytest.fixture(scope="module")
def make_config(tmp_path_factory, halle_tokens):
    """Return a function that gives the settings of a trainer, at the smallest size."""
    root = tmp_path_factory.mktemp("planned")
    data = make_manifest(root / "data")
    export_codec(tiny_codec("valle"), root / "teacher.pt")
    store, codec = map(str, halle_tokens)

    def make(stage: str, out, steps: int, *overrides: str):
        if stage == "train-codec":
            return codec_config(data, out, steps, "training.log_every=1", *overrides)
        if stage == "mreq":
            return mreq_config(data, root / "teacher.pt", out, steps, "rates=[24,48]", "alphas=[1,2]",
                               "training.log_every=1", *overrides)
        options = {"tokens": store, "out": str(out), "training.steps": steps}
        options |= {"codec": codec} if stage == "train-nar" else {}
        return tiny_config(stage, *LANGUAGE_MODEL, *overrides, **options)

    return make


@pytest.mark.parametrize("stage", TRAINERS)
def test_a_run_that_tries_its_largest_batch_is_the_run_that_does_not(make_config, tmp_path, stage, monkeypatch):
    tried = []
    task = next(value for name, value in vars(TRAINERS[stage]).items() if name.endswith("Task") and name != "Task")
    largest = task.largest_batch
    monkeypatch.setattr(task, "largest_batch", lambda self, run: tried.append(largest(self, run)) or tried[-1])
    TRAINERS[stage].run(make_config(stage, tmp_path / "with", 3))
    assert tried and tried[0].size and "-O training.batch_" in tried[0].remedy
    TRAINERS[stage].run(make_config(stage, tmp_path / "without", 3, "training.try_largest_batch=false"))
    assert_same_state(tmp_path / "with", tmp_path / "without")
    timeless = [[{name: value for name, value in row.items() if name != "seconds_per_step"}
                 for row in read_journal(tmp_path / name / "metrics.jsonl")] for name in ("with", "without")]
    assert timeless[0] == timeless[1] and len(timeless[0]) >= 3


@pytest.mark.parametrize("stage, probed", [("train-codec", True), ("mreq", False), ("train-ar", True),
                                           ("train-nar", False)])
def test_a_plan_estimates_memory_speed_and_end_and_a_probe_keeps_nothing(make_config, tmp_path, stage, probed):
    told = TRAINERS[stage].plan(make_config(stage, tmp_path / "run", 50), probe=probed)
    found = told["estimate"]
    assert found["what"].startswith("estimate") and found["steps_left"] == 50
    assert found["trained_parameters"] >= told["parameters"], "the discriminator is trained too"
    names = [machine["name"] for machine in found["machines"]]
    assert names[0].startswith("this CPU") and names[1:] == ["1 x H100", "4 x H100", "16 x H100"]
    assert all(machine["days_to_finish"] > 0 and machine["audio_hours_a_day"] > 0 and machine["fits"]
               for machine in found["machines"])
    assert ("probe" in told) == probed and not (tmp_path / "run").exists()
    if probed:
        assert told["probe"]["seconds_a_step"] > 0 and told["probe"]["largest_batch"] == found["largest_batch"]
        assert told["probe"]["memory_gib"] > 0.05


def test_a_teacher_that_cannot_be_counted_leaves_the_plan_without_an_estimate(make_config, tmp_path, monkeypatch):
    def refuse(self, waveform):
        raise NotImplementedError("needs data")

    monkeypatch.setattr(ResidualCodec, "encode_latents", refuse)
    found = mreq.plan(make_config("mreq", tmp_path / "run", 50))["estimate"]
    assert found["what"].startswith("no estimate") and found["steps_left"] == 50 and "crop" in found["largest_batch"]


def test_the_command_probes_and_shows_settings_and_estimate(halle_tokens, tmp_path, capsys):
    size = [word for key in TINY["train-ar"] for word in ("-O", key)]
    with pytest.raises(SystemExit) as end:
        app(["train-ar", "--preset", "smoke", "--tokens", str(halle_tokens[0]), "--out", str(tmp_path / "run"), *size,
             "--device", "cpu", "--probe", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and not (tmp_path / "run").exists()
    assert told["plan"]["probe"]["seconds_a_step"] > 0 and told["settings"]["training"]["batch_tokens"] == 400
    assert told["plan"]["estimate"]["largest_batch"] == told["plan"]["probe"]["largest_batch"]


def test_a_continued_run_has_less_to_go(make_config, tmp_path):
    train_ar.run(make_config("train-ar", tmp_path, 2))
    assert train_ar.plan(make_config("train-ar", tmp_path, 5))["estimate"]["steps_left"] == 3


def test_too_little_memory_for_the_largest_utterances_is_told_in_tokens(make_config, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_ar.ARTask, "train_step", fail)
    said = r"before the first step: .* utterances? of \d+ tokens, \d+ in all"
    with pytest.raises(MemoryFullError, match=said) as caught:
        train_ar.run(make_config("train-ar", tmp_path, 2))
    assert "-O training.batch_tokens=200 (now 400)" in caught.value.hint
