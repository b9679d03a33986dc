"""`halle train-codec --arch speechtokenizer`, and what the next stages make of its codec."""

from __future__ import annotations

import json

import pytest
import torch
from codec_runs import assert_same_state, codec_config, make_manifest, mreq_config
from tiny_hubert import DIM, save_hubert

from stages import mreq, tokenize_corpus, train_codec
from stages.artifacts.checkpoint import load_checkpoint, load_trainer_state, newest_checkpoint
from stages.codec.encodec import BidirectionalLSTM
from stages.codec.registry import load_codec
from stages.config.resolve import resolve
from stages.errors import MissingModelError, UsageError
from stages.speech.ssl import load_hubert


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    return save_hubert(tmp_path_factory.mktemp("hubert"))


@pytest.fixture(scope="module")
def config(data, hubert):
    def make(out, steps, *overrides):
        return codec_config(data, out, steps, "codec.arch=speechtokenizer", f"semantic.model={hubert}", *overrides)

    return make


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ten"
    return out, train_codec.run(config(out, 10))


def test_a_run_exports_a_speech_tokenizer_without_what_taught_it(finished) -> None:
    out, result = finished
    assert result["codec"] == (out / "speechtokenizer.pt").as_posix()
    codec = load_codec(out / "speechtokenizer.pt")
    assert codec.config.arch == "speechtokenizer"
    assert isinstance(codec.autoencoder.encoder.model[-3], BidirectionalLSTM)
    state, _ = load_trainer_state(newest_checkpoint(out))
    assert state["network/semantic/projection.weight"].shape == (DIM, 16)
    assert {name.split("/")[1] for name in state if name.startswith("network/")} == \
        {"model", "discriminator", "balancer", "semantic"}


def test_the_teachers_fingerprint_is_a_parent_and_another_teacher_is_refused(finished, config, hubert, tmp_path):
    out, _ = finished
    assert load_checkpoint(out).parents["semantic"] == load_hubert(str(hubert)).fingerprint
    other = save_hubert(tmp_path / "other", normalize=False)
    with pytest.raises(UsageError, match="semantic"):
        train_codec.run(config(out, 12, f"semantic.model={other}"))


def test_losses_and_their_gradients_at_the_latents_are_logged(finished) -> None:
    rows = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert 0.31 < rows[0]["semantic"] < 1.32 and rows[0]["commitment"] > 0
    for name in ("nac", "commitment", "semantic"):
        assert rows[0][f"gradient_at_latents.{name}"] > 0


def test_five_steps_and_five_more_equal_ten(finished, config, tmp_path) -> None:
    train_codec.run(config(tmp_path / "run", 5))
    torch.rand(3)
    train_codec.run(config(tmp_path / "run", 10))
    assert_same_state(finished[0], tmp_path / "run")


def test_the_weight_of_the_loss_changes_the_encoder(finished, config, tmp_path) -> None:
    train_codec.run(config(tmp_path / "run", 10, "losses.semantic=0"))
    ours, theirs = (load_checkpoint(run).tensors for run in (finished[0], tmp_path / "run"))
    name = "autoencoder.encoder.model.0.conv.conv.bias"
    assert not torch.equal(ours[name], theirs[name])


def test_a_run_learns_what_its_teacher_says(config, tmp_path) -> None:
    train_codec.run(config(tmp_path / "run", 25, "losses.semantic=5", "training.log_every=5",
                           "discriminator.start_step=100"))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    values = [row["semantic"] for row in rows if "semantic" in row]
    assert values[-1] < values[0] - 0.05


def test_before_there_are_codebooks_nothing_is_taught(config, tmp_path) -> None:
    train_codec.run(config(tmp_path / "run", 4, "quantizer_start_step=2", "training.log_every=1"))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert ["semantic" in row for row in rows if "l1" in row] == [False, False, True, True]


def test_mreq_and_tokenize_take_it_as_they_take_any_codec(finished, data, tmp_path) -> None:
    out, _ = finished
    result = mreq.run(mreq_config(data, out / "speechtokenizer.pt", tmp_path / "mreq", 2))
    student = load_codec(result["codec"])
    assert student.config.arch == "speechtokenizer"
    assert isinstance(student.autoencoder.encoder.model[-3], BidirectionalLSTM)
    options = {"codec": result["codec"], "data": str(data), "out": str(tmp_path / "tokens"), "device": "cpu"}
    tokenize_corpus.run(resolve("tokenize", "smoke", options=options))
    assert (tmp_path / "tokens/store.json").is_file()


@pytest.mark.parametrize(
    "override, error, message",
    [
        ("semantic.model=no/hubert", MissingModelError, "no whole HuBERT at `no/hubert`"),
        ("semantic.layer=3", UsageError, "a layer from 0 to 2, got `3`"),
        ("codec.seanet.ratios=[8, 5, 4, 2]", UsageError, "nearly 50 frames a second.* got one of `75`"),
    ],
)
def test_what_cannot_be_taught_is_refused_before_training(override, error, message, config, tmp_path) -> None:
    for function in (train_codec.plan, train_codec.run):
        with pytest.raises(error, match=message):
            function(config(tmp_path / "run", 10, override))
    assert not (tmp_path / "run").exists()


def test_other_codecs_need_no_teacher(data, tmp_path) -> None:
    found = train_codec.plan(codec_config(data, tmp_path / "run", 1, "semantic.model=no/hubert"))
    assert found["writes"][1].endswith("encodec.pt")
