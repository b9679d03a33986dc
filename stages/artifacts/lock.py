"""One writer an output folder: a lock file that names its owner and outlives no process."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from stages.artifacts.storage import storage_errors
from stages.errors import LockedError

LOCK = ".lock"


@contextmanager
def lock_output(folder: str | Path) -> Iterator[None]:
    """Hold `folder/.lock` while the body runs; `LockedError` when a living process holds it.

    A lock whose process has died on this machine is taken over.
    """
    path = Path(folder) / LOCK
    with storage_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def refuse_locked(folder: str | Path) -> None:
    """Raise `LockedError` when a living process holds `folder`."""
    path = Path(folder) / LOCK
    if path.exists():
        _take_over_or_refuse(path)


def _acquire(path: Path) -> None:
    me = psutil.Process()
    owner = {"pid": me.pid, "started": me.create_time(), "host": socket.gethostname()}
    for _ in range(2):
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(owner, file)
            return
        except FileExistsError:
            _take_over_or_refuse(path)
    raise LockedError(f"`{path.parent}` was locked by another run at the same moment", "run the command again")


def _take_over_or_refuse(path: Path) -> None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # torn by a kill, or just released
        path.unlink(missing_ok=True)
        return
    if owner["host"] == socket.gethostname() and not _is_running(owner):
        path.unlink(missing_ok=True)
        return
    raise LockedError(f"`{path.parent}` is being written by process {owner['pid']} on `{owner['host']}`",
                      f"wait for it, choose another --out, or delete `{path}` if that process is gone")


def _is_running(owner: dict) -> bool:
    if owner["pid"] == os.getpid():
        return True
    try:
        process = psutil.Process(owner["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:  # killed, and not yet collected by its parent
            return False
        return abs(process.create_time() - owner["started"]) < 2.0
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
