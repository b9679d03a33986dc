"""Signals, which differ between systems: the only module that knows them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# what asks a run to stop: a person, the system, a scheduler that warns before it does
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))

# what ends a process from outside, by a person or a system short of memory
ENDING = tuple(getattr(signal, name) for name in ("SIGKILL", "SIGTERM") if hasattr(signal, name))


@contextmanager
def caught(handle: Callable[[int], None]) -> Iterator[None]:
    """Call `handle` with the number of each signal that asks to stop while the body runs.

    Only the main thread may: in others nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, lambda number, frame: handle(number)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """Leave it to the parent process to stop this one when a person presses Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def signal_name(number: int) -> str:
    """Return what a system calls a signal, such as SIGSEGV; real-time signals have numbers only."""
    known = {each.value: each.name for each in signal.Signals}
    return known.get(number, f"signal {number}")
