"""The largest batch of a run, tried before its first step: what does not fit into memory shows at once.

The trial leaves nothing behind: weights have no gradients after it, running statistics and random numbers are as they
were. Adam's moments, which come with the first step, are held in memory meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from stages.config.lm_training import LMTrainingConfig
from stages.config.stage_configs import CodecTrainingConfig
from stages.errors import MemoryFullError, is_out_of_memory

if TYPE_CHECKING:
    from stages.training.loop import Run

log = logging.getLogger("halle.training")


@dataclass(frozen=True)
class LargestBatch:
    """A batch such as `Task.batch` returns, made by `make`, at a `step` in which everything takes part.

    `size` says in words how large it is, `remedy` with which options it becomes smaller.
    """

    make: Callable[[], Any]
    step: int
    size: str
    remedy: str


@runtime_checkable
class Measured(Protocol):
    """A task that knows its largest batch."""

    def largest_batch(self, run: Run) -> LargestBatch:
        """Return the largest micro-batch that this process will be given."""
        ...


def try_largest_batch(task: Any, run: Run) -> None:
    """Do a step of the largest batch and forget it; raise `MemoryFullError` when memory does not suffice."""
    if not run.settings.try_largest_batch or not isinstance(task, Measured):
        return
    largest = task.largest_batch(run)
    with _memory_told(largest, run, "before the first step"), _leaving_no_trace(task, run):
        run.begin_step(largest.step)
        batch, moments = largest.make(), _missing_moments(task)
        for _ in range(min(2, run.settings.accumulation)):  # the second one finds gradients
            task.train_step(batch, run)
        del moments
    log.debug("the largest batch fits: %s", largest.size)


@contextmanager
def memory_told(task: Any, run: Run) -> Iterator[None]:
    """Say of running out of memory in the body what was too large, and how to make it smaller."""
    if not isinstance(task, Measured):
        yield
        return
    with _memory_told(task.largest_batch(run), run, None):
        yield


@contextmanager
def _memory_told(largest: LargestBatch, run: Run, when: str | None) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = f"on `{run.device}` {when or f'at step {run.step}'}"
        raise MemoryFullError(f"out of memory {where}: the largest batch of a process is {largest.size}",
                              largest.remedy) from error


def utterances_in_words(items: int, tokens: int) -> str:
    """Name a batch of items that are padded to so many tokens each."""
    return f"{items} utterance{'s' * (items > 1)} of {tokens:,} tokens, {items * tokens:,} in all"


def largest_crops(training: CodecTrainingConfig, samples: int, sample_rate: int, run: Run) -> LargestBatch:
    """Return a process's crops of a step, which are all equally long: noise, for what is heard does not matter."""
    items = max(1, training.batch_size // (training.accumulation * run.world_size))

    def make() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return (0.1 * torch.randn(items, 1, samples, generator=generator)).to(run.device)

    return LargestBatch(make, training.steps, crops_in_words(items, samples / sample_rate), smaller_batch(training))


def crops_in_words(items: int, seconds: float) -> str:
    return f"{items} crop{'s' * (items > 1)} of {seconds:g} s"


def smaller_batch(training: LMTrainingConfig | CodecTrainingConfig) -> str:
    """Say which options make the batches of a trainer smaller."""
    name, size = (("batch_tokens", training.batch_tokens) if isinstance(training, LMTrainingConfig) else
                  ("batch_size", training.batch_size))
    ways = [f"lower it: -O training.{name}={max(1, size // 2)} (now {size})",
            f"or divide it: -O training.accumulation={2 * training.accumulation}"]
    if isinstance(training, LMTrainingConfig) and not training.checkpoint_activations:
        ways.append("or trade time for memory: -O training.checkpoint_activations=true")
    return ", ".join(ways) + "; with --restart where nothing was trained yet"


def _missing_moments(task: Any) -> list[Tensor]:
    """Return as much memory as the optimizers will take with their first step; for Muon, which has one, two moments."""
    return [torch.empty_like(parameter) for optimizer in task.optimizers.values() for group in optimizer.param_groups
            for parameter in group["params"] if parameter not in optimizer.state for _ in range(2)]


@contextmanager
def _leaving_no_trace(task: Any, run: Run) -> Iterator[None]:
    networks = list(task.networks.values())
    buffers = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    modes = [(network, network.training) for network in networks]
    place, generator = dict(vars(run)), run.generator.get_state()
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for network in networks:
            network.train()
        run.trying = True
        try:
            yield
        finally:
            for optimizer in task.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            for buffer, before in buffers:
                buffer.copy_(before)
            for network, training in modes:
                network.train(training)
            vars(run).update(place)
            run.generator.set_state(generator)
