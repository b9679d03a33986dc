"""One writer an output folder: a lock file that names its owner and outlives no process."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from stages.artifacts.storage import storage_errors, temporary_beside
from stages.errors import LockedError

LOCK = ".lock"
# what making a hard link fails with where there are none, or where the one to link to was swept away
_WITHOUT_LINKS = {getattr(errno, name) for name in (
    "EPERM", "EACCES", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL", "ENOENT") if hasattr(errno, name)}


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
            _create(path, json.dumps(owner))
            return
        except FileExistsError:
            _take_over_or_refuse(path)
    raise LockedError(f"`{path.parent}` was locked by another run at the same moment", "run the command again")


def _create(path: Path, owner: str) -> None:
    """Make the lock, which nobody sees half written. Raises `FileExistsError` when there is one."""
    whole = temporary_beside(path)
    try:
        whole.write_text(owner, encoding="utf-8")
        try:
            os.link(whole, path)
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
                raise
            with path.open("x", encoding="utf-8") as file:
                file.write(owner)
    finally:
        whole.unlink(missing_ok=True)


def _take_over_or_refuse(path: Path) -> None:
    try:
        held = path.read_text(encoding="utf-8")
    except FileNotFoundError:  # just released
        return
    owner = None
    with suppress(ValueError):  # torn by a kill, on a file system without links
        owner = json.loads(held)
    if not isinstance(owner, dict) or (owner["host"] == socket.gethostname() and not _is_running(owner)):
        _remove(path, held)
        return
    raise LockedError(f"`{path.parent}` is being written by process {owner['pid']} on `{owner['host']}`",
                      f"wait for it, choose another --out, or delete `{path}` if that process is gone")


def _remove(path: Path, stale: str) -> None:
    """Remove a lock with these words; one that somebody has made in its place meanwhile stays."""
    aside = temporary_beside(path)
    with suppress(FileNotFoundError):  # somebody else was first
        path.replace(aside)
        if aside.read_text(encoding="utf-8") == stale:
            aside.unlink()
        else:
            aside.replace(path)


def _is_running(owner: dict) -> bool:
    try:
        process = psutil.Process(owner["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:  # killed, and not yet collected by its parent
            return False
        return abs(process.create_time() - owner["started"]) < 2.0
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
