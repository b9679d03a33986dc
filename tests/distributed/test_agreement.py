"""The same run on 1, 2 and 4 processes: the same global batches, losses and codebooks, for all four trainers.

The suite takes a few steps in float64. `HALLE_AGREEMENT_STEPS=50 pytest -s tests/distributed/test_agreement.py` takes
as many as it says, also in fp32 and bf16, and prints what it finds (docs/distribution.md).
"""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from forked import run_ranks, said
from tiny_chain import tiny_config

from stages import mreq, train_ar, train_codec, train_nar
from stages.artifacts.checkpoint import list_checkpoints, read_tensors
from stages.data.read_ahead import CropReader
from stages.data.waveforms import WaveformCrops
from stages.parallel import in_turn
from stages.training import loop

LONG = "HALLE_AGREEMENT_STEPS" in os.environ
STEPS = int(os.environ.get("HALLE_AGREEMENT_STEPS", "4"))
WORLDS = (1, 2, 4)
STAGES = {"train-codec": train_codec, "mreq": mreq, "train-ar": train_ar, "train-nar": train_nar}
CODECS = ("train-codec", "mreq")
# the adversary joins and, in train-codec, the codebooks start on the way; micro-batches are summed
EXTRA = {
    # of few vectors for k-means some have a cluster of their own, and only rounding is left for the later codebooks
    "train-codec": ("training.batch_size=8", "training.accumulation=2", "quantizer_start_step=1",
                    "codec.quantizer.kmeans_vectors_per_code=32",
                    "discriminator.start_step=2"),
    "mreq": ("frozen_steps=1", "training.batch_size=4"),
    "train-ar": ("training.accumulation=2", "training.batch_tokens=1200"),
    "train-nar": ("training.accumulation=2", "training.batch_tokens=2400"),
}
# largest relative difference of a loss: at the first step, at any
ALLOWED = {"fp64": (1e-6, 1e-6), "fp32": (1e-6, 1e-3), "bf16": (1e-2, 1e-2)}

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
              pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")]


def config_of(stage, chain, out, steps, *overrides):
    inputs = {"train-codec": {"data": chain.data}, "mreq": {"teacher": chain.codec / "encodec.pt", "data": chain.data},
              "train-ar": {"tokens": chain.tokens}, "train-nar": {"tokens": chain.tokens, "codec": chain.mreq}}[stage]
    silent = ("training.validation_utterances=0",)
    return tiny_config(stage, *EXTRA[stage], *silent, f"training.steps={steps}", "training.log_every=1000",
                       "training.validate_every=1000", "training.save_every=1000", *overrides, out=str(out),
                       **{name: str(path) for name, path in inputs.items()})


def use_double_precision():
    """Train in float64; the trainers' own `.float()` too."""
    begin = loop._Trainer.__init__

    def begin_in_double(self, task, *rest):
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
        objective = getattr(task, "objective", None)
        for part in (*task.networks.values(), *vars(task).values(), objective and objective.mel):
            if isinstance(part, torch.nn.Module):
                part.double()
        begin(self, task, *rest)

    loop._Trainer.__init__ = begin_in_double
    _change_inputs(torch.Tensor.double)


def _change_inputs(change):
    for reader in (CropReader, WaveformCrops):
        reader.batch = _changed(reader.batch, change)


def _changed(read, change):
    return lambda *arguments: change(read(*arguments))


def watched_run(stage, config, record: Path):
    """Train, and write down the losses of every step and what this process saw in it."""
    losses, seen = [], []
    step_of, batch_of, slice_of = loop._Trainer._step, CropReader.batch, train_ar.rank_slice

    def step(self, number):
        told = step_of(self, number)
        found = {name: value for name, value in told.items() if torch.is_tensor(value)}
        values = torch.stack([value.double() for value in found.values()])
        values = self.run.sum_over_ranks(values) / self.run.world_size
        losses.append({"step": number, **dict(zip(found, values.tolist(), strict=True))})
        return told

    def batch(self, number, micro):
        crops = batch_of(self, number, micro)
        seen.append([hashlib.sha256(crop.float().numpy().tobytes()).hexdigest()[:16] for crop in crops])
        return crops

    def rank_slice(items, rank, world_size):
        own, counted = slice_of(items, rank, world_size)
        seen.append(own.tolist() if counted else [])
        return own, counted

    loop._Trainer._step, CropReader.batch = step, batch
    train_ar.rank_slice = train_nar.rank_slice = rank_slice
    STAGES[stage].run(config)
    rank = os.environ.get("RANK", "0")
    (record / f"rank{rank}.json").write_text(json.dumps({"losses": losses, "seen": seen}), encoding="utf-8")


def train_on(world_size, stage, config, record, precision="fp32", perturbed=False):
    def work():
        if perturbed:
            _change_inputs(lambda crops: crops * (1 + 2**-23))
        if precision == "fp64":
            use_double_precision()
        watched_run(stage, config, record)

    codes = run_ranks(world_size, work, record)
    assert codes == [0] * world_size, said(record)
    told = [json.loads((record / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(world_size)]
    return told[0]["losses"], global_batches(stage, [each["seen"] for each in told])


def global_batches(stage, seen):
    """Return what all processes together saw in each micro-batch, in the order in which one would have seen it."""
    joined = []
    for parts in zip(*seen, strict=True):
        together = [item for part in parts for item in part]
        joined.append(together if stage in CODECS else in_turn(together, len(seen)))
    return joined


def difference(ours, theirs):
    """Return the largest difference of a loss at a step, relative to the loss (at least 0.01), and its name."""
    names = [name for name in theirs if not name.startswith(("gradient_norm", "step", "accuracy"))]
    return max((abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 0.01), name) for name in names)


def state_difference(ours: Path, theirs: Path):
    """Return the largest relative difference of a tensor of the trainers' states: codebooks, statistics, adversary."""
    mine, other = (read_tensors(list_checkpoints(run)[-1][1] / "trainer_state" / "state.safetensors")
                   for run in (ours, theirs))
    assert mine.keys() == other.keys()
    found = {name: float((mine[name].double() - tensor.double()).norm() / tensor.double().norm().clamp_min(1e-6))
             for name, tensor in other.items()}
    return max((value, name) for name, value in found.items())


@pytest.mark.parametrize("precision", ALLOWED if LONG else ["fp64"])
@pytest.mark.parametrize("stage", STAGES)
def test_1_2_and_4_processes_see_the_same_batches_and_lose_the_same(stage, precision, chain, tmp_path):
    chosen = ("training.precision=bf16",) if precision == "bf16" else ()
    runs = {}
    worlds = WORLDS if LONG or stage == "train-codec" else (1, 4)
    for world_size in worlds:
        config = config_of(stage, chain, tmp_path / f"run{world_size}", STEPS, *chosen)
        runs[world_size] = train_on(world_size, stage, config, tmp_path / f"record{world_size}", precision)
    losses, batches = runs[1]
    assert len(losses) == STEPS and len(batches) >= STEPS and len({str(batch) for batch in batches}) > 2
    first_allowed, allowed = ALLOWED[precision]
    if stage in CODECS and precision != "fp64":
        # An adversary and hard choices of codes magnify rounding: one process parts as far from itself when its input
        # changes in the last digit.
        config = config_of(stage, chain, tmp_path / "perturbed", STEPS, *chosen)
        other = train_on(1, stage, config, tmp_path / "perturbed_record", precision, perturbed=True)[0]
        spread = max(difference(mine, theirs)[0] for mine, theirs in zip(other, losses, strict=True))
        print(f"| {stage} | {precision} | 1, perturbed | | {spread:.1e} | |")
        allowed = max(allowed, 10 * spread)
    for world_size in worlds[1:]:
        ours, theirs = runs[world_size]
        assert theirs == batches
        differences = [difference(mine, other) for mine, other in zip(ours, losses, strict=True)]
        worst = max(differences)
        state = state_difference(tmp_path / f"run{world_size}", tmp_path / "run1")
        if LONG:
            print(f"| {stage} | {precision} | {world_size} | {differences[0][0]:.1e} | {worst[0]:.1e} ({worst[1]}) | "
                  f"{state[0]:.1e} ({state[1]}) |")
        assert differences[0][0] <= first_allowed and worst[0] <= allowed, (differences[0], worst)
        assert precision != "fp64" or state[0] <= (1e-5 if LONG else 1e-6), state  # Adam adds up what differs


@pytest.mark.parametrize("precision", ALLOWED if LONG else ["fp64"])
@pytest.mark.parametrize("stage", STAGES if LONG else ["train-codec"])
def test_a_run_that_goes_on_with_other_numbers_of_processes_is_the_uninterrupted_one(stage, precision, chain, tmp_path):
    part = max(1, STEPS // 4)
    chosen = [f"training.schedule_steps={4 * part}"] + ["training.precision=bf16"] * (precision == "bf16")
    chosen += ["quantizer_start_step=0"] * (stage == "train-codec")
    whole = config_of(stage, chain, tmp_path / "whole", 4 * part, *chosen)
    losses, batches = train_on(1, stage, whole, tmp_path / "record", precision)
    lost, seen = [], []
    for turn, world_size in enumerate((1, 2, 4, 1), start=1):
        config = config_of(stage, chain, tmp_path / "parts", turn * part, *chosen)
        found = train_on(world_size, stage, config, tmp_path / f"record{turn}", precision)
        lost, seen = lost + found[0], seen + found[1]
    assert [row["step"] for row in lost] == list(range(1, 4 * part + 1))
    assert seen == batches
    worst = max(difference(mine, other) for mine, other in zip(lost, losses, strict=True))
    if LONG:
        print(f"| {stage}, 1 -> 2 -> 4 -> 1 | {precision} | {worst[0]:.1e} ({worst[1]}) |")
    assert worst[0] <= ALLOWED[precision][1]
