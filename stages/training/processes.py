"""The processes of a run: which of them this one is, and what they do together.

`torchrun` and `accelerate launch` start several; anything else is one process, for which all of this is free.
"""

from __future__ import annotations

import atexit
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from stages.artifacts.run_dir import Output, claim_output
from stages.config.stage_configs import RunConfig
from stages.errors import PeerError, UsageError
from stages.parallel import Share, in_turn

T = TypeVar("T")
LEAVE_SECONDS = 2.0
# What threads of the group may still hold: they let go of a tensor after its sum is known, and need Python for it.
# A process that ends meanwhile is aborted, and a group that is closed meanwhile may wait for ever (torch 2.7 to 2.11).
_lent: dict[int, weakref.ref] = {}


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes CUDA, then the CPU (MPS is only taken when asked for)."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"expected a device such as cpu, cuda or mps, got `{name}`",
                         "use --device cpu or --device auto") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise UsageError(f"device `{name}` is not available on this machine", "use --device cpu or --device auto")
    return device


class Processes:
    """This process (`rank` of `world_size`, computing on `device`) and its peers.

    `patience` is how long one may wait for another: in training for its first process, which may align texts and speak
    at validations. Whatever they do together raises `PeerError` when a peer has ended: its own message says why.
    """

    def __init__(self, device: str, patience: timedelta = timedelta(days=1)):
        cpu = device == "cpu" or not torch.cuda.is_available()  # else Accelerate sees one process without CUDA
        self._state = PartialState(cpu=cpu, timeout=patience)
        self.rank, self.world_size = self._state.process_index, self._state.num_processes
        self.device = self._state.device if device == "auto" else pick_device(device)
        if self.world_size > 1:
            atexit.register(_leave)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self) -> Share:
        """Return this process's share of work that is divided among all."""
        return Share(self.rank, self.world_size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of everyone's tensor."""
        return tensor if self.world_size == 1 else _reduce(tensor, "SUM")

    def largest(self, number: int) -> int:
        """Return the largest of everyone's numbers: how they agree."""
        return number if self.world_size == 1 else int(_reduce(torch.tensor(number, device=self.device), "MAX"))

    def wait(self) -> None:
        """Return when everyone has come here."""
        with _peers_present():
            self._state.wait_for_everyone()

    def gather(self, found: list[T]) -> list[T]:
        """Return what all have found of their shares, in the order of the items."""
        if self.world_size == 1:
            return found
        with _peers_present():
            return in_turn(gather_object(found), self.world_size)

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Do `work` on the main process and return its result there; the others wait, and stop if it fails."""
        result, failure = None, None
        if self.is_main:
            try:
                result = work()
            except Exception as error:
                failure = error
        exit_code = self.largest(getattr(failure, "exit_code", 1) if failure else 0)
        if failure is not None:
            raise failure
        if exit_code:
            raise PeerError("stopped with the main process", exit_code=exit_code)
        return result

    @contextmanager
    def claim(self, stage: str, config: RunConfig, parents: dict[str, str]) -> Iterator[Output]:
        """Claim the output folder of a stage for all (`claim_output`); only the main process locks and writes it."""
        with ExitStack() as stack:
            output = self.on_main(lambda: stack.enter_context(claim_output(stage, config, parents)))
            complete = bool(self.largest(int(output is not None and output.complete)))
            yield output or Output(Path(config.out), complete)


def _reduce(tensor: Tensor, operation: str) -> Tensor:
    total = tensor.detach().clone()
    lent = total.detach()  # the same memory in a tensor that is nobody else's
    key = id(lent)
    _lent[key] = weakref.ref(lent, lambda _: _lent.pop(key, None))
    with _peers_present():
        torch.distributed.all_reduce(lent, getattr(torch.distributed.ReduceOp, operation))
    return total


def _leave() -> None:
    patience_ends = time.monotonic() + LEAVE_SECONDS
    while _lent and time.monotonic() < patience_ends:
        time.sleep(0.001)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _peers_present() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises, whatever the backend
        raise PeerError("another process of this run has ended or cannot be reached") from error
