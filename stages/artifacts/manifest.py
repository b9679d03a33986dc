"""The manifest: one utterance a line, the contract between curation and everything after it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from stages.artifacts.storage import fingerprint_of, read_json, read_jsonl, write_jsonl
from stages.errors import UsageError

FILE_NAME = "manifest.jsonl"
AUDIO_ROOT_FILE = "manifest.json"
_COLUMNS = ("id", "audio", "start", "duration", "speaker", "text", "split")


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


@dataclass(frozen=True)
class Manifest:
    """The rows of one manifest, in file order, and a fingerprint of what they say."""

    folder: Path
    utterances: tuple[Utterance, ...]
    fingerprint: str

    def split(self, name: str) -> tuple[Utterance, ...]:
        return tuple(utterance for utterance in self.utterances if utterance.split == name)

    @property
    def hours(self) -> float:
        return sum(utterance.duration for utterance in self.utterances) / 3600


def write_manifest(folder: str | Path, rows: list[dict]) -> None:
    """Write rows of `id audio start duration speaker text split` and further columns, in the given order."""
    write_jsonl(Path(folder) / FILE_NAME, rows)


def read_manifest(path: str | Path, split: str | None = None) -> Manifest:
    """Read a manifest folder (or its `manifest.jsonl`), all problems reported at once.

    Audio paths are relative to the folder, or to the `audio_root` that `manifest.json` beside it names when
    clips refer to recordings kept elsewhere; they never leave it.
    """
    file = _manifest_file(Path(path))
    rows = read_jsonl(file)
    root = audio_root(file.parent)
    problems, seen, utterances = [], set(), []
    for number, row in enumerate(rows, start=1):
        found = _row_problems(row, seen)
        if found:
            problems += [f"row {number}: {problem}" for problem in found]
        else:
            seen.add(row["id"])
            utterances.append(_to_utterance(row, root))
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UsageError(f"`{file}`: " + "; ".join(problems[:5]) + more,
                         "make it with `halle curate`, or mend these rows")
    if not utterances:
        raise UsageError(f"`{file}` holds no utterance", "see rejected.jsonl beside it for what was left out, and why")
    chosen = tuple(u for u in utterances if split is None or u.split == split)
    return Manifest(file.parent, chosen, fingerprint_of(rows))


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
    return (folder / read_json(header)["audio_root"]).resolve() if header.is_file() else folder.resolve()


def _row_problems(row: dict, seen: set[str]) -> list[str]:
    problems = [f"field `{name}` is missing" for name in ("id", "audio", "duration", "text") if name not in row]
    if problems:
        return problems
    for name, kind in (("id", str), ("audio", str), ("text", str)):
        if not isinstance(row[name], kind) or (name != "text" and not row[name]):
            problems.append(f"field `{name}` should be text, got `{row[name]}`")
    for name in ("duration", "start"):
        value = row.get(name, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            problems.append(f"field `{name}` should be seconds, got `{value}`")
    if not problems and row["id"] in seen:
        problems.append(f"id `{row['id']}` was seen before")
    if not problems and not stays_inside(row["audio"]):
        problems.append(f"path `{row['audio']}` leaves the data root")
    return problems


def stays_inside(path: str) -> bool:
    """Tell whether a relative posix path stays below the folder that it is relative to."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and ":" not in (pure.parts or ("",))[0]


def _to_utterance(row: dict, root: Path) -> Utterance:
    extra = {name: value for name, value in row.items() if name not in _COLUMNS}
    return Utterance(
        id=row["id"],
        audio=root / row["audio"],
        start=float(row.get("start", 0.0)),
        duration=float(row["duration"]),
        speaker=str(row.get("speaker", "unknown")),
        text=row["text"],
        split=str(row.get("split", "train")),
        extra=extra,
    )
