"""Steps that are not finite: left out and explained; too many end the run or lead back to the last checkpoint."""

import math

import pytest
import torch
from tiny_chain import tiny_config
from toy_task import ToyConfig, ToyTask, final_bytes, send, toy_run

from stages import train_ar, train_codec
from stages.artifacts.checkpoint import list_checkpoints, load_trainer_state
from stages.artifacts.storage import read_jsonl
from stages.errors import DivergedError, InterruptedRunError
from stages.training.guard import SKIPPED, FiniteGuard, Traceable

NAN = float("nan")


class Named(ToyTask):
    """A toy whose batches have names, and whose loss is spoiled by data: by the steps that it hears."""

    spoiled: tuple[int, ...] = ()

    def batch(self, step, micro, run):
        self.heard = [*getattr(self, "heard", []), step]
        found = super().batch(step, micro, run)
        return found * NAN if step in self.spoiled and micro == 0 else found

    def utterances(self, step, micro, rank, world_size):
        return [f"u{step}-{micro}-{rank}"]


def spoiled_at(*steps):
    return type("Spoiled", (Named,), {"spoiled": steps})


def test_one_step_that_is_not_finite_changes_nothing_and_is_explained(tmp_path, caplog):
    task, _ = toy_run(tmp_path, make_task=spoiled_at(4), accumulation=2, ema_decay=None)
    assert all(tensor.isfinite().all() for tensor in task.networks["model"].parameters())
    (line,) = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert "step 4 skipped" in line and "losses `loss`" in line and "`model.0 (2 parameters)`" in line
    assert "`u4-0-0`" in line and "u4-1" not in line, "only the micro-batch that it was"
    (row,) = read_jsonl(tmp_path / SKIPPED)
    assert (row["step"], row["losses"], row["utterances"]) == (4, ["loss"], ["u4-0-0"])
    assert "model.3.weight" in row["parameters"]


@pytest.mark.parametrize("spoiled, told", [((4, 5, 6), "2 of 1000|at most 1 of 1000 steps, got 2"), ((4, 9), "got 2")])
def test_too_many_such_steps_end_the_run_with_code_5_and_the_checkpoint_before(tmp_path, spoiled, told):
    with pytest.raises(DivergedError, match=told) as caught:
        toy_run(tmp_path, make_task=spoiled_at(*spoiled))
    assert caught.value.exit_code == 5 and "on_divergence=rollback" in caught.value.hint
    step, folder = list_checkpoints(tmp_path)[-1]
    assert step == (3 if spoiled[1] == 5 else 6)
    assert all(tensor.isfinite().all() for tensor in load_trainer_state(folder)[0].values())


def test_three_in_a_row_end_the_run_even_when_a_share_would_be_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.training.guard.MOST_IN_WINDOW", 5)
    with pytest.raises(DivergedError, match="3 steps in a row, at step 6"):
        toy_run(tmp_path, make_task=spoiled_at(4, 5, 6))
    toy_run(tmp_path / "two", make_task=spoiled_at(4, 5, 7, 8))


def test_a_resumed_run_goes_on_counting(tmp_path):
    with pytest.raises(InterruptedRunError):
        toy_run(tmp_path, make_task=spoiled_at(4), at_step={5: send(15)})
    with pytest.raises(DivergedError, match="got 2: `4`, `8`"):
        toy_run(tmp_path, make_task=spoiled_at(8))


def test_steps_long_ago_are_forgiven(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.training.guard.WINDOW_STEPS", 4)
    _, result = toy_run(tmp_path, make_task=spoiled_at(2, 6, 10))
    assert result.step == 10 and [row["step"] for row in read_jsonl(tmp_path / SKIPPED)] == [2, 6, 10]


def test_weights_that_are_not_finite_never_reach_a_checkpoint(tmp_path):
    class Buffered(Named):
        def train_step(self, batch, run):
            losses = super().train_step(batch, run)
            if run.step == 5:
                self.networks["model"][1].running_var[2] = math.inf
            return losses

    with pytest.raises(DivergedError, match=r"not saved: `model\.1\.running_var`"):
        toy_run(tmp_path, make_task=Buffered)
    assert list_checkpoints(tmp_path)[-1][0] == 3


def test_a_rolled_back_run_goes_on_with_the_data_after_that_which_it_diverged_on(tmp_path, caplog):
    task, result = toy_run(tmp_path, make_task=spoiled_at(4, 5), on_divergence="rollback")
    assert result.step == 10 and task.heard == [1, 2, 3, 4, 5, *range(6, 13)]
    assert "rolling back to step 3" in caplog.text
    rows = [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in row]
    assert rows == [2, 4, 6, 8, 10]


def test_a_killed_rolled_back_run_ends_with_the_bytes_of_one_that_was_not(tmp_path):
    options = {"make_task": spoiled_at(4, 5), "on_divergence": "rollback"}
    toy_run(tmp_path / "whole", **options)
    with pytest.raises(InterruptedRunError):
        toy_run(tmp_path / "parts", at_step={7: send(15)}, **options)
    toy_run(tmp_path / "parts", **options)
    assert final_bytes(tmp_path / "parts") == final_bytes(tmp_path / "whole")


def test_rolling_back_is_bounded_and_needs_a_checkpoint(tmp_path):
    always = spoiled_at(*range(4, 99))
    with pytest.raises(DivergedError):
        toy_run(tmp_path / "often", make_task=always, on_divergence="rollback", max_rollbacks=2)
    assert [row["data_step"] for row in read_jsonl(tmp_path / "often" / SKIPPED)] == [4, 5, 6, 7, 8, 9]
    with pytest.raises(DivergedError):
        toy_run(tmp_path / "early", make_task=spoiled_at(1, 2), on_divergence="rollback")


class OneOfTwo:
    """A process of two: what the other adds to a sum is given beforehand."""

    step = data_step = 7
    device, world_size = torch.device("cpu"), 2

    def __init__(self, rank: int, *others: torch.Tensor):
        self.rank, self._others = rank, list(others)

    def sum_over_ranks(self, tensor):
        return tensor + self._others.pop(0)


def test_what_another_process_found_is_told_by_the_main_one(tmp_path, caplog):
    theirs = torch.zeros(2, 2, 1)
    theirs[1, 1, 0] = 1  # the second process's loss in its second micro-batch
    task = Named(ToyConfig())
    task.networks = {"model": torch.nn.Linear(1, 1)}
    fine = [{"loss": torch.ones(())}, {"loss": torch.ones(())}]
    guard = FiniteGuard(task, OneOfTwo(0, torch.ones(()), theirs), tmp_path)
    guard.begin_step()
    assert guard.accepts(fine, [torch.ones(())]) is False
    assert "losses `loss`" in caplog.text and "utterances `u7-1-1`" in caplog.text
    other = FiniteGuard(task, OneOfTwo(1, torch.zeros(()), torch.zeros(2, 2, 1)), tmp_path)
    other.begin_step()
    assert other.accepts([fine[0], {"loss": torch.tensor(NAN)}], [torch.tensor(NAN)]) is False
    assert len(read_jsonl(tmp_path / SKIPPED)) == 1, "only the main process writes"


@pytest.mark.parametrize("stage, inputs", [(train_ar, {"tokens": "tokens"}), (train_codec, {"data": "data"})])
def test_trainers_name_the_utterances_of_a_step(chain, tmp_path, stage, inputs, monkeypatch):
    task_class = stage.ARTask if stage is train_ar else stage.CodecTask
    steps, batches = task_class.train_step, []

    def spoil(self, batch, run):
        if not run.trying:
            batches.append(self.utterances(run.data_step, 0, 0, 1))
        return {name: value * (NAN if run.step == 1 else 1) for name, value in steps(self, batch, run).items()}

    monkeypatch.setattr(task_class, "train_step", spoil)
    name = stage.STAGE
    config = tiny_config(name, "training.steps=2", out=str(tmp_path / "run"),
                         **{key: str(getattr(chain, value)) for key, value in inputs.items()})
    stage.run(config)
    (row,) = read_jsonl(tmp_path / "run" / SKIPPED)
    assert row["utterances"] == list(dict.fromkeys(batches[0])) and row["utterances"] and row["losses"]
    assert issubclass(task_class, Traceable) or stage is train_codec  # whose reader knows
    known = {utterance["id"] for utterance in read_jsonl(chain.data / "manifest.jsonl")}
    assert set(row["utterances"]) <= known
