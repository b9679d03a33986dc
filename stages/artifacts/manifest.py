"""The manifest: one utterance a line, the contract between curation and everything after it.

Rows are checked once, when a manifest is written or when a foreign one is first opened, and parsed when asked for. Of a
large manifest an index beside it remembers the check (stages/artifacts/manifest_index.py).
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from stages.artifacts.manifest_index import (
    INDEX_FILE,
    WORTHWHILE,
    ManifestIndex,
    hash_of,
    index_file,
    open_index,
    save_index,
)
from stages.artifacts.manifest_rows import index_rows, parse_row, speaker_of, split_of, stays_inside
from stages.artifacts.storage import atomic_path, read_json, storage_errors, to_json_line
from stages.errors import StorageError, UsageError

__all__ = ["AUDIO_ROOT_FILE", "FILE_NAME", "INDEX_FILE", "Manifest", "Utterance", "Utterances", "audio_root",
           "durations_of", "read_manifest", "stays_inside", "take", "write_manifest"]

FILE_NAME = "manifest.jsonl"
AUDIO_ROOT_FILE = "manifest.json"
_COLUMNS = ("id", "audio", "start", "duration", "speaker", "text", "split")

log = logging.getLogger("halle.manifest")


@dataclass(frozen=True)
class Utterance:
    """One row. `audio` is absolute, `start` and `duration` are seconds, `extra` holds every other column."""

    id: str
    audio: Path
    start: float
    duration: float
    speaker: str
    text: str
    split: str
    extra: dict = field(default_factory=dict)


class Utterances(Sequence[Utterance]):
    """Rows of a manifest, each parsed when it is asked for. Slices and `take` parse nothing.

    A manifest that is replaced meanwhile is still read as it was; one that is written into is noticed.
    """

    def __init__(self, rows: _Rows, numbers: np.ndarray):
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> Utterances: ...
    def __getitem__(self, index: int | slice) -> Utterance | Utterances:
        if isinstance(index, slice):
            return Utterances(self._rows, self._numbers[index])
        return self._rows.parse(int(self._numbers[index]))

    def take(self, indices: np.ndarray) -> Utterances:
        """Return the rows at these places of this sequence."""
        return Utterances(self._rows, self._numbers[indices])

    def of_split(self, name: str) -> Utterances:
        codes, names = self._rows.index.splits, self._rows.index.split_names
        code = names.index(name) if name in names else len(names)
        return Utterances(self._rows, self._numbers[codes[self._numbers] == code])

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that rows of the manifest name."""
        return self._rows.index.split_names

    @property
    def durations(self) -> np.ndarray:
        """Seconds of every utterance, float64."""
        return self._rows.index.durations[self._numbers]

    @property
    def speakers(self) -> np.ndarray:
        """A code of every utterance's speaker, uint32: equal where the speakers are."""
        return self._rows.index.speakers[self._numbers]


class _Rows:
    """An open manifest: row number -> utterance, for any number of threads."""

    def __init__(self, file: Path, index: ManifestIndex):
        self.index = index
        self._path, self._root = file, audio_root(file.parent)
        self._lock = threading.Lock()
        self._file = file.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def parse(self, number: int) -> Utterance:
        start, end = (int(offset) for offset in self.index.offsets[number : number + 2])
        with storage_errors(self._path, "read"), self._lock:
            self._file.seek(start)
            line = self._file.read(end - start)
        try:
            row = parse_row(line)
            if hash_of(row["id"]) != self.index.ids[number]:
                raise ValueError
            return _to_utterance(row, self._root)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"`{self._path}` was changed while it was in use: row {number + 1} is another",
                               "run the same command again") from error


@dataclass(frozen=True)
class Manifest:
    """The rows of one manifest, in file order, and a fingerprint of what they say."""

    folder: Path
    utterances: Utterances
    fingerprint: str

    def split(self, name: str) -> Utterances:
        return self.utterances.of_split(name)

    @property
    def hours(self) -> float:
        return float(self.utterances.durations.sum()) / 3600


def write_manifest(folder: str | Path, rows: Iterable[dict]) -> None:
    """Write rows of `id audio start duration speaker text split` and further columns, in the given order.

    Raises `UsageError`, and leaves what was there, when rows are wrong.
    """
    file = Path(folder) / FILE_NAME
    with atomic_path(file) as temporary:
        with temporary.open("wb") as content:
            content.writelines(to_json_line(row).encode("utf-8") for row in rows)
        index, status = index_rows(temporary, file), temporary.stat()
    if len(index) >= WORTHWHILE:
        save_index(index, file, status)
    else:
        index_file(file).unlink(missing_ok=True)


def read_manifest(path: str | Path, split: str | None = None) -> Manifest:
    """Open a manifest folder (or its `manifest.jsonl`), all problems reported at once.

    Audio paths are relative to the folder, or to the `audio_root` that `manifest.json` beside it names when
    clips refer to recordings kept elsewhere; they never leave it.
    """
    file = _manifest_file(Path(path))
    index = open_index(file) or _checked(file)
    if not len(index):
        raise UsageError(f"`{file}` holds no utterance", "see rejected.jsonl beside it for what was left out, and why")
    with storage_errors(file, "read"):
        utterances = Utterances(_Rows(file, index), np.arange(len(index)))
    chosen = utterances if split is None else utterances.of_split(split)
    return Manifest(file.parent, chosen, index.fingerprint)


def durations_of(utterances: Sequence[Utterance]) -> np.ndarray:
    """Return the seconds of utterances, float64, without parsing rows of a manifest."""
    if isinstance(utterances, Utterances):
        return utterances.durations
    return np.array([utterance.duration for utterance in utterances], dtype=np.float64)


def take(utterances: Sequence[Utterance], indices: np.ndarray) -> Sequence[Utterance]:
    """Return the utterances at these places, without parsing rows of a manifest."""
    if isinstance(utterances, Utterances):
        return utterances.take(indices)
    return [utterances[index] for index in indices]


def _checked(file: Path) -> ManifestIndex:
    """Read and check all rows, and have the index remember it if that is worth it and the folder may be written."""
    with storage_errors(file, "read"):
        status = file.stat()
        if status.st_size > WORTHWHILE * 1000:
            log.info("checking `%s`, once", file)
        index = index_rows(file, file)
    if len(index) >= WORTHWHILE:
        try:
            save_index(index, file, status)
        except StorageError as error:
            log.info("no index is kept: %s", error.message)
    return index


def _manifest_file(path: Path) -> Path:
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"expected a manifest folder (with `{FILE_NAME}`), got `{path}`",
                         f"make one with: halle curate {path} --out MANIFEST_DIR" if path.exists() else
                         f"make one with: halle curate RECORDINGS --out {path}")
    return file


def audio_root(folder: Path) -> Path:
    """Return the folder that the audio paths of a manifest start from."""
    header = folder / AUDIO_ROOT_FILE
    if not header.is_file():
        return folder.resolve()
    named = read_json(header).get("audio_root")
    if not isinstance(named, str) or "\x00" in named:
        raise UsageError(f"expected a folder as `audio_root` in `{header}`, got `{named}`",
                         "make the manifest again with: halle curate")
    try:
        return (folder / named).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, links in a circle, half a character
        raise UsageError(f"the `audio_root` in `{header}` is no folder: {error}",
                         "make the manifest again with: halle curate") from error


def _to_utterance(row: dict, root: Path) -> Utterance:
    extra = {name: value for name, value in row.items() if name not in _COLUMNS}
    return Utterance(
        id=row["id"],
        audio=root / row["audio"],
        start=float(row.get("start", 0.0)),
        duration=float(row["duration"]),
        speaker=speaker_of(row),
        text=row["text"],
        split=split_of(row),
        extra=extra,
    )
