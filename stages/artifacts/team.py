"""The processes that make one artifact together, as stages see them: several (stages/training/processes.py), or one.

One process needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from stages.artifacts.run_dir import Output, claim_output
from stages.config.run_config import RunConfig
from stages.parallel import Share

T = TypeVar("T")


class Team(Protocol):
    """This process (`rank` of `world_size`) and its peers."""

    rank: int
    world_size: int

    def share(self) -> Share:
        """Return this process's share of work that is divided among all."""
        ...

    def wait(self) -> None:
        """Return when everyone has come here."""
        ...

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Do `work` on the main process and return its result there; the others wait, and stop if it fails."""
        ...

    def claim(self, stage: str, config: RunConfig, parents: dict[str, str]) -> AbstractContextManager[Output]:
        """Claim the output folder of a stage for all."""
        ...


class OneProcess:
    """A team of one."""

    rank, world_size = 0, 1

    def share(self) -> Share:
        return Share()

    def wait(self) -> None:
        """Nobody is waited for."""

    def on_main(self, work: Callable[[], T]) -> T:
        return work()

    def claim(self, stage: str, config: RunConfig, parents: dict[str, str]) -> AbstractContextManager[Output]:
        return claim_output(stage, config, parents)
