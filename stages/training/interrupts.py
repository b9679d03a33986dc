"""Signals become a request to stop after the current step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stages.signals import caught


@dataclass
class StopRequest:
    """`signal_number` is 0 until a signal asks the run to stop."""

    signal_number: int = 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catch SIGINT, SIGTERM and SIGUSR1 (a scheduler's warning) while the body runs; a second interrupts at once."""
    request = StopRequest()

    def on_signal(number: int) -> None:
        if request.signal_number:
            raise KeyboardInterrupt
        request.signal_number = number

    with caught(on_signal):
        yield request
