"""Read the text files that describe a corpus, and report every problem in them at once, as file:line."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stages.errors import StorageError, UsageError

TEXT_FIELDS = ("text", "transcription", "transcript", "sentence", "text_normalized", "normalized_text")
SPEAKER_FIELDS = ("speaker", "speaker_id", "client_id")
_SHOWN = 20
_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, Khmer, kana, Chinese characters
_WORDS = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


@dataclass
class Problems:
    """What is wrong with the description of a corpus: collected, then raised together."""

    found: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}")

    def raise_any(self, hint: str) -> None:
        if self.found:
            more = f"\nand {len(self.found) - _SHOWN} more" if len(self.found) > _SHOWN else ""
            raise UsageError("\n".join(self.found[:_SHOWN]) + more, hint)


@dataclass(frozen=True)
class Row:
    """One row of a table: where it stands (`file:line`) and its fields by name."""

    where: str
    fields: dict


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return a file's text without a byte order mark and with `\\n` line ends only."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"{path.name}:{line}: byte 0x{data[error.start]:02X} is not {encoding.upper()}"
        raise UsageError(what, f"save `{path}` again as UTF-8, or say what it is: -O encoding=latin-1") from error
    except LookupError as error:
        raise UsageError(f"expected a text encoding, got `{encoding}`", "try -O encoding=latin-1") from error
    except OSError as error:
        kind = StorageError if error.errno in (errno.EIO, errno.EMFILE, errno.ENFILE) else UsageError  # not the file's
        raise kind(f"could not read `{path}`: {(error.strerror or str(error)).lower()}") from error
    return text.replace("\r\n", "\n")


def numbered_lines(path: Path, encoding: str = "utf-8") -> list[tuple[int, str]]:
    """Return (line number, line) of the lines that are not blank."""
    lines = enumerate(read_text(path, encoding).split("\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def json_rows(path: Path, encoding: str, problems: Problems) -> list[Row]:
    rows = []
    for number, line in numbered_lines(path, encoding):
        where = f"{path.name}:{number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):  # the latter of brackets within brackets
            problems.add(where, "not JSON")
            continue
        if isinstance(fields, dict):
            rows.append(Row(where, fields))
        else:
            problems.add(where, f"expected a JSON object, got `{line[:40]}`")
    return rows


def csv_rows(path: Path, encoding: str, problems: Problems) -> list[Row]:
    """Read comma-separated values with a header line; empty cells count as absent."""
    header: list[str] = []
    rows = []
    for where, cells in _csv_cells(path, encoding, problems):
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            continue
        if len(cells) != len(header):
            problems.add(where, f"expected {len(header)} columns as in the header, got {len(cells)}")
            continue
        rows.append(Row(where, {name: cell for name, cell in zip(header, cells, strict=True) if cell}))
    return rows


def _csv_cells(path: Path, encoding: str, problems: Problems) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the cells of each line; what is no CSV is a problem, and ends the file."""
    text = read_text(path, encoding)
    csv.field_size_limit(max(len(text), csv.field_size_limit()))  # 128 KiB, which a text may well exceed
    reader = csv.reader(io.StringIO(text))
    try:
        for cells in reader:
            yield f"{path.name}:{reader.line_num}", cells
    except csv.Error as error:
        problems.add(f"{path.name}:{reader.line_num}", f"not CSV: {error}")


def take_text(row: Row, names: tuple[str, ...], problems: Problems, required: bool = False) -> str | None:
    """Return the first of the named fields that is present, as text; numbers are accepted for ids and speakers."""
    for name in names:
        value = row.fields.get(name)
        if value is None:
            continue
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value)
        problems.add(row.where, f"field `{name}` should be text, got `{value}`")
        return None
    if required:
        problems.add(row.where, f"field `{names[0]}` is missing")
    return None


def take_seconds(row: Row, name: str, problems: Problems) -> float | None:
    """Return a field in seconds, or None when absent or (then reported) not a finite number >= 0."""
    value = row.fields.get(name)
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        problems.add(row.where, f"field `{name}` should be seconds, 0 or more, got `{value}`")
        return None
    return seconds


def clean_text(text: str) -> str:
    """Strip control characters and collapse white space; everything else stays as it was written."""
    kept = (" " if char.isspace() else char for char in text if char.isspace() or unicodedata.category(char) != "Cc")
    return " ".join("".join(kept).split())


def printable(name: str) -> str:
    """Percent-encode what cannot be written as UTF-8 or would break a line: bytes of old names, control characters."""
    def encode(char: str) -> str:
        if "\udc80" <= char <= "\udcff":
            return f"%{ord(char) - 0xDC00:02X}"
        return f"%{ord(char):02X}" if unicodedata.category(char) in ("Cc", "Cs") else char

    return "".join(encode(char) for char in name)


def text_key(text: str) -> str:
    """Return what two takes of one sentence share: its words without case and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(char if char.isalnum() else " " for char in folded.replace("'", "").replace("’", ""))
    return " ".join(words.split()) or folded.strip()


def spoken_words(text: str) -> list[str]:
    """Return the words of a text without case and punctuation; of scripts that leave no spaces, the characters."""
    return _WORDS.findall(text_key(text))


def chars_per_second(text: str, seconds: float) -> float:
    """Return characters of words and the spaces between them a second; punctuation is not spoken."""
    return len(text_key(text)) / seconds


def json_ready(value: object) -> object:
    """Return a value that JSON can hold: NaN and foreign types become None or text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_ready(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(inner) for inner in value]
    return None if isinstance(value, (bytes, bytearray)) else str(value)
