from __future__ import annotations

import json

import pytest
import torch
from codec_runs import assert_same_state, codec_config, make_manifest, mreq_config

from stages import mreq, train_codec
from stages.artifacts.checkpoint import list_checkpoints, load_checkpoint
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.registry import codec_fingerprint, load_codec, load_teacher
from stages.errors import DivergedError, UsageError
from stages.training.loop import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "teacher"
    train_codec.run(codec_config(data, out, 3))
    return out / "encodec.pt"


@pytest.fixture(scope="module")
def finished(data, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ten"
    return out, mreq.run(mreq_config(data, teacher, out, 10))


def make_task(config):
    process = Run(config)
    return mreq.MReQTask(config, mreq._open(config), process), process


def test_a_run_exports_the_multi_resolution_codec(finished, teacher) -> None:
    out, result = finished
    codec = load_codec(out / "mreq.pt")
    assert codec_fingerprint(codec) == load_checkpoint(out).fingerprint
    assert [spec.frame_rate for spec in codec.transmitted] == [8.0, 16.0, 24.0, 48.0]
    assert result["bits_per_second"] == result["teacher_bits_per_second"] == 8 * 48 * 4  # 16 entries: 4 bits
    assert load_checkpoint(out).parents["teacher"] == codec_fingerprint(load_codec(teacher))
    assert all(quantizer.initialised for quantizer in codec.mrvq.quantizers().values())


def test_five_steps_and_five_more_equal_ten(finished, data, teacher, tmp_path) -> None:
    mreq.run(mreq_config(data, teacher, tmp_path / "run", 5))
    torch.rand(3)
    mreq.run(mreq_config(data, teacher, tmp_path / "run", 10))
    assert_same_state(finished[0], tmp_path / "run")


def test_distillation_losses_and_their_gradients_at_h_are_logged(finished) -> None:
    rows = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("fld", "hsr", "commitment", "gradient_at_h.nac", "gradient_at_h.fld", "gradient_at_h.hsr",
                 "gradient_at_h.commitment"):  # fmt: skip
        assert rows[0][name] > 0, name
    measured = next(row for row in rows if "validation.mel" in row)
    assert {f"validation.perplexity.quant1.{k}" for k in range(1, 7)} <= measured.keys()


def test_the_teacher_stays_as_it_was(data, teacher, tmp_path) -> None:
    task, process = make_task(mreq_config(data, teacher, tmp_path / "run", 10))
    before = {name: tensor.clone() for name, tensor in task.teacher.state_dict().items()}
    process.begin_step(1)
    task.prepare(process)
    task.codec.train()
    task.train_step(task.batch(1, 0, process), process)
    for optimizer in task.optimizers.values():
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in task.teacher.parameters())
    own = dict(load_teacher(teacher).autoencoder.named_parameters())
    moved = [name for name, p in task.codec.autoencoder.named_parameters() if not torch.equal(p, own[name])]
    assert len(moved) == len(own), "the student's encoder and decoder train on"


def test_at_first_only_the_quantizer_learns_when_told_so(data, teacher, tmp_path) -> None:
    config = mreq_config(data, teacher, tmp_path / "run", 10, "frozen_steps=4")
    mreq.run(config.model_copy(update={"training": config.training.model_copy(update={"steps": 4})}))
    frozen = load_codec(tmp_path / "run")
    own = load_teacher(teacher)
    for name, tensor in frozen.autoencoder.state_dict().items():
        assert torch.equal(tensor, own.autoencoder.state_dict()[name]), name
    fresh = MultiResolutionCodec.from_teacher(own, config.mrvq).state_dict()
    found = frozen.mrvq.state_dict()
    moved = [name for name, tensor in found.items() if not torch.equal(tensor, fresh[f"mrvq.{name}"])]
    assert any("sub_encoder" in name for name in moved) and any("codebook" in name for name in moved)
    mreq.run(config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    decoded = {row["step"]: "mel" in row for row in rows if "fld" in row}
    assert decoded[4] is False and decoded[10] is True
    thawed = load_codec(tmp_path / "run").autoencoder.state_dict()
    assert not all(torch.equal(tensor, thawed[name]) for name, tensor in own.autoencoder.state_dict().items())


def test_a_run_resumed_before_the_autoencoder_trains_equals_one_that_was_not(data, teacher, tmp_path) -> None:
    settings = ("frozen_steps=3", "discriminator.warmup_steps=1", "training.accumulation=2", "training.log_every=1")
    mreq.run(mreq_config(data, teacher, tmp_path / "whole", 6, *settings))
    for steps in (2, 6):
        mreq.run(mreq_config(data, teacher, tmp_path / "parts", steps, *settings))
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    joined = {row["step"]: ("discriminator" in row, "adversarial" in row) for row in rows if "fld" in row}
    assert joined[3] == (False, False) and joined[5] == (True, True)
    assert joined[4] == (True, False), "it has its warm-up when it joins, however long the autoencoder rested"


def test_each_pair_and_each_block_has_its_own_weight(data, teacher, tmp_path) -> None:
    config = mreq_config(data, teacher, tmp_path / "run", 10, "losses.fld=[1, 2, 3, 4]", "losses.hsr=0.5")
    assert mreq.fld_weights(config) == (1, 2, 3, 4)
    assert mreq.hsr_weights(config) == (0.5, 0.5, 0.5)


def test_doubling_a_weight_doubles_its_term(data, teacher, tmp_path) -> None:
    terms = []
    for weight in (1, 2):
        task, process = make_task(mreq_config(data, teacher, tmp_path / "run", 10, f"losses.fld={weight}"))
        process.begin_step(1)
        task.codec.eval()
        terms.append(task.train_step(task.batch(1, 0, process), process))
    torch.testing.assert_close(terms[1]["fld"], 2 * terms[0]["fld"])
    torch.testing.assert_close(terms[1]["hsr"], terms[0]["hsr"])


def test_another_bit_rate_than_the_teachers_is_computed_and_warned_about(data, teacher, tmp_path, caplog) -> None:
    blocks = [[6, 1, 3, 1], [3, 2, 3, 2], [2, 2, 2, 2], [1, 3, 0, 0]]
    halved = [dict(zip(("stride", "pre", "quant", "post"), block, strict=True)) for block in blocks]
    found = mreq.plan(mreq_config(data, teacher, tmp_path / "run", 10, f"mrvq.blocks={json.dumps(halved)}"))
    assert (found["bits_per_second"], found["teacher_bits_per_second"]) == (2640 * 0.4, 1536)
    assert any("differs from the teacher's" in message for message in caplog.messages)
    assert not (tmp_path / "run").exists()


def test_an_ignored_lowest_block_stops_the_run(data, teacher, tmp_path) -> None:
    task, process = make_task(mreq_config(data, teacher, tmp_path / "run", 10))
    task.codec.mrvq.blocks[0].post.codebooks[0].codebook[:] = 0.1  # whatever its codes are, they say nothing
    task.codec.eval()
    process.begin_step(5000)
    assert task.validate(process)["probe.block_1_averaged.mel_ratio"] == pytest.approx(1)
    with pytest.raises(DivergedError, match="the 8 Hz block is ignored"):
        task.validate(process)


def test_a_run_stopped_for_an_ignored_block_goes_on_when_told_to(data, teacher, tmp_path) -> None:
    settings = ("training.validate_every=2", "training.save_every=2", "ignored_block.from_step=1",
                "ignored_block.least_mel_rise=1000")  # fmt: skip
    for _ in range(2):
        with pytest.raises(DivergedError, match="expected the mel distance to rise by at least 100000"):
            mreq.run(mreq_config(data, teacher, tmp_path / "run", 10, *settings))
        assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [2], "the second validation is at step 4"
    anyway = mreq_config(data, teacher, tmp_path / "run", 6, *settings, "ignored_block.stop=false")
    assert mreq.run(anyway)["steps"] == 6


def test_the_probe_is_told_and_every_codebook_is_logged(finished) -> None:
    out, result = finished
    assert {f"probe.only_first_{k}.mel" for k in range(1, 5)} <= result.keys()
    assert {f"probe.block_{k}_averaged.mel_ratio" for k in range(1, 5)} <= result.keys()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    books = {f"{name}.{index + 1}" for name, quantizer in load_codec(out / "mreq.pt").quantizers().items()
             for index in range(quantizer.num_codebooks)}
    figures = {f"{what}.{book}" for what in ("usage", "perplexity", "revived") for book in books}
    assert len(books) == 29 and figures <= rows[0].keys()
    measured = next(row for row in rows if "validation.mel" in row)
    assert {f"validation.{name}" for name in figures} <= measured.keys()
    assert measured["validation.probe.first_block_explains"] == pytest.approx(result["probe.first_block_explains"],
                                                                              abs=1e-5)  # fmt: skip
    counts = [row["revived.quant1.1"] for row in rows if "revived.quant1.1" in row]
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    "override, message",
    [
        ("losses.fld=[1, 2]", r"student-teacher pair \(4\) in `losses.fld`, got `2`"),
        ("losses.hsr=[1, 2, 3, 4]", r"block but the last \(3\) in `losses.hsr`, got `4`"),
        ("mrvq.blocks=[{stride: 6, pre: 1, quant: 6, post: 1}, {stride: 1, pre: 9, quant: 0, post: 0}]",
         "a teacher of 10 codebooks, got one of `8`"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(override, message, data, teacher, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        mreq.run(mreq_config(data, teacher, tmp_path / "run", 10, override))


def test_a_multi_resolution_teacher_is_refused(finished, data, tmp_path) -> None:
    with pytest.raises(UsageError, match="already made multi-resolution"):
        mreq.run(mreq_config(data, finished[0], tmp_path / "run", 10))


def test_validation_decodes_whole_utterances(data, teacher, tmp_path) -> None:
    mreq.run(mreq_config(data, teacher, tmp_path / "run", 1, "training.validation_utterances=1"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = {name for row in rows for name in row}
    assert {"validation.mel_distance", "validation.stoi"} <= measured and "validation.wer" not in measured
