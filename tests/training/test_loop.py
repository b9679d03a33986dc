"""The training loop: resuming repeats an uninterrupted run bit for bit, signals save, divergence stops."""

import os
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy_task import ToyConfig, ToyTask, final_bytes, send, toy_run

from stages.artifacts.checkpoint import list_checkpoints, load_checkpoint, load_trainer_state
from stages.artifacts.run_dir import claim_output
from stages.artifacts.storage import read_journal
from stages.errors import DivergedError, InterruptedRunError, StorageError, UsageError
from stages.training import state
from stages.training.loop import Run, train
from stages.training.optim import MovingAverage, average_over_ranks
from stages.training.processes import pick_device
from stages.training.state import restore_state


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, *filter(None, [getattr(signal, "SIGUSR1", None)])])
def test_a_signal_saves_and_the_same_command_repeats_the_uninterrupted_run(tmp_path, number):
    toy_run(tmp_path / "whole")
    with pytest.raises(InterruptedRunError) as caught:
        toy_run(tmp_path / "parts", at_step={5: send(number)})
    assert caught.value.exit_code == 128 + number
    assert list_checkpoints(tmp_path / "parts")[-1][0] == 5
    task, _ = toy_run(tmp_path / "parts")
    assert task.prepared == 0 and task.steps_done == 5
    assert final_bytes(tmp_path / "parts") == final_bytes(tmp_path / "whole")


def test_a_group_may_have_a_rate_of_its_own(tmp_path):
    def divided(config, at_step):
        task = ToyTask(config, at_step)
        first, *rest = task.networks["model"].parameters()
        task.optimizers = {"model": torch.optim.AdamW([{"params": rest}, {"params": [first], "rate": 3.0}])}
        return task

    task, _ = toy_run(tmp_path / "run", steps=5, schedule_steps=10, make_task=divided)
    usual, faster = (group["lr"] for group in task.optimizers["model"].param_groups)
    assert usual > 0 and faster == pytest.approx(3 * usual)


def test_a_killed_process_continues_from_its_last_checkpoint_bit_for_bit(tmp_path):
    toy_run(tmp_path / "whole")
    child = os.fork() if hasattr(os, "fork") else pytest.skip("needs fork")
    if child == 0:
        toy_run(tmp_path / "parts", at_step={8: send(signal.SIGKILL)})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert list_checkpoints(tmp_path / "parts")[-1][0] == 6
    toy_run(tmp_path / "parts")
    assert final_bytes(tmp_path / "parts") == final_bytes(tmp_path / "whole")
    steps = [row["step"] for row in read_journal(tmp_path / "parts" / "metrics.jsonl") if "loss" in row]
    assert steps == [2, 4, 6, 8, 10]


def test_accumulation_resumes_bit_for_bit_too(tmp_path):
    toy_run(tmp_path / "whole", accumulation=3)
    with pytest.raises(InterruptedRunError):
        toy_run(tmp_path / "parts", accumulation=3, at_step={4: send(signal.SIGTERM)})
    toy_run(tmp_path / "parts", accumulation=3)
    assert final_bytes(tmp_path / "parts") == final_bytes(tmp_path / "whole")


def test_a_finished_run_does_nothing_and_more_steps_go_on(tmp_path):
    toy_run(tmp_path, steps=10, schedule="constant")
    task, result = toy_run(tmp_path, steps=10, schedule="constant")
    assert task is None and result.step == 10
    _, result = toy_run(tmp_path, steps=15, schedule="constant")
    assert result.step == 15
    toy_run(tmp_path / "whole", steps=15, schedule="constant")
    assert final_bytes(tmp_path) == final_bytes(tmp_path / "whole")


def test_changed_identity_is_refused_with_the_difference_unless_allowed(tmp_path):
    toy_run(tmp_path, steps=2)
    with pytest.raises(UsageError, match=r"`training.learning_rate` was `0.01`, is `0.5`"):
        toy_run(tmp_path, steps=4, learning_rate=0.5)


def test_another_stage_s_folder_and_a_foreign_folder_are_refused(tmp_path):
    toy_run(tmp_path / "run", steps=2)
    config = ToyConfig(out=str(tmp_path / "run"))
    with pytest.raises(UsageError, match="made by `halle train-ar`"), claim_output("train-nar", config, {}):
        pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty"):
        with claim_output("train-ar", ToyConfig(out=str(tmp_path / "mine")), {}):
            pass


def test_other_parents_are_refused_and_restart_moves_the_old_run_aside(tmp_path):
    config = ToyConfig(out=str(tmp_path / "run"))
    with claim_output("train-ar", config, {"tokens": "a" * 64}):
        pass
    with pytest.raises(UsageError, match="`tokens` was `aaaaaaaaaaaa`, is `bbbbbbbbbbbb`"), claim_output(
            "train-ar", config, {"tokens": "b" * 64}):
        pass
    with claim_output("train-ar", config.model_copy(update={"restart": True}), {"tokens": "b" * 64}):
        pass
    assert (tmp_path / "run.old-1" / "config.json").exists()


def test_one_bad_step_is_skipped_and_three_stop_the_run_before_anything_is_spoiled(tmp_path):
    task, _ = toy_run(tmp_path / "one", at_step={"factor": {4: float("nan")}})
    assert all(torch.isfinite(p).all() for p in task.networks["model"].parameters())
    with pytest.raises(DivergedError) as caught:
        toy_run(tmp_path / "three", at_step={"factor": dict.fromkeys((4, 5, 6), float("inf"))})
    assert caught.value.exit_code == 5
    assert list_checkpoints(tmp_path / "three")[-1][0] == 3


def test_averaged_weights_are_exported_and_validated(tmp_path):
    task, result = toy_run(tmp_path)
    exported = load_checkpoint(result.checkpoint).tensors
    assert not torch.equal(exported["0.weight"], task.networks["model"][0].weight)
    assert result.measures["weight"] == pytest.approx(float(exported["0.weight"].sum()), rel=1e-6)
    assert torch.equal(exported["1.running_mean"], task.networks["model"][1].running_mean)


def test_the_log_tells_the_measures_of_the_whole_and_metrics_all(tmp_path, caplog):
    caplog.set_level("INFO")
    toy_run(tmp_path, 2)
    assert "step 2 of 2, validation: weight " in caplog.text and "weight.part" not in caplog.text
    assert any("validation.weight.part" in row for row in read_journal(tmp_path / "metrics.jsonl"))


def test_processes_leave_a_parameter_alone_that_has_no_gradient_in_any_of_them():
    class Two:
        world_size = 2

        def sum_over_ranks(self, flat):
            """The other process, which has a gradient for the second parameter, adds its own."""
            theirs = torch.tensor([1.0, 1.0, 0.0]), torch.full((2,), 2.0), torch.ones(3), torch.zeros(1)
            return flat + torch.cat(theirs)

    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (2, 3, 1)]
    parameters[0].grad = torch.ones(2)
    average_over_ranks(parameters, Two())
    assert parameters[0].grad.tolist() == [1.5, 1.5]
    assert parameters[1].grad.tolist() == [0.5, 0.5, 0.5], "lacking here, but not there"
    assert parameters[2].grad is None, "an optimizer would count a step with zeros"


def test_old_checkpoints_are_pruned(tmp_path):
    toy_run(tmp_path, keep_checkpoints=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [9, 10]


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="not available"):
        pick_device("cuda" if not torch.cuda.is_available() else "mps")
    with pytest.raises(UsageError, match="expected a device"):
        pick_device("gpu0")


def test_a_step_waits_for_the_device_once(tmp_path):
    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Waits.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    def waits(steps):
        Waits.count = 0
        changes = {"steps": steps, "log_every": 100, "validate_every": 100, "save_every": 100}
        config = ToyConfig(out=str(tmp_path / str(steps)), training=ToyConfig().training.model_copy(update=changes),
                           device="cpu")
        task = ToyTask(config)
        # Adam waits for its own count of steps, on the CPU
        task.optimizers = {"model": torch.optim.SGD(task.networks["model"].parameters())}
        with claim_output("train-ar", config, {}) as output, Waits():
            train(task, Run(config), output)
        return Waits.count

    assert waits(9) - waits(4) == 5


def test_an_average_that_a_run_did_not_have_begins_with_its_weights(tmp_path):
    toy_run(tmp_path, 4, ema_decay=None)
    config = ToyConfig(out=str(tmp_path), training=ToyConfig().training.model_copy(update={"ema_decay": 0.9}))
    task = ToyTask(config)
    average = MovingAverage(0.9, dict(task.networks["model"].named_parameters()))
    tensors, _ = load_trainer_state(list_checkpoints(tmp_path)[-1][1])
    restore_state(tensors, task.networks, task.optimizers, average)
    for name, parameter in task.networks["model"].named_parameters():
        assert torch.equal(average.tensors[name], parameter)


@pytest.mark.parametrize("kept, free, enough", [(1, 2.3, True), (1, 2.1, False), (5, 6.3, True), (5, 6.1, False)])
def test_room_is_asked_for_all_checkpoints_that_lie_beside_each_other(tmp_path, monkeypatch, kept, free, enough):
    monkeypatch.setattr(state.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free * 1e6))
    with nullcontext() if enough else pytest.raises(StorageError, match="free space") as refused:
        state.require_room(tmp_path, 1_000_000, kept)
    assert enough or ("keep_checkpoints" in refused.value.hint) == (kept > 1), "one cannot be fewer"
