from __future__ import annotations

import json
import signal

import pytest
import torch
from codec_runs import assert_same_state, codec_config, make_manifest

from stages import train_codec
from stages.artifacts.checkpoint import load_checkpoint, load_trainer_state, newest_checkpoint
from stages.codec.registry import codec_fingerprint, load_codec
from stages.config.resolve import resolve
from stages.errors import InterruptedRunError, MissingModelError, UsageError
from stages.training import tracking


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ten"
    return out, train_codec.run(codec_config(data, out, 10))


def test_a_run_exports_the_codec_of_its_checkpoint(finished) -> None:
    out, result = finished
    assert result["codec"] == (out / "encodec.pt").as_posix() and result["steps"] == 10
    codec = load_codec(out / "encodec.pt")
    assert codec_fingerprint(codec) == load_checkpoint(out).fingerprint
    assert codec.quantizer.initialised
    assert codec.encode(torch.zeros(1, 1, 24_000))["rvq"].shape == (1, 8, 48)
    assert result["frame_rate"] == 48.0 and result["bits_per_second"] == codec.bits_per_second


def test_five_steps_and_five_more_equal_ten(finished, data, tmp_path) -> None:
    train_codec.run(codec_config(data, tmp_path / "run", 5))
    assert newest_checkpoint(tmp_path / "run").name == "step-00000005"
    torch.rand(3)
    train_codec.run(codec_config(data, tmp_path / "run", 10))
    assert_same_state(finished[0], tmp_path / "run")


def test_a_finished_run_is_left_alone_and_may_be_made_longer(data, tmp_path) -> None:
    out = tmp_path / "run"
    first = train_codec.run(codec_config(data, out, 2))
    written = (out / "encodec.pt").stat().st_mtime_ns
    again = train_codec.run(codec_config(data, out, 2))
    assert (again["steps"], again["checkpoint"]) == (2, first["checkpoint"])
    assert (out / "encodec.pt").stat().st_mtime_ns == written
    assert train_codec.run(codec_config(data, out, 3))["steps"] == 3
    assert codec_fingerprint(load_codec(out / "encodec.pt")) == load_checkpoint(out).fingerprint


def test_the_export_holds_averaged_weights_and_the_codebooks_as_they_are(finished) -> None:
    folder = newest_checkpoint(finished[0])
    state, _ = load_trainer_state(folder)
    exported = load_checkpoint(folder).tensors
    name = "autoencoder.encoder.model.0.conv.conv.bias"
    assert torch.equal(exported[name], state[f"average/{name}"])
    assert not torch.equal(exported[name], state[f"network/model/{name}"])
    name = "quantizer.codebooks.0.codebook"
    assert torch.equal(exported[name], state[f"network/model/{name}"])


def test_losses_and_measures_of_every_codebook_are_logged(finished) -> None:
    rows = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"l1", "mel", "adversarial", "feature", "commitment", "discriminator"} <= rows[0].keys()
    measured = next(row for row in rows if "validation.mel" in row)
    assert {f"validation.perplexity.rvq.{k}" for k in range(1, 9)} <= measured.keys()
    assert measured["validation.si_sdr"] is not None


def test_both_sides_are_updated_every_step(data, tmp_path) -> None:
    config = codec_config(data, tmp_path / "run", 1)
    train_codec.run(config)
    first, _ = load_trainer_state(newest_checkpoint(tmp_path / "run"))
    train_codec.run(codec_config(data, tmp_path / "run", 2))
    second, _ = load_trainer_state(newest_checkpoint(tmp_path / "run"))
    for network in ("model", "discriminator", "balancer"):
        names = [name for name in first if name.startswith(f"network/{network}/")]
        assert any(not torch.equal(first[name], second[name]) for name in names), network


def test_a_plan_describes_the_run_and_writes_nothing(data, tmp_path) -> None:
    found = train_codec.plan(codec_config(data, tmp_path / "run", 10))
    assert (found["train_utterances"], found["validation_utterances"], found["frame_rate"]) == (3, 1, 48.0)
    assert not (tmp_path / "run").exists()
    json.dumps(found)


def test_a_plan_notices_a_tracker_that_is_not_installed(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    config = codec_config(data, tmp_path / "run", 10)
    config = config.model_copy(update={"training": config.training.model_copy(update={"tracker": "wandb"})})
    with pytest.raises(MissingModelError, match="the package `wandb`"):
        train_codec.plan(config)


def test_the_paper_preset_has_the_papers_bit_rate(data, tmp_path) -> None:
    config = resolve("train-codec", "paper", options={"data": str(data), "out": str(tmp_path / "run")})
    assert train_codec.plan(config)["bits_per_second"] == 3840


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop_seconds": 0.02}, "expected crops of at least 0.043 s"),
        ({"crop_seconds": 9}, "the longest of `3` has 1.5 s"),
        ({"training.batch_size": 2, "training.accumulation": 4}, "got `2`"),
        ({"data": ""}, "expected a manifest folder after --data"),
    ],
)
def test_what_cannot_work_is_refused_before_training(options, message, data, tmp_path) -> None:
    config = resolve("train-codec", "smoke", options={"data": str(data), "out": str(tmp_path / "run"), **options})
    for function in (train_codec.plan, train_codec.run):
        with pytest.raises(UsageError, match=message):
            function(config)
    assert not (tmp_path / "run").exists()


def test_a_step_that_is_not_finite_is_skipped_and_leaves_no_trace(data, tmp_path, monkeypatch) -> None:
    batch = train_codec.CodecTask.batch

    def without_numbers(task, step, micro, run):
        found = batch(task, step, micro, run)
        return found._replace(waveforms=found.waveforms * torch.nan) if step == 2 else found

    monkeypatch.setattr(train_codec.CodecTask, "batch", without_numbers)
    train_codec.run(codec_config(data, tmp_path / "run", 5))
    state = load_trainer_state(newest_checkpoint(tmp_path / "run"))[0]
    assert [name for name, tensor in state.items() if not tensor.double().isfinite().all()] == []


def test_the_papers_commitment_weighs_as_in_audiocraft_against_the_sum_over_a_process_crops() -> None:
    codec, mreq = (resolve(stage, "paper") for stage in ("train-codec", "mreq"))
    assert codec.losses.commitment * codec.training.batch_size == pytest.approx(4)  # processes
    assert mreq.losses.commitment * mreq.training.batch_size == pytest.approx(1)


def test_validation_decodes_whole_utterances_and_a_recogniser_hears_them(data, tmp_path) -> None:
    heard = ("training.validation_utterances=2", "training.transcriber=pocketsphinx")
    train_codec.run(codec_config(data, tmp_path / "run", 1, *heard))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = {name.removeprefix("validation."): value for row in rows for name, value in row.items()}
    assert measured["mel_distance"] > 0 and measured["wer"] == 100.0
    assert -1 <= measured["stoi"] <= 1


def test_a_recogniser_that_there_is_not_is_refused_before_training(data, tmp_path) -> None:
    for begin in (train_codec.run, train_codec.plan):
        with pytest.raises(MissingModelError, match="`nobody`"):
            begin(codec_config(data, tmp_path / "run", 1, "training.transcriber=nobody"))
    assert newest_checkpoint(tmp_path / "run") is None


def test_a_run_stopped_before_its_codebooks_start_is_no_codec_yet_and_goes_on_bit_for_bit(
    data, tmp_path, monkeypatch
) -> None:
    settings = ("quantizer_start_step=3", "discriminator.start_step=4", "training.accumulation=2")
    started, start = [], train_codec.CodecTask.start_codebooks
    monkeypatch.setattr(train_codec.CodecTask, "start_codebooks",
                        lambda task, run: (started.append(run.step), start(task, run)))  # fmt: skip
    train_codec.run(codec_config(data, tmp_path / "whole", 6, *settings))
    assert started == [4], "once, before the first of the step's micro-batches"
    batch = train_codec.CodecTask.batch

    def stopping(task, step, micro, run):
        if (step, micro) == (2, 0):
            signal.raise_signal(signal.SIGTERM)
        return batch(task, step, micro, run)

    with monkeypatch.context() as patched, pytest.raises(InterruptedRunError):
        patched.setattr(train_codec.CodecTask, "batch", stopping)
        train_codec.run(codec_config(data, tmp_path / "parts", 6, *settings))
    with pytest.raises(UsageError, match="have not started") as caught:
        load_codec(tmp_path / "parts")
    assert caught.value.hint == "run the same `halle train-codec` command again to go on"
    train_codec.run(codec_config(data, tmp_path / "parts", 6, *settings))
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_codebooks_that_never_start_are_refused(data, tmp_path) -> None:
    with pytest.raises(UsageError, match="the codebooks never start: expected fewer than 5 steps"):
        train_codec.plan(codec_config(data, tmp_path / "run", 5, "quantizer_start_step=5"))
