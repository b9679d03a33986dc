"""The processes of a run: which of them this one is, and what they do together.

`torchrun` and `accelerate launch` start several; anything else is one process, for which all of this is free.
"""

from __future__ import annotations

import atexit
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from stages.artifacts.run_dir import Output, claim_output
from stages.config.stage_configs import RunConfig
from stages.errors import PeerError, UsageError

T = TypeVar("T")


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

    `patience` is how long one may wait for another. Whatever they do together raises `PeerError` when a peer has
    ended: its own message says why.
    """

    def __init__(self, device: str, patience: timedelta | None = None):
        if torch.distributed.is_available():
            # Its functions keep the group of the moment they are imported, which optimizers do: before there is one.
            importlib.import_module("torch.distributed.nn.functional")
        cpu = device == "cpu" or not torch.cuda.is_available()  # else Accelerate sees one process without CUDA
        self._state = PartialState(cpu=cpu, **({"timeout": patience} if patience else {}))
        self.rank, self.world_size = self._state.process_index, self._state.num_processes
        self.device = self._state.device if device == "auto" else pick_device(device)
        if self.world_size > 1:
            atexit.register(_leave)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of everyone's tensor."""
        if self.world_size == 1:
            return tensor
        with _peers_present():
            return reduce(tensor, "sum")

    def largest(self, number: int) -> int:
        """Return the largest of everyone's numbers: how they agree."""
        if self.world_size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        with _peers_present():
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
            return int(value)

    def wait(self) -> None:
        """Return when everyone has come here."""
        with _peers_present():
            self._state.wait_for_everyone()

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


def _leave() -> None:
    """Leave the group in order: a thread of one that is still open may free a tensor after Python's end, and abort."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _peers_present() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises, whatever the backend
        raise PeerError("another process of this run has ended or cannot be reached") from error
