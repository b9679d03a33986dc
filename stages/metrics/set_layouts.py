"""The ways in which a test set is written down, each read into cases.

    manifest.jsonl, metadata.jsonl, metadata.csv      rows of id, text, audio (or file_name), prompt, prompt_text, ...
    meta.lst: ID|prompt text|prompt.wav|text|speech   Seed-TTS's, where the speech may be missing; also ID|text and
                                                      ID|text|prompt.wav
    a list: ID<TAB>text<TAB>prompt.wav                the prompt, with its words in prompt.txt, may be missing
    a folder of audio files                           ID.wav, and its words in ID.txt

Paths are relative to the file that names them, and stay below its folder. A row without audio has no recording. A
row's prompt is an audio file, or the recording of the row that `prompt_id` names. All problems of a set are reported
at once, with their lines.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from stages.artifacts.manifest import FILE_NAME as MANIFEST
from stages.artifacts.manifest import Utterance, audio_root, stays_inside
from stages.artifacts.storage import fingerprint_of
from stages.audio.io import AUDIO_SUFFIXES, AudioError, audio_info
from stages.errors import UsageError
from stages.metrics.cases import UNKNOWN_SPEAKER, Case
from stages.text.tables import (
    SPEAKER_FIELDS,
    TEXT_FIELDS,
    Problems,
    Row,
    clean_text,
    csv_rows,
    json_rows,
    numbered_lines,
    printable,
    read_text,
    take_seconds,
    take_text,
)

log = logging.getLogger("halle.eval")

TASKS = "tasks.jsonl"  # what `--export-tasks` writes
_LONGEST_NAME = 255  # bytes of a file's
AUDIO_FIELDS = ("audio", "file_name", "file", "wav", "path")
# What a folder is searched for, in this order
_TABLES = (MANIFEST, "metadata.jsonl", "metadata.csv", TASKS, "meta.lst")
_OWN_FIELDS = {*AUDIO_FIELDS, *TEXT_FIELDS, *SPEAKER_FIELDS, "id", "start", "duration", "split", "prompt",
               "prompt_id", "prompt_text"}
# Seed-TTS's lists, by their number of columns
_PIPED = {2: ("id", "text"), 3: ("id", "text", "prompt"), 4: ("id", "prompt_text", "prompt", "text"),
          5: ("id", "prompt_text", "prompt", "text", "audio")}
_TABBED = {2: ("id", "text"), 3: ("id", "text", "prompt")}


@dataclass(frozen=True)
class Listing:
    """All that a test set says, in its own order. `fingerprint` is of what is written, not of the audio."""

    name: str
    folder: Path
    cases: tuple[Case, ...]
    fingerprint: str


def is_test_set(path: Path) -> bool:
    """Tell whether `read_listing` can make something of a path."""
    return path.is_file() or any((path / name).is_file() for name in _TABLES) or bool(audio_files(path))


def audio_files(folder: Path) -> list[Path]:
    """Return the audio files that lie directly in a folder, sorted; none if it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in AUDIO_SUFFIXES)


def read_listing(path: Path, encoding: str = "utf-8") -> Listing:
    """Read a test set, however it is written down. Raises `UsageError` with every line that is wrong."""
    file = path if path.is_file() else next((path / name for name in _TABLES if (path / name).is_file()), None)
    problems = Problems()
    rows = _read_rows(file, encoding, problems) if file else _audio_rows(path, encoding)
    root = audio_root(path if file is None else file.parent)
    cases = _to_cases(rows, root, problems, needs_text=file is not None)
    problems.raise_any(f"mend `{file or path}`")
    if not cases:
        raise UsageError(f"`{file or path}` holds no utterance", "see rejected.jsonl beside it, if there is one")
    folder = path if file is None else file.parent
    name = folder.resolve().name if file is None or file.name in _TABLES else file.stem
    return Listing(name, folder, cases, fingerprint_of([row.fields for row in rows]))


def read_texts(folder: Path, encoding: str = "utf-8") -> tuple[Case, ...]:
    """Return a case for each audio file in a folder, with its words from ID.txt beside it or from a table there.

    Nobody says what the files should sound like, so cases have no recording; a file of which nobody says what it
    says has no text. Rows of a table without a file are cases too.
    """
    problems = Problems()
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    rows = [_named_by_file(row) for row in _read_rows(table, encoding, problems)] if table else []
    told = {row.fields.get("id") for row in rows}
    rows += [row for row in map(_named_by_file, _audio_rows(folder, encoding)) if row.fields["id"] not in told]
    cases = _to_cases(rows, folder, problems, needs_text=False)
    problems.raise_any(f"mend these files in `{folder}`")
    return cases


def _named_by_file(row: Row) -> Row:
    """Return the row without its audio, under the name of the file, which is what outputs are known by."""
    audio = next((row.fields[name] for name in AUDIO_FIELDS if isinstance(row.fields.get(name), str)), "")
    fields = {name: value for name, value in row.fields.items() if name not in AUDIO_FIELDS}
    return Row(row.where, fields | ({"id": printable(Path(audio).stem)} if audio else {}))


# ---- files to rows


def _read_rows(file: Path, encoding: str, problems: Problems) -> list[Row]:
    if file.suffix == ".jsonl":
        return json_rows(file, encoding, problems)
    if file.suffix == ".csv":
        return csv_rows(file, encoding, problems)
    return _list_rows(file, encoding, problems)


def _list_rows(file: Path, encoding: str, problems: Problems) -> list[Row]:
    """Read lines with tabs, or with bars, between the columns; which of the two, the first line tells."""
    lines = numbered_lines(file, encoding)
    tabbed = bool(lines) and "\t" in lines[0][1]
    mark, shapes, told = ("\t", _TABBED, "id<TAB>text[<TAB>prompt.wav]") if tabbed else (
        "|", _PIPED, "id|prompt text|prompt.wav|text")
    rows = []
    for number, line in lines:
        cells, where = [cell.strip() for cell in line.split(mark)], f"{file.name}:{number}"
        if len(cells) not in shapes:
            problems.add(where, f"expected `{told}`, got {len(cells)} columns: `{line[:60]}`")
            continue
        row = Row(where, dict(zip(shapes[len(cells)], cells, strict=True)))
        rows.append(_with_files_beside(row, file.parent, encoding))
    return rows


def _with_files_beside(row: Row, folder: Path, encoding: str) -> Row:
    """Add what such lists leave to file names: the recording `wavs/ID.wav`, and a prompt's words in its `.txt`."""
    fields = {name: value for name, value in row.fields.items() if value or name in ("id", "text")}
    fields["id"] = fields["id"].removesuffix(".wav")
    spoken = f"wavs/{fields['id']}.wav"
    if "prompt_text" in fields and "audio" not in fields and stays_inside(spoken) and (folder / spoken).is_file():
        fields["audio"] = spoken
    if "prompt" in fields and "prompt_text" not in fields and stays_inside(fields["prompt"]):
        fields |= _text_beside(folder / fields["prompt"], "prompt_text", encoding)
    return Row(row.where, fields)


def _audio_rows(folder: Path, encoding: str) -> list[Row]:
    return [Row(printable(file.name), {"id": printable(file.stem), "audio": file.name}
                | _text_beside(file, "text", encoding)) for file in audio_files(folder)]


def _text_beside(audio: Path, field: str, encoding: str) -> dict[str, str]:
    beside = audio.with_suffix(".txt")
    return {field: read_text(beside, encoding).strip()} if beside.is_file() else {}


# ---- rows to cases


def _to_cases(rows: Iterable[Row], root: Path, problems: Problems, needs_text: bool) -> tuple[Case, ...]:
    found = [(row, case) for row in rows if (case := _to_case(row, root, problems, needs_text)) is not None]
    by_id: dict[str, Case] = {}
    for row, case in found:
        if case.id in by_id:
            problems.add(row.where, f"id `{case.id}` was seen before")
        by_id.setdefault(case.id, case)
    return tuple(_with_prompt(row, case, by_id, root, problems) for row, case in found)


def _to_case(row: Row, root: Path, problems: Problems, needs_text: bool) -> Case | None:
    """Return a row as a case, without its prompt; None, and a problem, if it cannot be understood."""
    before = len(problems.found)
    texts = [_take(row, names, problems) for names in (("id",), TEXT_FIELDS, SPEAKER_FIELDS, ("split",))]
    name, text, speaker, split = texts
    audio = _take_path(row, AUDIO_FIELDS, problems)
    seconds = [take_seconds(row, field, problems) for field in ("start", "duration")]
    if name is None and audio:
        name = printable(Path(audio).with_suffix("").as_posix().replace("/", "_"))
    if not (name and name.strip()):
        problems.add(row.where, "field `id` is missing")
    if text is None and needs_text:
        problems.add(row.where, "field `text` is missing")
    if len(problems.found) > before:
        return None
    text, refused = _usable(name, text), "the reference text is empty" if text is not None and not text.strip() else ""
    # A table of recordings tells how long they are; only a manifest, or a start, says which part is meant.
    cuts = "audio" in row.fields or "start" in row.fields
    case = Case(name, text, speaker or UNKNOWN_SPEAKER, None, None, refused, split or _usual_split(row),
                {key: value for key, value in row.fields.items() if key not in _OWN_FIELDS})
    return case if not audio else _with_recording(case, root / audio, seconds[0] or 0.0, seconds[1] if cuts else None)


def _usual_split(row: Row) -> str:
    """Return the split of a row that names none: manifests are made to train on, lists are not."""
    return "train" if row.where.startswith(MANIFEST) else "test"


def _with_recording(case: Case, audio: Path, start: float, duration: float | None) -> Case:
    """Add the recording; one whose length nobody told is asked for it, and refused if it cannot tell."""
    if duration is None and audio.is_file():
        try:
            duration = audio_info(audio).duration - start
        except AudioError as error:
            return replace(case, refused=case.refused or f"its recording: {error.message}")
    utterance = Utterance(case.id, audio, start, duration or 0.0, case.speaker, case.text, case.split, case.extra)
    return replace(case, recording=utterance)


def _with_prompt(row: Row, case: Case, by_id: dict[str, Case], root: Path, problems: Problems) -> Case:
    """Add the prompt that the row names: the recording of the row `prompt_id`, or the audio file `prompt`."""
    other, words = _take(row, ("prompt_id",), problems), _take(row, ("prompt_text",), problems)
    path = _take_path(row, ("prompt",), problems)
    if other:
        recording = by_id[other].recording if other in by_id else None
        refused = "" if recording else f"its prompt `{other}` is not a recording of the set"
        return replace(case, prompt=recording, refused=case.refused or refused)
    if not path:
        return case
    said = Case(Path(path).with_suffix("").as_posix(), clean_text(words or ""), case.speaker)
    said = _with_recording(said, root / path, 0.0, None)
    return replace(case, prompt=said.recording,
                   refused=case.refused or said.refused.replace("its recording", "its prompt", 1))


# ---- fields


def _take(row: Row, names: tuple[str, ...], problems: Problems) -> str | None:
    """Return a field as text; half characters, which no file can hold, are a problem."""
    text = take_text(row, names, problems)
    place = next((index for index, char in enumerate(text or "") if "\ud800" <= char <= "\udfff"), None)
    if place is None:
        return text
    problems.add(row.where, f"field `{names[0]}` has half a character (a lone surrogate, "
                            f"U+{ord(text[place]):04X}) at position {place}")
    return None


def _take_path(row: Row, names: tuple[str, ...], problems: Problems) -> str | None:
    """Return a field as a path below the data root; file names may hold any bytes."""
    path = take_text(row, names, problems)
    if not path:
        return None
    if not stays_inside(path):
        problems.add(row.where, f"path `{path}` leaves the data root")
        return None
    if any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_NAME for part in Path(path).parts):
        problems.add(row.where, f"path `{path[:40]}...` has a name that is longer than {_LONGEST_NAME} bytes")
        return None
    return path


def _usable(name: str, text: str | None) -> str:
    """Return the text without control characters, which nobody can say; they are told of."""
    text = text or ""
    if not any(unicodedata.category(char) == "Cc" and not char.isspace() for char in text):
        return text
    log.warning("control characters were stripped from the text of `%s`", name)
    return clean_text(text)
