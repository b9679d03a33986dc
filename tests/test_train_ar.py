import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import check_two_processes

from stages import train_ar
from stages.config.models import ARConfig, TransformerConfig
from stages.config.stage_configs import LMTrainingConfig, TrainARConfig
from stages.data.tokens import open_tokens
from stages.errors import UsageError
from stages.training.loop import Run

TINY = ARConfig(transformer=TransformerConfig(dim=32, num_heads=2, num_layers=2, ffn_dim=64, dropout=0.1))


def make_config(tokens, out, steps=4, **changes):
    training = {"steps": steps, "learning_rate": 3e-3, "batch_tokens": 400, "validate_every": 1000, "save_every": 5,
                "log_every": 1, "schedule_steps": 10}  # fmt: skip
    training.update(changes.pop("training", {}))
    return TrainARConfig(
        tokens=str(tokens), out=str(out), device="cpu", model=TINY, training=LMTrainingConfig(**training), **changes
    )


def weights(result):
    return load_file(Path(result["checkpoint"]) / "model.safetensors")


def logged(out):
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(out):
    return [row["loss"] for row in logged(out) if "loss" in row]


def test_training_lowers_the_loss_and_leaves_what_synthesis_needs(halle_tokens, tmp_path):
    result = train_ar.run(make_config(halle_tokens[0], tmp_path / "ar", steps=30, training={"save_every": 30}))
    found = losses(tmp_path / "ar")
    assert sum(found[-5:]) < 0.95 * sum(found[:5])
    described = json.loads((Path(result["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    data = open_tokens(halle_tokens[0], None)
    assert described["architecture"]["system"] == "halle"
    assert described["architecture"]["model"]["num_codebooks"] == 2
    assert described["architecture"]["model"]["codebook_size"] == 16
    assert described["architecture"]["max_frames"] == max(len(data.store[i].codes["quant1"]) for i in data.train)
    assert described["parents"]["codec"] == data.store.codec_fingerprint
    assert {"validation_loss", "validation_accuracy"} <= set(result) and not any("." in key for key in result)
    assert {"validation.loss.codebook2", "validation.accuracy.codebook1"} <= set(logged(tmp_path / "ar")[-1])


def test_five_and_five_steps_equal_ten_bit_for_bit_and_fifteen_go_on(halle_tokens, tmp_path):
    whole = train_ar.run(make_config(halle_tokens[0], tmp_path / "whole", steps=10))
    train_ar.run(make_config(halle_tokens[0], tmp_path / "halves", steps=5))
    halves = train_ar.run(make_config(halle_tokens[0], tmp_path / "halves", steps=10))
    first, second = weights(whole), weights(halves)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    again = train_ar.run(make_config(halle_tokens[0], tmp_path / "whole", steps=10))
    assert again["steps"] == 10 and len(losses(tmp_path / "whole")) == 10
    assert train_ar.run(make_config(halle_tokens[0], tmp_path / "whole", steps=15))["steps"] == 15


def test_halle_starts_from_valle_and_reports_what_is_new(halle_tokens, valle_tokens, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="halle")
    valle = train_ar.run(make_config(valle_tokens[0], tmp_path / "valle", steps=2))
    assert valle["system"] == "valle"
    config = make_config(halle_tokens[0], tmp_path / "halle", steps=1, init=str(tmp_path / "valle"))
    halle = train_ar.run(config)
    assert halle["init"]["new"] == 3  # table, and weight and bias of the head, of stream 2
    assert halle["init"]["unused"] == halle["init"]["mismatched"] == 0
    log = (tmp_path / "halle" / "log.txt").read_text(encoding="utf-8")
    assert "3 new: audio_embeddings.1.weight, heads.1.weight, heads.1.bias" in log


@pytest.mark.parametrize("batch_tokens", [20, 400])
def test_two_processes_give_the_gradient_of_one(halle_tokens, tmp_path, batch_tokens):
    """20 tokens: batches of one utterance, so that one process has nothing to do."""
    config = make_config(halle_tokens[0], tmp_path, training={"batch_tokens": batch_tokens})
    data = open_tokens(halle_tokens[0], None)
    task = train_ar.ARTask(config, data, None, {})
    task.model.eval()  # dropout draws by process
    check_two_processes(task, Run(config))


def test_bf16_gives_about_the_losses_of_fp32(halle_tokens, tmp_path):
    train_ar.run(make_config(halle_tokens[0], tmp_path / "fp32", steps=3))
    train_ar.run(make_config(halle_tokens[0], tmp_path / "bf16", steps=3, training={"precision": "bf16"}))
    full, half = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert full != half and full == pytest.approx(half, rel=0.02)


def test_the_plan_checks_the_inputs_and_writes_nothing(halle_tokens, tmp_path):
    planned = train_ar.plan(make_config(halle_tokens[0], tmp_path / "ar"))
    assert planned["system"] == "halle" and planned["train_utterances"] == 9 and planned["parameters"] > 0
    assert not (tmp_path / "ar").exists()
    with pytest.raises(UsageError, match="expected a finished token store"):
        train_ar.plan(make_config(tmp_path / "nothing", tmp_path / "ar"))
    with pytest.raises(UsageError, match="expected a run or checkpoint folder"):
        train_ar.plan(make_config(halle_tokens[0], tmp_path / "ar", init=str(tmp_path / "nothing")))
