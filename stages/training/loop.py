"""One training loop for every model: steps, rates, accumulation, logging, validation, checkpoints, resume, signals.

A task owns networks, optimizers, batches and `train_step`; the loop knows no model and no dataset. Everything
random is a function of (seed, step), so a resumed run repeats an uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.artifacts.checkpoint import (
    CHECKPOINTS,
    exported_tensors,
    list_checkpoints,
    load_trainer_state,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from stages.artifacts.run_dir import Output, check_output
from stages.artifacts.samples import Sample
from stages.artifacts.storage import is_complete
from stages.config.stage_configs import RunConfig, TrainingConfig
from stages.errors import InterruptedRunError
from stages.progress import Progress
from stages.randomness import derive_seed
from stages.training.guard import FiniteGuard, NotFiniteError
from stages.training.interrupts import StopRequest, stop_on_signals
from stages.training.largest_batch import memory_told, try_largest_batch
from stages.training.optim import (
    MovingAverage,
    average_over_ranks,
    copy_into,
    gradient_norm,
    learning_rate,
    scale_gradients,
)
from stages.training.processes import Processes
from stages.training.records import LossWindow, Records, Report, in_one_line, in_short, open_records
from stages.training.state import (
    checkpoint_bytes,
    copy_to_cpu,
    flatten_state,
    parameters_of,
    require_room,
    restore_state,
)
from stages.training.tracking import TRACKER, require_tracker

if TYPE_CHECKING:
    from stages.training.sharding import ShardedModel

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


@runtime_checkable
class Shardable(Protocol):
    """A task whose model may be divided among the processes (stages/training/sharding.py)."""

    def shards(self) -> Sequence[nn.Module]:
        """Return the blocks to divide, each of which all processes use in every step; none to leave it whole."""
        ...


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
        self.order = {name: parameters_of(optimizer) for name, optimizer in task.optimizers.items()}
        self.sharded: ShardedModel | None = None
        self.measures: dict[str, float] = {}

    def train(self) -> TrainingResult:
        size = checkpoint_bytes(self.task.networks, self.average)
        self.run.processes.on_main(lambda: require_room(self.output.path, size, self.settings.keep_checkpoints))
        with stop_on_signals() as stop:
            while True:
                try:
                    return self._train_on(stop)
                except NotFiniteError as error:
                    self._prepare_rollback(error)

    def _train_on(self, stop: StopRequest) -> TrainingResult:
        step = self._resume()
        progress = Progress(self.output.path.name, self.settings.steps, start=step)
        with self._open_records(step) as records:
            if step == 0:
                self.run.begin_step(0)
                self.task.prepare(self.run)
                self._restart_average()
            self._shard()
            if step < self.settings.steps:
                try_largest_batch(self.task, self.run)
            window = LossWindow()
            while step < self.settings.steps:
                step += 1
                window.add(self._step(step))
                last = step == self.settings.steps
                logged = self._log(records, step, window) if step % self.settings.log_every == 0 or last else {}
                progress.advance(note=in_one_line(logged))
                if step % self.settings.validate_every == 0 or last:
                    self._validate(records, step)
                signal_number = self.run.processes.largest(stop.signal_number)  # all stop at the same step
                if step % self.settings.save_every == 0 or last or signal_number:
                    self.guard.require_finite_state()
                    self._save(step)
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
                    group["lr"] = rate * group.get("rate", 1.0)
                optimizer.step()
            if self.average is not None:
                self.average.update(dict(self.model.named_parameters()))
        for optimizer in self.task.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        return {**totals, **{f"gradient_norm.{name}": norm for name, norm in norms.items()}, "learning_rate": rate}

    def _average(self, optimizer: Optimizer) -> Tensor:
        parameters = parameters_of(optimizer)
        alike = parameters if self.sharded is None else self.sharded.undivided(parameters)
        if self.run.world_size > 1 and any(parameter.grad is not None for parameter in alike):
            average_over_ranks(alike, self.run)
        return gradient_norm(parameters)

    def _clip(self, optimizer: Optimizer, norm: Tensor) -> None:
        if self.settings.clip_norm is not None:
            scale_gradients(parameters_of(optimizer), torch.clamp(self.settings.clip_norm / (norm + 1e-6), max=1.0))

    def _log(self, records: Records | None, step: int, window: LossWindow) -> dict[str, float]:
        values = window.mean(self.run)
        if records is not None:
            records.add(step, values)
        log.debug("step %d of %d: %s", step, self.settings.steps, in_short(values))
        return values

    def _validate(self, records: Records | None, step: int) -> None:
        self._train_mode(False)
        with torch.no_grad(), self._averaged_weights(), self.sharded.whole() if self.sharded else nullcontext():
            self.measures = self.task.validate(self.run)
            heard = self.task.samples(self.run) if records is not None and isinstance(self.task, Audible) else []
        log.info("step %d of %d, validation: %s", step, self.settings.steps, in_short(self.measures))
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
            copy_into(self.model, self.average.tensors)
            yield
        finally:
            copy_into(self.model, own)

    def _restart_average(self) -> None:
        if self.average is not None:
            self.average = MovingAverage(self.settings.ema_decay, dict(self.model.named_parameters()))

    def _train_mode(self, training: bool) -> None:
        for network in self.task.networks.values():
            network.train(training)

    def _save(self, step: int) -> None:
        if self.sharded is None:
            self.run.processes.on_main(lambda: self._write(step, *self._state(copy_to_cpu)))
            return
        state = self._state(self.sharded.copier(self.run.is_main))  # all take part in gathering
        self.run.processes.on_main(lambda: self._write(step, *state))

    def _state(self, copy: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return copies of the tensors that are exported, and of the trainer's state."""
        with self._averaged_weights():
            exported = {name: copy(tensor) for name, tensor in exported_tensors(self.model).items()}
        return exported, flatten_state(self.task.networks, self.task.optimizers, self.average, self.order, copy)

    def _write(self, step: int, exported: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        kind, architecture, parents = self.task.identity()
        folder = self.output.path / CHECKPOINTS / f"step-{step:08d}"
        save_checkpoint(folder, kind, architecture, exported, parents,
                        (state, {"step": step, "skipped": self.guard.skipped, "rollbacks": self.rollbacks,
                                 "data_offset": self.run.data_offset}))
        prune_checkpoints(self.output.path, self.settings.keep_checkpoints)

    def _shard(self) -> None:
        """Divide the model, as it now is, if the task wants it and there are several processes."""
        blocks = self.task.shards() if isinstance(self.task, Shardable) and self.run.world_size > 1 else ()
        if blocks:
            from stages.training.sharding import ShardedModel

            optimizers = list(self.task.optimizers.values())
            self.sharded = ShardedModel(self.model, blocks, optimizers, self.average, self.run.device,
                                        self.run.world_size)
            self.order = self.sharded.pass_on(self.order)

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
        may = self.settings.on_divergence != "stop" and self.rollbacks < self.settings.max_rollbacks
        if not (may and done and self.sharded is None):  # a divided model takes no weights; the next run will
            raise error
        self.rollbacks += 1
        self.run.data_offset += self.run.step - done[-1][0]
        log.warning("%s; rolling back to step %d and leaving out the data since then (%d of at most %d times)",
                    error.message, done[-1][0], self.rollbacks, self.settings.max_rollbacks)
