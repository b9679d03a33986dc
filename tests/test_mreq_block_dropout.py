"""`halle mreq` that goes on from its own codec, and whose decoder learns to speak from the first blocks alone."""

from __future__ import annotations

import json

import pytest
import torch
from codec_runs import assert_same_state, codec_config, make_manifest, mreq_config

from stages import mreq, train_codec
from stages.artifacts.checkpoint import load_checkpoint
from stages.codec.dropout import draw_depths, sums_at
from stages.codec.post_training import block_shares
from stages.codec.registry import codec_fingerprint, load_codec
from stages.errors import UsageError
from stages.training.loop import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "codec"
    train_codec.run(codec_config(data, out, 3))
    return out


@pytest.fixture(scope="module")
def multi_resolution(data, plain, tmp_path_factory):
    out = tmp_path_factory.mktemp("multi") / "mreq"
    mreq.run(mreq_config(data, plain, out, 2))
    return out


def going_on(data, codec, out, steps, *overrides, teacher=""):
    return mreq_config(data, teacher, out, steps, f"init={codec}", *overrides)


def make_task(config):
    inputs = mreq._open(config)
    process = Run(inputs.config)
    process.begin_step(1)
    return mreq.MReQTask(inputs.config, inputs, process), process


def rows_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_goes_on_from_a_multi_resolution_codec_without_a_teacher(data, multi_resolution, tmp_path):
    config = going_on(data, multi_resolution, tmp_path / "run", 4)
    task, process = make_task(config)
    task.prepare(process)
    start = load_codec(multi_resolution).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in task.codec.state_dict().items())
    mreq.run(config)
    moved = load_codec(tmp_path / "run").state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in moved.items())
    parents = load_checkpoint(tmp_path / "run").parents
    assert parents["init"] == codec_fingerprint(load_codec(multi_resolution)) and parents["teacher"] == "none"
    assert "fld" not in rows_of(tmp_path / "run")[0] and "hsr" in rows_of(tmp_path / "run")[0]
    planned = mreq.plan(going_on(data, multi_resolution, tmp_path / "other", 4))
    assert planned["blocks"]["8 Hz"] == "1-6-1, stride 6" and planned["init"] == str(multi_resolution)


def test_with_a_teacher_beside_it_the_run_is_distilled(data, plain, multi_resolution, tmp_path):
    mreq.run(going_on(data, multi_resolution, tmp_path / "run", 2, teacher=str(plain)))
    assert rows_of(tmp_path / "run")[0]["fld"] > 0
    assert "none" not in load_checkpoint(tmp_path / "run").parents.values()
    with pytest.raises(UsageError, match="`teacher` was"):  # would go on without distillation
        mreq.run(going_on(data, multi_resolution, tmp_path / "run", 3))


@pytest.mark.parametrize("override", ["init_codebooks=kmeans", "init_autoencoder=fresh"])
def test_how_a_teachers_parts_start_is_no_question_beside_init(data, multi_resolution, tmp_path, override):
    with pytest.raises(UsageError, match="beside --init"):
        mreq.plan(going_on(data, multi_resolution, tmp_path / "run", 2, override))


@pytest.mark.parametrize(("init", "overrides", "message"), [
    ("plain", (), "plain"),
    ("multi_resolution", ("rates=[8, 48]",), "--rates"),
    ("multi_resolution", ("block_dropout=[0.2, 0.2, 0.2, 0.2]",), "at most 3 shares"),
    ("multi_resolution", ("block_dropout=[0.9, 0.2]",), "at most 1 together"),
    ("multi_resolution", ("block_dropout=[-0.1]",), "at least 0"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(init, overrides, message, data, tmp_path, request):
    codec = request.getfixturevalue(init)
    with pytest.raises(UsageError, match=message):
        mreq.run(going_on(data, codec, tmp_path / "run", 2, *overrides))
    assert not (tmp_path / "run").exists()


def test_neither_teacher_nor_codec_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match="--teacher"):
        mreq.run(mreq_config(data, "", tmp_path / "run", 2))


def test_crops_are_shared_out_among_blocks_and_a_crop_always_gets_the_same(data, plain, tmp_path):
    config = mreq_config(data, plain, tmp_path / "run", 2, "block_dropout=[0.5, 0.0, 0.25]")
    shares = block_shares(config)
    drawn = torch.stack([draw_depths(shares, 0, step, range(20)) for step in range(100)])
    found = drawn.flatten().bincount(minlength=5) / drawn.numel()
    assert found[1].item() == pytest.approx(0.5, abs=0.04) and found[2] == 0
    assert found[3].item() == pytest.approx(0.25, abs=0.04) and found[4].item() == pytest.approx(0.25, abs=0.04)
    assert torch.equal(draw_depths(shares, 0, 7, range(4, 9)), drawn[7, 4:9]), "whichever process takes it"


def test_a_dropped_block_gets_no_gradient_and_the_first_one_does(data, multi_resolution, tmp_path):
    config = going_on(data, multi_resolution, tmp_path / "run", 2, "block_dropout=[1.0]", "losses.hsr=0",
                      "losses.commitment=0")
    task, process = make_task(config)
    task.codec.train()
    batch = task.batch(1, 0, process)
    assert batch.depths.tolist() == [1] * len(batch.waveforms)
    task.train_step(batch, process)
    largest = {k: max(float(p.grad.abs().max()) if p.grad is not None else 0.0 for p in block.parameters())
               for k, block in enumerate(task.codec.mrvq.blocks[:-1], start=1)}  # fmt: skip
    assert largest[1] > 0 and largest[2] == largest[3] == 0


def test_each_item_gets_the_sum_of_its_own_blocks():
    sums = tuple(torch.full((3, 2, 4), float(s)) for s in range(1, 5))
    assert sums_at(sums, torch.tensor([4, 1, 2]))[:, 0, 0].tolist() == [4, 1, 2]


def test_a_run_with_dropped_blocks_resumes_bit_for_bit(data, multi_resolution, tmp_path):
    settings = ("block_dropout=[0.5, 0.1]", "training.accumulation=2")
    mreq.run(going_on(data, multi_resolution, tmp_path / "whole", 6, *settings))
    for steps in (3, 6):
        mreq.run(going_on(data, multi_resolution, tmp_path / "parts", steps, *settings))
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_the_decoder_comes_nearer_to_speech_from_the_first_block_alone(data, plain, tmp_path):
    found = {}
    for name, dropout in (("all", ()), ("first", (1.0,))):
        mreq.run(mreq_config(data, plain, tmp_path / name, 60, f"block_dropout={list(dropout)}",
                             "training.learning_rate=0.003", "training.validate_every=60"))
        found[name] = rows_of(tmp_path / name)[-1]["validation.probe.only_first_1.mel"]
    assert found["first"] < 0.9 * found["all"]


def test_a_finer_first_block_starts_its_own_codebooks_and_keeps_all_others(data, multi_resolution, tmp_path):
    config = going_on(data, multi_resolution, tmp_path / "run", 2, "first_block_codebooks=3")
    task, process = make_task(config)
    task.prepare(process)
    start = load_codec(multi_resolution)
    first, other = task.codec.mrvq.blocks[0], start.mrvq.blocks[0]
    assert first.pre.num_codebooks == first.post.num_codebooks == 3 and first.pre.initialised and first.post.initialised
    assert torch.equal(first.quant.codebook(5), other.quant.codebook(5))
    for name in ("autoencoder.", "mrvq.blocks.0.sub_decoder.", "mrvq.blocks.2."):
        theirs = {key: value for key, value in start.state_dict().items() if key.startswith(name)}
        assert theirs and all(torch.equal(value, task.codec.state_dict()[key]) for key, value in theirs.items())
    mreq.run(config)
    finer = load_codec(tmp_path / "run")
    assert finer.stream("post1").num_codebooks == 3 and finer.bits_per_second == start.bits_per_second
    assert finer.hierarchy.num_levels == start.hierarchy.num_levels == 7


def test_a_finer_first_block_of_a_teacher_starts_from_its_first_codebooks(data, plain, tmp_path):
    task, _ = make_task(mreq_config(data, plain, tmp_path / "run", 2, "first_block_codebooks=4"))
    teacher, blocks = load_codec(plain), task.codec.mrvq.blocks
    for index in range(4):
        assert torch.equal(blocks[0].post.codebook(index), teacher.codebook(index))
    assert torch.equal(blocks[1].pre.codebook(0), teacher.codebook(1)), "the block stands for one codebook as before"
    assert task.inputs.config.mrvq.fld_pairs == ((1, 1), (2, 3), (3, 5), (4, 8))
