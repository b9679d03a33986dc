"""How stages report progress without knowing who listens.

A stage opens a `Progress`, advances it, and whoever runs the stage (the command line, a test)
installs a listener. Without one, progress is silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Listener = Callable[["Progress"], None]

_listeners: list[Listener] = []


@dataclass
class Progress:
    """Count finished pieces of work. `start` is what an earlier, interrupted run had already done."""

    what: str
    total: int
    start: int = 0
    note: str = ""
    done: int = field(init=False)
    finished: bool = field(init=False, default=False)
    started_at: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.done = self.start
        self._tell()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        self._tell()

    def close(self) -> None:
        self.finished = True
        self._tell()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def seconds_left(self) -> float | None:
        """Estimate from this run's own pace; None before the first piece is done."""
        done_here = self.done - self.start
        if done_here <= 0:
            return None
        return self.seconds / done_here * max(0, self.total - self.done)

    def _tell(self) -> None:
        for listener in _listeners:
            listener(self)


def listen(listener: Listener) -> None:
    """Tell `listener` about every change of every progress from now on."""
    _listeners.append(listener)


def unlisten(listener: Listener) -> None:
    _listeners.remove(listener)
