"""The largest batch is tried before the first step, says what was too large, and leaves the training as it would be."""

import pytest
import torch
from toy_task import ToyConfig, ToyTask, final_bytes, toy_run

from stages.artifacts.checkpoint import list_checkpoints
from stages.artifacts.storage import read_journal
from stages.config.lm_training import LMTrainingConfig
from stages.config.stage_configs import CodecTrainingConfig
from stages.errors import MemoryFullError
from stages.training.largest_batch import LargestBatch, is_out_of_memory, smaller_batch, try_largest_batch
from stages.training.loop import Run


class MeasuredTask(ToyTask):
    """The toy task with a largest batch of its own; it counts and may fail."""

    fails: str | None = None
    tried = 0

    def largest_batch(self, run):
        return LargestBatch(lambda: torch.randn(64, 4), 7, "64 points of 4 numbers", "lower training.batch_size")

    def train_step(self, batch, run):
        if len(batch) == 64:
            MeasuredTask.tried += 1
            assert run.trying and run.step == 7 and self.networks["model"].training
        if self.fails and len(batch) == (64 if self.fails == "trial" else 16):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().train_step(batch, run)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(MeasuredTask, "tried", 0)
    monkeypatch.setattr(MeasuredTask, "fails", None)


def test_training_is_the_same_with_and_without_the_trial(tmp_path):
    toy_run(tmp_path / "with", make_task=MeasuredTask)
    assert MeasuredTask.tried == 1
    toy_run(tmp_path / "without", make_task=MeasuredTask, try_largest_batch=False)
    assert MeasuredTask.tried == 1
    toy_run(tmp_path / "plain")
    assert final_bytes(tmp_path / "with") == final_bytes(tmp_path / "without") == final_bytes(tmp_path / "plain")
    losses = [[row["loss"] for row in read_journal(tmp_path / name / "metrics.jsonl") if "loss" in row]
              for name in ("with", "without")]
    assert losses[0] == losses[1] and len(losses[0]) == 5


def test_a_continued_run_tries_again_and_goes_on_as_it_would(tmp_path):
    toy_run(tmp_path / "parts", steps=5, make_task=MeasuredTask, schedule="constant")
    toy_run(tmp_path / "parts", steps=10, make_task=MeasuredTask, schedule="constant")
    toy_run(tmp_path / "whole", steps=10, schedule="constant")
    assert MeasuredTask.tried == 2 and final_bytes(tmp_path / "parts") == final_bytes(tmp_path / "whole")


def test_nothing_is_left_of_the_trial():
    config = ToyConfig(out="nowhere", device="cpu")
    task, run = MeasuredTask(config), Run(config)
    task.networks["model"].eval()
    run.begin_step(3)
    torch.rand(5)
    before = {name: tensor.clone() for name, tensor in task.networks["model"].state_dict().items()}
    random, own, place = torch.get_rng_state(), run.generator.get_state(), dict(vars(run))
    try_largest_batch(task, run)
    after = task.networks["model"].state_dict()
    assert MeasuredTask.tried == 1 and all(torch.equal(before[name], after[name]) for name in before)
    assert "num_batches_tracked" in " ".join(before), "a running statistic that a step changes is among them"
    assert torch.equal(random, torch.get_rng_state()) and torch.equal(own, run.generator.get_state())
    assert vars(run) == place and not task.networks["model"].training
    assert all(p.grad is None for p in task.networks["model"].parameters())
    assert not task.optimizers["model"].state


def test_accumulation_tries_a_second_micro_batch_that_finds_gradients(tmp_path):
    toy_run(tmp_path, make_task=MeasuredTask, accumulation=4, steps=1)
    assert MeasuredTask.tried == 2


@pytest.mark.parametrize("when, says", [("trial", "before the first step"), ("step", "at step 1")])
def test_too_little_memory_names_the_largest_batch_and_the_option(tmp_path, monkeypatch, when, says):
    monkeypatch.setattr(MeasuredTask, "fails", when)
    with pytest.raises(MemoryFullError) as caught:
        toy_run(tmp_path, make_task=MeasuredTask)
    assert caught.value.exit_code == 4 and caught.value.hint == "lower training.batch_size"
    assert f"out of memory on `cpu` {says}: the largest batch of a process is 64 points" in caught.value.message
    assert list_checkpoints(tmp_path) == []


@pytest.mark.parametrize("error, expected", [
    (MemoryError(), True), (torch.OutOfMemoryError("CUDA out of memory"), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
    (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
    (RuntimeError("shapes cannot be multiplied"), False), (ValueError("x"), False),
])  # fmt: skip
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_options_to_lower_are_named_with_their_values():
    hint = smaller_batch(LMTrainingConfig(batch_tokens=24_000))
    assert "-O training.batch_tokens=12000 (now 24000)" in hint and "checkpoint_activations=true" in hint
    assert "checkpoint" not in smaller_batch(LMTrainingConfig(checkpoint_activations=True))
    assert "-O training.batch_size=4 (now 8)" in smaller_batch(CodecTrainingConfig(batch_size=8))
