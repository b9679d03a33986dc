"""Work in forked children of a process that has imported everything: killed at a moment or at a change of a file.

A child costs a few milliseconds where a new process would import torch for seconds.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from halle_cli.console import Console

WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or the signal that killed it; what it said, how long and how large it was."""

    code: int | None
    signal: int | None
    said: str
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int

    @property
    def killed(self) -> bool:
        return self.signal in (signal.SIGKILL, signal.SIGPROF)


def in_child(work: Callable[[], object], log: Path, before: Callable[[], object] = lambda: None,
             timeout: float = 300.0) -> Ended:
    """Do `before`, then `work` as the command line would, in a child; its exit code is that of the command line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(work, log, before)
    status, usage = _wait(child, started + timeout)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return Ended(code, number, log.read_text(encoding="utf-8", errors="replace"), usage.ru_utime + usage.ru_stime,
                 time.monotonic() - started, usage.ru_maxrss * 1024)


def _be_child(work: Callable[[], object], log: Path, before: Callable[[], object]) -> None:
    code = 99
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout = sys.stderr = open(os.dup(output), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        before()
        Console().run(lambda: work() or {})
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _wait(child: int, until: float) -> tuple[int, resource.struct_rusage]:
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            raise TimeoutError(errno.ETIMEDOUT, "a child did not end in time")
        time.sleep(0.005)


# ---- how it is killed


def at_moment(cpu_seconds: float) -> Callable[[], None]:
    """Kill when so much time was computed: no handler, so the process is gone at once, as with SIGKILL."""
    def arm() -> None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, max(1e-4, cpu_seconds))

    return arm


def at_change(root: Path, number: int) -> Callable[[], None]:
    """Kill with SIGKILL just before change `number` = 1, 2, ... of a file below `root`."""
    def arm() -> None:
        _on_change(root, lambda count: count == number and os.kill(os.getpid(), signal.SIGKILL))

    return arm


def counting_changes(root: Path, to: Path) -> Callable[[], None]:
    """Write to a file how many changes there were so far."""
    def arm() -> None:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        _on_change(root, lambda count: os.pwrite(descriptor, str(count).encode(), 0))

    return arm


def _on_change(root: Path, then: Callable[[int], object]) -> None:
    """Call `then` with the number of each change: a file opened to be written, flushed, renamed, deleted."""
    below, count = os.fspath(root.resolve()), 0

    def note() -> None:
        nonlocal count
        count += 1
        then(count)

    def audit(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
            if str(arguments[0]).startswith(below):
                note()
        elif event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
            note()

    sys.addaudithook(audit)
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        note()
        flush(descriptor)

    os.fsync = fsync
