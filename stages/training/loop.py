"""One training loop for every model: steps, rates, accumulation, logging, validation, checkpoints, resume, signals.

A task owns networks, optimizers, batches and `train_step`; the loop knows no model and no dataset. Everything
random is a function of (seed, step), so a resumed run repeats an uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.artifacts.checkpoint import (
    CHECKPOINTS,
    exported_tensors,
    list_checkpoints,
    load_trainer_state,
    newest_checkpoint,
    save_checkpoint,
)
from stages.artifacts.run_dir import Output, check_output
from stages.artifacts.samples import Sample
from stages.artifacts.storage import is_complete, remove_folder
from stages.config.stage_configs import RunConfig, TrainingConfig
from stages.errors import InterruptedRunError
from stages.progress import Progress
from stages.randomness import derive_seed
from stages.training.guard import FiniteGuard, NotFiniteError
from stages.training.interrupts import StopRequest, stop_on_signals
from stages.training.largest_batch import memory_told, try_largest_batch
from stages.training.optim import MovingAverage, gradient_norm, learning_rate, scale_gradients
from stages.training.processes import Processes
from stages.training.records import LossWindow, Records, Report, open_records
from stages.training.state import checkpoint_bytes, copy_to_cpu, flatten_state, require_room, restore_state
from stages.training.tracking import TRACKER, require_tracker

log = logging.getLogger("halle.training")


class Task(Protocol):
    """What a trainer brings. `networks["model"]` is averaged and exported; all of them are resumed, so whatever else
    a task must remember is a buffer of one."""

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]

    def prepare(self, run: Run) -> None:
        """Do once, before step 1 of a fresh run, what needs data: k-means, input statistics, a parity gate."""
        ...

    def batch(self, step: int, micro: int, run: Run) -> Any:
        """Return this process's part of a global micro-batch, a pure function of (seed, step, micro)."""
        ...

    def train_step(self, batch: Any, run: Run) -> dict[str, Tensor]:
        """Compute losses, call `run.backward` and return what to log, every name with its value."""
        ...

    def validate(self, run: Run) -> dict[str, float]:
        """Return measures on held-out items; networks are in eval mode with their averaged weights."""
        ...

    def identity(self) -> tuple[str, dict, dict]:
        """Return the checkpoint's kind, its JSON-ready architecture and its parents' fingerprints."""
        ...


@runtime_checkable
class Audible(Protocol):
    """A task with something to hear."""

    def samples(self, run: Run) -> list[Sample]:
        """Return a few sounds at a validation, the same ones each time; called on the main process only."""
        ...


class Run:
    """One process of a run: where it computes, what step it is at, how it adds gradients and sums over processes.

    `data_step` is the step whose data it hears: ahead of `step` by what was left out after rolling back.
    """

    def __init__(self, config: RunConfig):
        self.settings: TrainingConfig = config.training
        self.seed = config.seed
        self.processes = Processes(config.device)
        self.device = self.processes.device
        self.rank, self.world_size = self.processes.rank, self.processes.world_size
        self.step = self.data_step = self.data_offset = 0
        self.trying = False  # a batch that will be forgotten
        self.generator = torch.Generator()

    @property
    def is_main(self) -> bool:
        return self.processes.is_main

    def begin_step(self, step: int) -> None:
        """Seed everything random of this step."""
        self.step, self.data_step = step, step + self.data_offset
        self.generator.manual_seed(derive_seed(self.seed, "step", self.data_step))
        torch.manual_seed(derive_seed(self.seed, "dropout", self.data_step, self.rank))

    def autocast(self) -> AbstractContextManager:
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss; they are averaged over micro-batches and processes before the step."""
        (loss / self.settings.accumulation).backward()

    def claim(self, stage: str, config: RunConfig, parents: dict[str, str]) -> AbstractContextManager[Output]:
        """Claim the output folder for all processes."""
        return self.processes.claim(stage, config, parents)

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        return self.processes.sum(tensor)


@dataclass(frozen=True)
class TrainingResult:
    """Where a run stands: its step, its newest checkpoint and the last validation's measures."""

    step: int
    checkpoint: Path
    measures: dict[str, float]


def finished_result(output: Output, steps: int) -> TrainingResult | None:
    """Return the result of an earlier run that already reached `steps`, else None."""
    if not is_complete(output.path):
        return None
    done = list_checkpoints(output.path)
    return TrainingResult(done[-1][0], done[-1][1], {}) if done and done[-1][0] >= steps else None


def train(task: Task, run: Run, output: Output, report: Report | None = None) -> TrainingResult:
    """Train `task` to the planned number of steps, continuing from the newest checkpoint in `output`.

    Raises `InterruptedRunError` after saving when a signal asks to stop, `DivergedError` when losses or
    gradients stay non-finite.
    """
    return _Trainer(task, run, output, report).train()


def check_run(stage: str, config: RunConfig, parents: dict[str, str]) -> None:
    """Refuse what `train_once` would refuse before it trains: for the plan of a run."""
    require_tracker(config.training.tracker)
    check_output(stage, config, parents)


def train_once(run: Run, stage: str, config: RunConfig, parents: dict[str, str], make_task: Callable[[], Task],
               export: Callable[[Path], object] | None = None,
               report: Report | None = None) -> tuple[TrainingResult, Task | None]:
    """Claim the output of a trainer's stage, train unless an earlier run has, and mark the folder complete.

    `make_task` is called only when there is something to train, else the task returned is None. `export`, given
    the last checkpoint, writes what else the folder shall hold. `report` writes the folder's page at validations.
    """
    require_tracker(config.training.tracker)
    with run.claim(stage, config, parents) as output:
        result = finished_result(output, config.training.steps)
        if result is not None:
            return result, None
        task = make_task()
        with memory_told(task, run):
            result = train(task, run, output, report)
        if run.is_main:
            if export is not None:
                export(result.checkpoint)
            output.finish(exclude=(TRACKER,))
    return result, task


class _Trainer:
    def __init__(self, task: Task, run: Run, output: Output, report: Report | None):
        self.task, self.run, self.output, self.report = task, run, output, report
        self.settings = run.settings
        for network in task.networks.values():
            network.to(run.device)
        self.model = task.networks["model"]
        self.average = None
        if self.settings.ema_decay is not None:
            self.average = MovingAverage(self.settings.ema_decay, dict(self.model.named_parameters()))
        self.guard = FiniteGuard(task, run, output.path)
        self.rollbacks = 0
        self.measures: dict[str, float] = {}

    def train(self) -> TrainingResult:
        self.run.processes.on_main(self._require_room)
        with stop_on_signals() as stop:
            while True:
                try:
                    return self._train_on(stop)
                except NotFiniteError as error:
                    self._prepare_rollback(error)

    def _require_room(self) -> None:
        require_room(self.output.path, checkpoint_bytes(self.task.networks, self.average))

    def _train_on(self, stop: StopRequest) -> TrainingResult:
        step = self._resume()
        progress = Progress(self.output.path.name, self.settings.steps, start=step)
        with self._open_records(step) as records:
            if step == 0:
                self.run.begin_step(0)
                self.task.prepare(self.run)
                self._restart_average()
            if step < self.settings.steps:
                try_largest_batch(self.task, self.run)
            window = LossWindow()
            while step < self.settings.steps:
                step += 1
                window.add(self._step(step))
                last = step == self.settings.steps
                logged = self._log(records, step, window) if step % self.settings.log_every == 0 or last else {}
                progress.advance(note=_summary(logged))
                if step % self.settings.validate_every == 0 or last:
                    self._validate(records, step)
                signal_number = self.run.processes.largest(stop.signal_number)  # all stop at the same step
                if step % self.settings.save_every == 0 or last or signal_number:
                    self.guard.require_finite_state()
                    self.run.processes.on_main(partial(self._save, step))
                if signal_number and not last:
                    raise InterruptedRunError(signal_number, f"stopped after step {step} of {self.settings.steps}; "
                                              "everything is saved", "run the same command again to go on")
        progress.close()
        return TrainingResult(step, list_checkpoints(self.output.path)[-1][1], self.measures)

    def _open_records(self, step: int) -> AbstractContextManager[Records | None]:
        if not self.run.is_main:
            return nullcontext()
        self.output.reopen()
        return open_records(self.output, step, self.settings.tracker, self.report)

    def _step(self, step: int) -> dict[str, Tensor]:
        self.run.begin_step(step)
        rate = learning_rate(self.settings, step)
        totals: dict[str, Tensor] = {}
        micros = []
        self._train_mode(True)
        self.guard.begin_step()
        for micro in range(self.settings.accumulation):
            losses = self.task.train_step(self.task.batch(self.run.data_step, micro, self.run), self.run)
            micros.append({name: value.detach() for name, value in losses.items()})
            for name, value in micros[-1].items():
                totals[name] = totals.get(name, 0) + value / self.settings.accumulation
        norms = {name: self._average(optimizer) for name, optimizer in self.task.optimizers.items()}
        if self.guard.accepts(micros, [*totals.values(), *norms.values()]):
            for name, optimizer in self.task.optimizers.items():
                self._clip(optimizer, norms[name])
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
            if self.average is not None:
                self.average.update(dict(self.model.named_parameters()))
        for optimizer in self.task.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        return {**totals, **{f"gradient_norm.{name}": norm for name, norm in norms.items()}, "learning_rate": rate}

    def _average(self, optimizer: Optimizer) -> Tensor:
        parameters = _parameters(optimizer)
        if self.run.world_size > 1 and any(parameter.grad is not None for parameter in parameters):
            _average_over_ranks(parameters, self.run)
        return gradient_norm(parameters)

    def _clip(self, optimizer: Optimizer, norm: Tensor) -> None:
        if self.settings.clip_norm is not None:
            scale_gradients(_parameters(optimizer), torch.clamp(self.settings.clip_norm / (norm + 1e-6), max=1.0))

    def _log(self, records: Records | None, step: int, window: LossWindow) -> dict[str, float]:
        values = window.mean(self.run)
        if records is not None:
            records.add(step, values)
        log.debug("step %d of %d: %s", step, self.settings.steps, _in_short(values))
        return values

    def _validate(self, records: Records | None, step: int) -> None:
        self._train_mode(False)
        with torch.no_grad(), self._averaged_weights():
            self.measures = self.task.validate(self.run)
            heard = self.task.samples(self.run) if records is not None and isinstance(self.task, Audible) else []
        log.info("step %d of %d, validation: %s", step, self.settings.steps, _in_short(self.measures))
        if records is not None:
            records.add(step, {f"validation.{name}": value for name, value in self.measures.items()})
            records.report(heard)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights into the model while the body runs."""
        if self.average is None:
            yield
            return
        own = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        try:
            _copy_into(self.model, self.average.tensors)
            yield
        finally:
            _copy_into(self.model, own)

    def _restart_average(self) -> None:
        if self.average is not None:
            self.average = MovingAverage(self.settings.ema_decay, dict(self.model.named_parameters()))

    def _train_mode(self, training: bool) -> None:
        for network in self.task.networks.values():
            network.train(training)

    def _save(self, step: int) -> None:
        kind, architecture, parents = self.task.identity()
        with self._averaged_weights():
            exported = {name: copy_to_cpu(tensor) for name, tensor in exported_tensors(self.model).items()}
        state = flatten_state(self.task.networks, self.task.optimizers, self.average)
        folder = self.output.path / CHECKPOINTS / f"step-{step:08d}"
        save_checkpoint(folder, kind, architecture, exported, parents,
                        (state, {"step": step, "skipped": self.guard.skipped, "rollbacks": self.rollbacks,
                                 "data_offset": self.run.data_offset}))
        _prune(self.output.path, self.settings.keep_checkpoints)

    def _resume(self) -> int:
        folder = newest_checkpoint(self.output.path)
        if folder is None:
            return 0
        tensors, values = load_trainer_state(folder)
        restore_state(tensors, self.task.networks, self.task.optimizers, self.average)
        self.guard.skipped = values.get("skipped", [])
        self.rollbacks = max(self.rollbacks, values.get("rollbacks", 0))
        self.run.data_offset = max(self.run.data_offset, values.get("data_offset", 0))
        log.info("continuing from step %d", values["step"])
        return values["step"]

    def _prepare_rollback(self, error: NotFiniteError) -> None:
        """Leave out the data since the last checkpoint, so that training goes on from there; or raise the error."""
        done = list_checkpoints(self.output.path)
        if self.settings.on_divergence == "stop" or self.rollbacks == self.settings.max_rollbacks or not done:
            raise error
        self.rollbacks += 1
        self.run.data_offset += self.run.step - done[-1][0]
        log.warning("%s; rolling back to step %d and leaving out the data since then (%d of at most %d times)",
                    error.message, done[-1][0], self.rollbacks, self.settings.max_rollbacks)


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _average_over_ranks(parameters: list[nn.Parameter], run: Run) -> None:
    """Average gradients with one sum over all processes; a gradient that one of them lacks counts as zero.

    What all lack stays without: given zeros, an optimizer would count the step and decay the weight, which it does
    not in a run of one process.
    """
    complete = all(parameter.grad is not None for parameter in parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    owned = torch.tensor([float(p.grad is not None) for p in parameters]).to(gradients[0])
    flat = torch.cat([owned, *(gradient.reshape(-1) for gradient in gradients)])
    owners, *parts = (run.sum_over_ranks(flat) / run.world_size).split([len(owned), *(p.numel() for p in parameters)])
    known = [1.0] * len(owned) if complete else owners.tolist()  # who has all need not wait for the device
    for parameter, gradient, part, owner in zip(parameters, gradients, parts, known, strict=True):
        if owner:
            parameter.grad = gradient.copy_(part.view_as(gradient))


def _copy_into(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[name])


def _prune(run_dir: Path, keep: int) -> None:
    for _, folder in list_checkpoints(run_dir)[:-keep]:
        remove_folder(folder)


def _in_short(measures: dict[str, float]) -> str:
    """Return the measures of the whole model; those of its parts, `loss.level3`, are for metrics.jsonl."""
    return ", ".join(f"{name} {value:.4g}" for name, value in measures.items() if "." not in name)


def _summary(logged: dict[str, float]) -> str:
    silent = ("learning_rate", "seconds_per_step", "tokens")
    shown = [f"{name} {value:.3g}" for name, value in logged.items()
             if "." not in name and name not in silent and math.isfinite(value)]
    return "  ".join(shown[:4])
