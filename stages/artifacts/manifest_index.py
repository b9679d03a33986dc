"""The index beside a large manifest: where its rows are and what is asked of all of them at once, memory-mapped.

It remembers that every row was read and checked. It is a function of the manifest's bytes, made again when it is
missing, damaged, or made of other bytes. Whether the bytes are the same, their number and the time of change tell (the
index file carries the manifest's time as its own); after a copy, when only times differ, their sha256 does.

    one line of JSON, padded to 64 bytes, then int64 offsets [rows + 1] (bytes where rows start; the last is the end),
    float64 durations [rows] (seconds), uint64 ids [rows] (hashes), uint32 splits [rows] and speakers [rows] (codes)
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts.storage import atomic_path, fingerprint_of, sha256_file
from stages.errors import StorageError

INDEX_FILE = "manifest.index"  # beside manifest.jsonl
WORTHWHILE = 10_000  # rows from which on reading the rows again costs more than a moment
_FORMAT = "halle manifest index 1"
_ALIGNMENT = 64
_COLUMNS = {"offsets": "<i8", "durations": "<f8", "ids": "<u8", "splits": "<u4", "speakers": "<u4"}


@dataclass(frozen=True)
class ManifestIndex:
    """Arrays over all rows. Rows of one split, or one speaker, have equal codes; `split_names[code]` is the split.

    `sha256` is of the manifest's `offsets[-1]` bytes, `fingerprint` of what its rows say.
    """

    offsets: np.ndarray
    durations: np.ndarray
    ids: np.ndarray
    splits: np.ndarray
    speakers: np.ndarray
    split_names: tuple[str, ...]
    sha256: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.durations)

class IndexBuilder:
    """Collect rows one by one, in 32 bytes each and what the names of splits and speakers take."""

    def __init__(self) -> None:
        self._offsets, self._durations, self._ids = array("q"), array("d"), array("Q")
        self._splits, self._speakers = array("I"), array("I")
        self._split_codes: dict[str, int] = {}
        self._speaker_codes: dict[str, int] = {}

    def add(self, offset: int, name: str, duration: float, split: str, speaker: str) -> None:
        self._offsets.append(offset)
        self._durations.append(duration)
        self._ids.append(hash_of(name))
        self._splits.append(self._split_codes.setdefault(split, len(self._split_codes)))
        self._speakers.append(self._speaker_codes.setdefault(speaker, len(self._speaker_codes)))

    def finish(self, size: int, sha256: str, fingerprint: str) -> ManifestIndex:
        """Return the index of the rows so far, of a manifest of `size` bytes."""
        self._offsets.append(size)
        columns = (self._offsets, self._durations, self._ids, self._splits, self._speakers)
        arrays = (np.frombuffer(values, kind) if len(values) else np.zeros(0, kind)
                  for values, kind in zip(columns, _COLUMNS.values(), strict=True))
        return ManifestIndex(*arrays, tuple(self._split_codes), sha256, fingerprint)


def index_file(manifest: Path) -> Path:
    return manifest.with_suffix(Path(INDEX_FILE).suffix)


def hash_of(name: str) -> int:
    """Return 64 bits that stand for an id."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def save_index(index: ManifestIndex, manifest: Path, status: os.stat_result) -> None:
    """Write the index beside its manifest, of which `status` was asked before it was read."""
    body = hashlib.sha256()
    arrays = [np.ascontiguousarray(getattr(index, name), kind) for name, kind in _COLUMNS.items()]
    for values in arrays:
        body.update(values.data)
    header = {"format": _FORMAT, "rows": len(index), "sha256": index.sha256, "fingerprint": index.fingerprint,
              "split_names": index.split_names, "body": body.hexdigest()}
    line = json.dumps({**header, "header": fingerprint_of(header)}).encode("ascii")
    with atomic_path(index_file(manifest)) as temporary:
        with temporary.open("wb") as file:
            file.write(line + b" " * (-(len(line) + 1) % _ALIGNMENT) + b"\n")
            for values in arrays:
                file.write(values.data)
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))


def open_index(manifest: Path) -> ManifestIndex | None:
    """Return the index beside a manifest, memory-mapped; None unless it is whole and of this very manifest."""
    path = index_file(manifest)
    try:
        index = _map(path)
        return index if index is not None and _is_of(index, path, manifest) else None
    except (OSError, ValueError, KeyError, TypeError, StorageError):
        return None


def _map(path: Path) -> ManifestIndex | None:
    """Return what a file holds, or None if it has not the bytes that its header promises."""
    with path.open("rb") as file:
        line = file.readline()
        header = json.loads(line)
        if header.pop("header") != fingerprint_of(header) or header["format"] != _FORMAT:
            return None
        if hashlib.file_digest(file, "sha256").hexdigest() != header["body"]:
            return None
    content, position, columns = np.memmap(path, np.uint8, "r"), len(line), {}
    for name, kind in _COLUMNS.items():
        size = (header["rows"] + (name == "offsets")) * np.dtype(kind).itemsize
        columns[name] = np.asarray(content[position : position + size]).view(kind)
        position += size
    return ManifestIndex(**columns, split_names=tuple(header["split_names"]), sha256=header["sha256"],
                         fingerprint=header["fingerprint"])


def _is_of(index: ManifestIndex, path: Path, manifest: Path) -> bool:
    status = manifest.stat()
    if status.st_size != index.offsets[-1]:
        return False
    if status.st_mtime_ns == path.stat().st_mtime_ns:
        return True
    if sha256_file(manifest) != index.sha256:
        return False
    with suppress(OSError):  # in somebody else's folder it is hashed every time
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return True
