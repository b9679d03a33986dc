"""A model divided among processes trains like a whole one, and its checkpoints are those of a whole one."""

import json
import os

import pytest
import torch
from forked import run_ranks, said
from test_agreement import LONG, config_of, difference, state_difference, watched_run

from stages.artifacts.checkpoint import list_checkpoints, load_checkpoint, read_tensors
from stages.training import sharding

STEPS = 4 if LONG else 2

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
              pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")]


def train(world_size, stage, config, record):
    """Train, and return every step's losses and the share of a block that each process holds."""
    divide = sharding.ShardedModel.__init__

    def divide_and_tell(self, model, blocks, *rest):
        before = sum(parameter.numel() for block in blocks for parameter in block.parameters())
        divide(self, model, blocks, *rest)
        after = sum(parameter.to_local().numel() for block in blocks for parameter in block.parameters())
        (record / f"share{os.environ['RANK']}.txt").write_text(str(after / before), encoding="utf-8")

    def work():
        sharding.ShardedModel.__init__ = divide_and_tell
        watched_run(stage, config, record)

    codes = run_ranks(world_size, work, record)
    assert codes == [0] * world_size, said(record)
    losses = json.loads((record / "rank0.json").read_text(encoding="utf-8"))["losses"]
    return losses, [float(file.read_text(encoding="utf-8")) for file in sorted(record.glob("share*"))]


@pytest.mark.parametrize("stage", ["train-ar", "train-nar"] if LONG else ["train-ar"])
def test_a_divided_model_trains_like_a_whole_one_and_either_goes_on_from_the_other(stage, chain, tmp_path):
    def config(name, steps=STEPS, divided=True):
        extra = ("training.fsdp=true",) if divided else ()
        speaks = ("training.validation_utterances=1",)  # on the first process alone
        run = config_of(stage, chain, tmp_path / name, steps, f"training.schedule_steps={STEPS}", *speaks, *extra)
        return run.model_copy(update={"codec": str(chain.mreq)})

    whole, _ = train(1, stage, config("whole", divided=False), tmp_path / "record")
    runs = {"whole, then divided": [(1, STEPS // 2, False), (2, STEPS, True)]}
    if LONG:
        runs["divided, then whole"] = [(2, STEPS // 2, True), (1, STEPS, False)]
    for name, parts in runs.items():
        losses = []
        for turn, (world_size, steps, divided) in enumerate(parts):
            record = tmp_path / f"record {name} {turn}"
            found, shares = train(world_size, stage, config(name, steps, divided), record)
            losses += found
            assert shares == pytest.approx([0.5] * 2 if divided else [], abs=0.05)
        worst = max(difference(mine, other) for mine, other in zip(losses, whole, strict=True))
        assert worst[0] < 1e-5, (name, worst)
        ours, theirs = load_checkpoint(tmp_path / name), load_checkpoint(tmp_path / "whole")
        assert ours.architecture == theirs.architecture and ours.tensors.keys() == theirs.tensors.keys()
        state = list_checkpoints(tmp_path / name)[-1][1] / "trainer_state" / "state.safetensors"
        assert any(key.startswith("optimizer/model/3/exp_avg") for key in read_tensors(state))
        # Adam turns the rounding of gradients that are about 0 into steps: those of the keys' biases
        assert state_difference(tmp_path / name, tmp_path / "whole")[0] < 0.05
