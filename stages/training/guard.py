"""Steps whose losses or gradients are not finite: they change nothing, are explained, and soon end the run.

One such step is left out on all processes, its running statistics included. `IN_A_ROW` of them one after the other,
or more than `MOST_IN_WINDOW` of the last `WINDOW_STEPS` (0.1 %), end the run with the last good checkpoint in place.
A run that is told to roll back goes on from that checkpoint instead, with the data after that which it diverged on (as
PaLM did, arXiv:2204.02311, section 5.1).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from stages.artifacts.storage import append_jsonl
from stages.errors import DivergedError

log = logging.getLogger("halle.training")

IN_A_ROW = 3
WINDOW_STEPS, MOST_IN_WINDOW = 1000, 1
SKIPPED = "skipped_steps.jsonl"  # in a run folder
SHOWN = 6  # names in a line; the file has all
HINT = "lower training.learning_rate, or go on with -O training.on_divergence=rollback; the last checkpoint is good"


@runtime_checkable
class Traceable(Protocol):
    """A task that can tell what a batch is made of."""

    def utterances(self, step: int, micro: int, rank: int, world_size: int) -> list[str]:
        """Return the ids of what a process takes of a global micro-batch."""
        ...


class NotFiniteError(DivergedError):
    """Too many steps were not finite, or the weights are not."""


class FiniteGuard:
    """Judges every step of a run. `run` and `task` are those of the loop; `folder` is the run's."""

    def __init__(self, task: Any, run: Any, folder: Path):
        self._task, self._run, self._folder = task, run, folder
        self.skipped: list[int] = []  # the latest, of the last WINDOW_STEPS steps
        self._before: list[Tensor] = []  # buffers, as a step found them

    def begin_step(self) -> None:
        """Remember what a step changes by itself: running statistics, codebooks."""
        buffers = self._buffers()
        if len(self._before) != len(buffers):
            self._before = [torch.empty_like(buffer) for buffer in buffers]
        for kept, buffer in zip(self._before, buffers, strict=True):
            kept.copy_(buffer)

    def _buffers(self) -> list[Tensor]:
        return [buffer for network in self._task.networks.values() for buffer in network.buffers()]

    def accepts(self, micros: Sequence[Mapping[str, Tensor]], together: Iterable[Tensor]) -> bool:
        """Agree over all processes whether a step may change the weights; raise when too many may not.

        `together` are its losses and gradient norms, `micros` the losses of each of its micro-batches. The one place
        where the loop waits for the device at every step: each further one would leave it idle.
        """
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32).to(self._run.device) for value in together])
        bad = (~values.isfinite()).sum(dtype=torch.float32)
        if float(self._run.sum_over_ranks(bad)) == 0:
            return True
        for kept, buffer in zip(self._before, self._buffers(), strict=True):
            buffer.copy_(kept)
        step = self._run.step
        self.skipped = [*(old for old in self.skipped if old > step - WINDOW_STEPS), step]
        self._explain(micros)
        self._refuse_too_many()
        return False

    def _refuse_too_many(self) -> None:
        step = self._run.step
        if self.skipped[-IN_A_ROW:] == list(range(step - IN_A_ROW + 1, step + 1)):
            raise NotFiniteError(f"losses or gradients were not finite for {IN_A_ROW} steps in a row, at step {step}",
                                 HINT)
        if len(self.skipped) > MOST_IN_WINDOW:
            raise NotFiniteError(f"expected losses and gradients that are not finite in at most {MOST_IN_WINDOW} of "
                                 f"{WINDOW_STEPS} steps, got {len(self.skipped)}: {_listed(self.skipped)}", HINT)

    def _explain(self, micros: Sequence[Mapping[str, Tensor]]) -> None:
        """Say which losses, which parameters and which utterances it was; all processes take part."""
        names = sorted(micros[0])
        world_size, rank = self._run.world_size, self._run.rank
        flags = torch.zeros(world_size, len(micros), len(names))
        for micro, losses in enumerate(micros):
            flags[rank, micro] = torch.tensor([not bool(torch.isfinite(losses[name]).all()) for name in names])
        flags = self._run.sum_over_ranks(flags.to(self._run.device)).cpu()
        if rank:
            return
        losses = [name for name, bad in zip(names, flags.sum((0, 1)).tolist(), strict=True) if bad]
        parameters = _bad_gradients(self._task.networks)
        places = flags.sum(2).nonzero().tolist() or [[r, m] for r in range(world_size) for m in range(len(micros))]
        utterances = self._utterances(places)
        log.warning("step %d skipped, not finite: losses %s; gradients of %s; utterances %s", self._run.step,
                    _listed(losses), _listed(_groups(parameters)), _listed(utterances))
        append_jsonl(self._folder / SKIPPED, {"step": self._run.step, "data_step": self._run.data_step,
                                              "losses": losses, "parameters": parameters, "utterances": utterances})

    def _utterances(self, places: Iterable[Sequence[int]]) -> list[str]:
        if not isinstance(self._task, Traceable):
            return []
        found = [name for rank, micro in places
                 for name in self._task.utterances(self._run.data_step, micro, rank, self._run.world_size)]
        return list(dict.fromkeys(found))

    def require_finite_state(self) -> None:
        """Refuse to save weights or statistics that are not finite; all processes come to the same end."""
        tensors = {f"{network}.{name}": tensor for network, module in self._task.networks.items()
                   for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
        bad = torch.stack([(~_own(tensor).isfinite()).any() for tensor in tensors.values()]).float()
        if float(self._run.sum_over_ranks(bad.sum())) == 0:
            return
        names = [name for name, flag in zip(tensors, bad.tolist(), strict=True) if flag]
        raise NotFiniteError(f"weights are not finite at step {self._run.step}, and were not saved: {_listed(names)}",
                             HINT)


def _bad_gradients(networks: Mapping[str, nn.Module]) -> list[str]:
    return [f"{network}.{name}" for network, module in networks.items() for name, parameter in module.named_parameters()
            if parameter.grad is not None and not bool(_own(parameter.grad).isfinite().all())]


def _own(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that is divided among processes, or the whole."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _groups(parameters: Iterable[str]) -> list[str]:
    """Return the modules that hold the parameters, with their number: `model.decoder.3 (12 parameters)`."""
    counts: dict[str, int] = {}
    for name in parameters:
        group = ".".join(name.split(".")[:-1][:4]) or name
        counts[group] = counts.get(group, 0) + 1
    return [f"{group} ({count} parameter{'s' * (count > 1)})" for group, count in counts.items()]


def _listed(names: Sequence[Any]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + more
