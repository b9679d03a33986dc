"""The rows of a manifest, read and checked one by one, in memory that does not grow with the text in them."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from stages.artifacts.manifest_index import IndexBuilder, ManifestIndex
from stages.artifacts.storage import canonical_json, decode_utf8
from stages.errors import UsageError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN = 5  # problems


def index_rows(content: Path, manifest: Path, shown: int = _SHOWN) -> ManifestIndex:
    """Read and check all rows in `content`, which is, or will be, the file `manifest`.

    Raises `UsageError` with all that is wrong, of which it words `shown` problems: bytes that are not text, or else
    lines that are no JSON objects, or else fields of rows. A byte order mark, CRLF and empty lines are accepted. The
    fingerprint is that of the list of rows.
    """
    builder, numbers, size = IndexBuilder(), array("I"), 0
    everything, said = hashlib.sha256(), hashlib.sha256(b"[")
    not_json, problems, number = _Problems(shown), _Problems(shown), 0
    for line_number, line in _lines(content):
        everything.update(line)
        row = _row(line, line_number, manifest, not_json)
        if row is not None:
            number += 1
            said.update(b"," * (number > 1) + canonical_json(row))
            found = row_problems(row)
            for problem in found:
                problems.add(number, f"row {number}: {problem}")
            if not found:
                builder.add(size, row["id"], float(row["duration"]), split_of(row), speaker_of(row))
                numbers.append(number)
        size += len(line)
    not_json.raise_any("", f"mend these lines of `{manifest}`")
    said.update(b"]")
    index = builder.finish(size, everything.hexdigest(), said.hexdigest())
    for first, name in _repeated(index, content):
        problems.add(numbers[first], f"row {numbers[first]}: id `{name}` was seen before")
    problems.raise_any(f"`{manifest}`: ", "make it with `halle curate`, or mend these rows")
    return index


def parse_row(line: bytes) -> dict:
    """Return the row in a line that `index_rows` found sound; what follows the line does not matter."""
    return json.loads(line.split(b"\n", 1)[0].decode("utf-8-sig"))


def split_of(row: dict) -> str:
    return str(row.get("split", "train"))


def speaker_of(row: dict) -> str:
    return str(row.get("speaker", "unknown"))


def row_problems(row: dict) -> list[str]:
    """Say what is wrong with the fields of a row."""
    problems = [f"field `{name}` is missing" for name in ("id", "audio", "duration", "text") if name not in row]
    if problems:
        return problems
    for name, kind in (("id", str), ("audio", str), ("text", str)):
        if not isinstance(row[name], kind) or (name != "text" and not row[name]):
            problems.append(f"field `{name}` should be text, got `{row[name]}`")
    for name in ("duration", "start"):
        if not _is_seconds(row.get(name, 0.0)):
            problems.append(f"field `{name}` should be seconds, got `{row[name]}`")
    if not problems and not stays_inside(row["audio"]):
        problems.append(f"path `{row['audio']}` leaves the data root")
    return problems or [f"field `{name}` should hold finite numbers, got `{value}`" for name, value in row.items()
                        if not _is_finite(value)]


def _is_finite(value: object) -> bool:
    """Tell whether all numbers in a value can be written as JSON again."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (list, dict)):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return True


def stays_inside(path: str) -> bool:
    """Tell whether a relative posix path stays below the folder that it is relative to."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and ":" not in (pure.parts or ("",))[0]


def _is_seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value) and value >= 0
    except OverflowError:  # an integer that no float holds
        return False


def _lines(content: Path) -> Iterator[tuple[int, bytes]]:
    with content.open("rb") as file:
        yield from enumerate(file, start=1)


def _row(line: bytes, line_number: int, manifest: Path, not_json: _Problems) -> dict | None:
    """Return the row of a line; None if the line is empty, or no JSON object, which is noted."""
    if line_number == 1:
        line = line.removeprefix(_BYTE_ORDER_MARK)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        decode_utf8(b"\n" * (line_number - 1) + line, manifest)  # raises what a user is told
        raise
    if not text.strip():
        return None
    try:
        row = json.loads(text)  # NaN is told of with its field
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        not_json.add(line_number, f"{manifest.name}:{line_number}: not a JSON object")
        return None
    return row


def _repeated(index: ManifestIndex, content: Path) -> Iterator[tuple[int, str]]:
    """Yield (position, id) of rows whose id an earlier row has; ids are compared where their hashes are equal."""
    order = np.argsort(index.ids, kind="stable")
    twins = np.flatnonzero(index.ids[order][1:] == index.ids[order][:-1])
    if not len(twins):
        return
    with content.open("rb") as file:
        for position in twins:
            earlier, later = (int(number) for number in order[position : position + 2])
            names = []
            for number in (earlier, later):
                file.seek(int(index.offsets[number]))
                names.append(parse_row(file.readline())["id"])
            if names[0] == names[1]:
                yield later, names[1]


class _Problems:
    """What is wrong in which row: the first ones in order, and how many there are."""

    def __init__(self, shown: int) -> None:
        self._found: list[tuple[int, str]] = []
        self._count, self._shown = 0, shown

    def add(self, number: int, problem: str) -> None:
        self._count += 1
        self._found = sorted([*self._found, (number, problem)])[:self._shown]

    def raise_any(self, beginning: str, hint: str) -> None:
        if self._count:
            said = [problem for _, problem in self._found]
            more = [f"and {self._count - len(said)} more"] if self._count > len(said) else []
            raise UsageError(beginning + "; ".join(said + more), hint,
                             tuple(beginning + problem for problem in said) + tuple(more))
