"""R2: the Nth open, write, flush, rename or read of a file fails, as with a full or broken disk.

Python's own file operations are replaced in a child. What C and Rust libraries do by themselves counts where the
project calls them: `safetensors` when it writes and reads.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import safetensors

from stages.artifacts import checkpoint, tensors

KINDS = {"open": errno.EMFILE, "write": errno.ENOSPC, "fsync": errno.EIO, "rename": errno.ENOSPC, "read": errno.EIO}
# A recording or a text that cannot be read is a bad input among others, not bad storage.
ITEMS = (".flac", ".wav", ".ogg", ".mp3", ".txt")


def _is_item(name: str) -> bool:
    return name.endswith(ITEMS) and not name.endswith("log.txt")


@dataclass
class Faults:
    """Counts operations on files below `roots`; number `number` of a kind fails with an error of the system."""

    roots: tuple[Path, ...]
    kind: str = ""
    number: int = 0
    counts: Counter = field(default_factory=Counter)

    def note(self, kind: str, path: object) -> None:
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not name.startswith(tuple(map(str, self.roots))) or _is_item(name):
            return
        self.counts[kind] += 1
        if (kind, self.counts[kind]) == (self.kind, self.number):
            code = KINDS[kind]
            raise OSError(code, os.strerror(code), name)

    def install(self) -> None:
        """Replace the operations, for good: in a child."""
        builtins.open = io.open = self._opener()
        for name, kind in (("replace", "rename"), ("rename", "rename")):
            setattr(os, name, self._noted(getattr(os, name), kind))
        flush = os.fsync
        os.fsync = lambda descriptor: (self.note("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()),
                                       flush(descriptor))[1]
        checkpoint.save_file = self._of_rust(checkpoint.save_file, "write", 1)
        tensors.load_file = self._of_rust(tensors.load_file, "read", 0)

    def _noted(self, operation: Callable, kind: str) -> Callable:
        def noted(path, *arguments, **options):
            self.note(kind, path)
            return operation(path, *arguments, **options)

        return noted

    def _of_rust(self, operation: Callable, kind: str, place: int) -> Callable:
        def noted(*arguments):
            try:
                self.note(kind, arguments[place])
            except OSError as error:
                raise safetensors.SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from error
            return operation(*arguments)

        return noted

    def _opener(self) -> Callable:
        plain, faults = io.open, self

        class Raw(io.FileIO):
            def write(self, data):
                faults.note("write", self.name)
                return super().write(data)

            def readinto(self, buffer):
                faults.note("read", self.name)
                return super().readinto(buffer)

            def readall(self):
                faults.note("read", self.name)
                return super().readall()

        def opened(path, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if not isinstance(path, (str, bytes, os.PathLike)) or not os.fsdecode(path).startswith(
                    tuple(map(str, faults.roots))):
                return plain(path, mode, buffering, encoding, errors, newline, closefd, opener)
            faults.note("open", path)
            raw = Raw(path, mode.replace("b", "").replace("t", ""), closefd, opener)
            if buffering == 0:
                return raw
            kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
            return kind(raw) if "b" in mode else io.TextIOWrapper(kind(raw), encoding, errors, newline)

        return opened
