"""A recording with its transcript, and how rows of tables and files of corpora become one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stages.artifacts.manifest import stays_inside
from stages.audio.io import AUDIO_SUFFIXES
from stages.text.tables import (
    SPEAKER_FIELDS,
    TEXT_FIELDS,
    Problems,
    Row,
    json_ready,
    read_text,
    take_seconds,
    take_text,
)

UNKNOWN_SPEAKER = "unknown"
ID_FIELDS = ("file_name", "file", "audio", "wav", "path")


@dataclass(frozen=True)
class Recording:
    """A piece of speech and its transcript. `start` and `duration` are seconds in the file; None is to its end.

    `source` names the audio in reports and manifests (a posix path below the corpus); `audio` is where it lies,
    None when `payload` returns the bytes of a file kept inside a dataset. `text` is None without a transcript.
    """

    id: str
    audio: Path | None
    source: str
    text: str | None
    speaker: str = UNKNOWN_SPEAKER
    split: str | None = None
    start: float = 0.0
    duration: float | None = None
    extra: dict = field(default_factory=dict)
    payload: Callable[[], bytes] | None = field(default=None, compare=False, repr=False)


def real_path(path: Path) -> Path:
    """Return where a path leads; a link that leads to itself, and a name that no file can have, stay as they are."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        return path


def audio_files(root: Path) -> Iterator[Path]:
    """Yield the audio files below `root`, sorted, so that every machine sees one order."""
    yield from sorted(file for file in root.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)


def from_rows(rows: list[Row], root: Path, problems: Problems) -> list[Recording]:
    found = (from_row(row, root, problems) for row in rows)
    return [recording for recording in found if recording is not None]


def from_row(row: Row, root: Path, problems: Problems) -> Recording | None:
    """Turn a table's row into a recording; a `duration` cuts only together with a `start`."""
    name = take_text(row, ID_FIELDS, problems, required=True)
    text = take_text(row, TEXT_FIELDS, problems)
    speaker = take_text(row, SPEAKER_FIELDS, problems)
    start, duration = take_seconds(row, "start", problems), take_seconds(row, "duration", problems)
    if name is None:
        return None
    if not name or not stays_inside(name):
        problems.add(row.where, f"path `{name}` leaves the data root")
        return None
    audio = find_audio(root / name)
    path = Path(name).with_suffix("") if Path(name).suffix.lower() in AUDIO_SUFFIXES else Path(name)
    derived = path.as_posix().replace("/", "_") + (f"-{round(start * 1000):07d}" if start else "")
    used = {*ID_FIELDS, *TEXT_FIELDS, *SPEAKER_FIELDS, "start", "duration", "split", "id", "sample_rate"}
    return Recording(
        id=take_text(row, ("id",), problems) or derived,
        audio=audio,
        source=audio.relative_to(root).as_posix(),
        text=text,
        speaker=speaker or UNKNOWN_SPEAKER,
        split=take_text(row, ("split",), problems),
        start=start or 0.0,
        duration=None if start is None else duration,
        extra={key: json_ready(value) for key, value in row.fields.items() if key not in used},
    )


def from_tree(
    root: Path, audio: Path, name: str, text: str | None, speaker: str, extra: dict | None = None
) -> Recording:
    """A recording of a corpus whose folders say everything; all of these corpora are English."""
    parts = audio.relative_to(root).parts
    known = {"train": "train", "dev": "validation", "test": "test"}
    split = next((known[part.split("-")[0]] for part in parts[:-1] if part.split("-")[0] in known), None)
    source = audio.relative_to(root).as_posix()
    return Recording(name, audio, source, text, speaker, split, extra={"language": "en", **(extra or {})})


def find_audio(path: Path) -> Path:
    """Return the path, completed by the first suffix that exists when it has none."""
    if path.suffix.lower() in AUDIO_SUFFIXES or path.exists():
        return path
    candidates = (path.with_name(path.name + suffix) for suffix in (".wav", ".flac", *AUDIO_SUFFIXES))
    return next((candidate for candidate in candidates if candidate.exists()), path)


def text_beside(path: Path, encoding: str) -> str | None:
    return read_text(path, encoding).strip() if path.is_file() else None
