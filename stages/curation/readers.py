"""Find out how a corpus is laid out, and list its recordings with their transcripts.

Nothing is decoded here. What is wrong with the description itself is raised at once, all of it; what is wrong
with one recording is left to screening.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stages.artifacts.manifest import AUDIO_ROOT_FILE, read_manifest
from stages.artifacts.manifest import FILE_NAME as MANIFEST
from stages.audio.io import AUDIO_SUFFIXES
from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import (
    ID_FIELDS,
    UNKNOWN_SPEAKER,
    Recording,
    audio_files,
    find_audio,
    from_rows,
    from_tree,
    real_path,
    text_beside,
)
from stages.errors import UsageError
from stages.text.tables import TEXT_FIELDS, Problems, Row, clean_text, csv_rows, json_rows, numbered_lines, printable

log = logging.getLogger("halle.curate")

_OTHER_LAYOUT = "leave --layout out: the layout is then recognised"
METADATA = ("metadata.jsonl", "metadata.csv")
_LOOKED_FOR = ("looked for metadata.jsonl or metadata.csv with `text`, `wav|text` lists, the LJSpeech, LibriSpeech, "
               "LibriTTS and VCTK layouts, and Hugging Face datasets")
_SPLITS = {"dev": "validation", "val": "validation", "valid": "validation", "eval": "validation"}
_LIST_SUFFIXES = (".txt", ".list", ".lst", ".csv", ".psv")


@dataclass(frozen=True)
class Corpus:
    """The recordings of a source in source order. `root` is the folder that holds them (None for a dataset)."""

    layout: str
    root: Path | None
    recordings: tuple[Recording, ...]
    unlisted: int = 0  # audio files below root that no row names


def read_corpus(config: CurateConfig) -> Corpus:
    """List the recordings of `config.source`; raise `UsageError` (or `MissingModelError` for a dataset by name)."""
    if not config.source:
        raise UsageError("expected a folder of recordings, a list or the name of a dataset, got nothing")
    path = Path(config.source)
    if config.source.startswith(("./", "../", "~")) and not path.exists():  # not the name of a dataset
        raise UsageError(f"`{config.source}` does not exist", "check the path")
    layout = detect_layout(path, config.encoding) if config.layout == "auto" else config.layout
    if layout == "dataset":
        from stages.curation.hub import read_dataset  # loading `datasets` takes seconds

        root, recordings = None, read_dataset(config)
    else:
        if not path.exists():
            raise UsageError(f"`{path}` does not exist", "check the path")
        problems = Problems()
        root, recordings = _READERS[layout](path, config, problems)
        _check_ids(recordings, problems)
        problems.raise_any(f"mend these lines below `{path}`")
    recordings = [_finish(recording, config) for recording in recordings]
    if layout == "recordings" or all(recording.text is None for recording in recordings):
        return Corpus("recordings", root, _untranscribed(path, root, recordings))
    _warn_of_nameless(recordings)
    return Corpus(layout, root, tuple(recordings), _count_unlisted(layout, root, recordings, Path(config.out)))


def detect_layout(path: Path, encoding: str = "utf-8") -> str:
    """Name the layout of a folder, a list or (when nothing lies there) a dataset's name."""
    if not path.exists():
        if path.suffix or path.is_absolute() or str(path).startswith((".", "~")) or len(path.parts) > 2:
            raise UsageError(f"`{path}` does not exist")
        return "dataset"
    if path.is_file():
        return _LAYOUT_OF_FILE.get(path.name) or ("recordings" if path.suffix.lower() in AUDIO_SUFFIXES else "list")
    for layout, fits in _SIGNS:
        if fits(path, encoding):
            return layout
    if next(audio_files(path), None) is not None:
        return "recordings"
    raise UsageError(f"found neither recordings nor transcripts in `{path}` ({_LOOKED_FOR})", "check the path")


# ---- signs by which a folder's layout is known, the most specific first


def _is_dataset(path: Path, encoding: str) -> bool:
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return saved or next(path.rglob("*.parquet"), None) is not None


def _has_metadata(path: Path, encoding: str) -> bool:
    jsonl, table = (path / name for name in METADATA)
    header = _first_line(table, encoding).replace('"', "").split(",") if table.is_file() else []
    return jsonl.is_file() or "file_name" in header


def _is_ljspeech(path: Path, encoding: str) -> bool:
    return (path / "wavs").is_dir() and (path / "metadata.csv").is_file()


def _first_line(path: Path, encoding: str) -> str:
    return next((line for _, line in numbered_lines(path, encoding)), "")


def _any(pattern: str) -> Callable[[Path, str], bool]:
    return lambda path, encoding: next(path.rglob(pattern), None) is not None


def _find_list(path: Path, encoding: str) -> Path | None:
    files = [file for file in sorted(path.glob("*")) if file.is_file() and file.suffix in _LIST_SUFFIXES]
    lists = [file for file in files if b"|" in file.read_bytes().lstrip().partition(b"\n")[0]]  # some are no text
    if len(lists) > 1:
        names = ", ".join(f"`{file.name}`" for file in lists)
        raise UsageError(f"found several lists in `{path}`: {names}", "give the one to read instead of the folder")
    return lists[0] if lists else None


_LAYOUT_OF_FILE = {MANIFEST: "manifest", **dict.fromkeys(METADATA, "audiofolder")}
_SIGNS: tuple[tuple[str, Callable[[Path, str], bool]], ...] = (
    ("manifest", lambda path, encoding: (path / MANIFEST).is_file()),
    ("audiofolder", _has_metadata),
    ("ljspeech", _is_ljspeech),
    ("vctk", lambda path, encoding: (path / "txt").is_dir() and next(path.glob("wav48*"), None) is not None),
    ("libritts", _any("*.normalized.txt")),
    ("librispeech", _any("*.trans.txt")),
    ("dataset", _is_dataset),
    ("list", lambda path, encoding: _find_list(path, encoding) is not None),
)


# ---- readers: (source, settings, problems) -> (root, recordings)


def _audio_of_others(path: Path, config: CurateConfig) -> list[Path]:
    """Return the audio files below a folder, without those that an earlier run wrote into `config.out`."""
    out = Path(config.out).resolve()
    return [file for file in audio_files(path) if not (config.out and real_path(file).is_relative_to(out))]


def _read_recordings(path: Path, config: CurateConfig, problems: Problems) -> tuple[Path, list[Recording]]:
    """List audio files as they are; those that an earlier run wrote into `config.out` are not its source."""
    root = path.parent if path.is_file() else path
    files = [path] if path.is_file() else _audio_of_others(path, config)
    names = [file.relative_to(root).as_posix() for file in files]
    stems = Counter(Path(name).with_suffix("").as_posix().replace("/", "_").casefold() for name in names)
    recordings = []
    for file, name in zip(files, names, strict=True):
        stem = Path(name).with_suffix("").as_posix().replace("/", "_")
        recordings.append(Recording(stem if stems[stem.casefold()] == 1 else name, file, name, None))
    return root, recordings


def _read_manifest(path: Path, config: CurateConfig, problems: Problems) -> tuple[Path, list[Recording]]:
    """Take an existing manifest as the source, to filter, join or resample it again."""
    manifest = read_manifest(path)
    # Audio that a manifest refers to elsewhere keeps the folder that the manifest names.
    root = manifest.folder.resolve()
    if (root / AUDIO_ROOT_FILE).is_file():
        root = Path(manifest.utterances[0].audio.anchor)
    recordings = []
    for row in manifest.utterances:
        source = row.audio.relative_to(root).as_posix()
        recordings.append(
            Recording(row.id, row.audio, source, row.text, row.speaker, row.split, row.start, row.duration, row.extra)
        )
    return root, recordings


def _read_audiofolder(path: Path, config: CurateConfig, problems: Problems) -> tuple[Path, list[Recording]]:
    file = path if path.is_file() else next((path / name for name in METADATA if (path / name).is_file()), None)
    if file is None:
        raise UsageError(f"expected metadata.jsonl or metadata.csv in `{path}`", _OTHER_LAYOUT)
    rows = (json_rows if file.suffix == ".jsonl" else csv_rows)(file, config.encoding, problems)
    return file.parent, from_rows(rows, file.parent, problems)


def _read_list(path: Path, config: CurateConfig, problems: Problems) -> tuple[Path, list[Recording]]:
    """Read `wav|text` lines; other columns need a header line or `list_columns`, since their order is not standard."""
    file = path if path.is_file() else _find_list(path, config.encoding)
    if file is None:
        raise UsageError(f"expected a list with lines such as `a.wav|text` in `{path}`", _OTHER_LAYOUT)
    lines = numbered_lines(file, config.encoding)
    columns, lines = _list_columns(file, config, lines)
    rows = []
    for number, line in lines:
        cells = line.split("|", maxsplit=len(columns) - 1) if columns[-1] == "text" else line.split("|")
        where = f"{file.name}:{number}"
        if len(cells) != len(columns):
            problems.add(where, f"expected {len(columns)} columns (`{'|'.join(columns)}`), got {len(cells)}")
            continue
        rows.append(Row(where, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}))
    root = Path(config.list_root) if config.list_root else file.parent
    return root, from_rows(rows, root, problems)


def _list_columns(file: Path, config: CurateConfig, lines: list[tuple[int, str]]) -> tuple[list[str], list]:
    """Return the columns' names and the lines without the header."""
    header = [cell.strip().lower() for cell in lines[0][1].split("|")] if lines else []
    has_header = any(name in header for name in ID_FIELDS) and any(name in header for name in TEXT_FIELDS)
    if config.list_columns:
        columns = [name.strip() for name in config.list_columns.split("|")]
        if not (set(columns) & set(ID_FIELDS) and set(columns) & set(TEXT_FIELDS)):
            raise UsageError(f"list_columns should name `wav` and `text`, got `{config.list_columns}`")
        return columns, lines[1:] if has_header else lines
    if has_header:
        return header, lines[1:]
    if len(header) == 2:
        return ["wav", "text"], lines
    raise UsageError(
        f"expected `wav|text` in `{file}`, got {len(header)} columns: `{lines[0][1][:80] if lines else ''}`",
        'say what they are: -O list_columns="wav|speaker|text"',
    )


def _read_ljspeech(path: Path, config: CurateConfig, problems: Problems) -> tuple[Path, list[Recording]]:
    """Read `id|raw text|normalised text` and wavs/; the normalised text is used, the raw one kept."""
    if not _is_ljspeech(path, config.encoding):
        raise UsageError(f"expected metadata.csv and the folder wavs in `{path}`", _OTHER_LAYOUT)
    recordings = []
    for number, line in numbered_lines(path / "metadata.csv", config.encoding):
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) not in (2, 3):
            problems.add(f"metadata.csv:{number}", f"expected `id|text|normalised text`, got {len(cells)} columns")
            continue
        where = f"metadata.csv:{number}"
        row = Row(where, {"id": cells[0], "file_name": f"wavs/{cells[0]}", "text": cells[-1] or cells[1],
                          "speaker": "LJSpeech", "raw_text": cells[1], "language": "en"})
        recordings += from_rows([row], path, problems)
    return path, recordings


def _read_librispeech(path: Path, config: CurateConfig, problems: Problems) -> tuple[Path, list[Recording]]:
    """Read speaker/chapter/*.trans.txt, lines `id TEXT`; splits come from folder names such as dev-clean."""
    recordings = []
    for file in sorted(path.rglob("*.trans.txt")):
        for _, line in numbered_lines(file, config.encoding):
            name, _, text = line.strip().partition(" ")
            audio = find_audio(file.parent / name)
            recordings.append(from_tree(path, audio, name, text, name.split("-")[0]))
    return path, recordings


def _read_libritts(path: Path, config: CurateConfig, problems: Problems) -> tuple[Path, list[Recording]]:
    """Read speaker/chapter/*.wav with *.normalized.txt; a recording without one is listed, and rejected later."""
    recordings = []
    for audio in _audio_of_others(path, config):
        name = audio.stem
        text = text_beside(audio.with_name(f"{name}.normalized.txt"), config.encoding)
        original = text_beside(audio.with_name(f"{name}.original.txt"), config.encoding)
        extra = {"raw_text": original} if original else {}
        recordings.append(from_tree(path, audio, name, text, name.split("_")[0], extra))
    return path, recordings


def _read_vctk(path: Path, config: CurateConfig, problems: Problems) -> tuple[Path, list[Recording]]:
    """Read wav48*/SPEAKER/SPEAKER_001[_mic1] with txt/SPEAKER/SPEAKER_001.txt; the first microphone is taken."""
    folders = sorted(path.glob("wav48*"))
    if not folders:
        raise UsageError(f"expected a folder wav48 or wav48_silence_trimmed in `{path}`", _OTHER_LAYOUT)
    recordings: dict[str, Recording] = {}
    for audio in audio_files(folders[-1]):
        name, speaker = audio.stem.split("_mic")[0], audio.parent.name
        if name not in recordings:  # sorted: mic1 comes before mic2
            text = text_beside(path / "txt" / speaker / f"{name}.txt", config.encoding)
            recordings[name] = from_tree(path, audio, name, text, speaker)
    return path, list(recordings.values())


_READERS: dict[str, Callable[[Path, CurateConfig, Problems], tuple[Path, list[Recording]]]] = {
    "recordings": _read_recordings,
    "manifest": _read_manifest,
    "audiofolder": _read_audiofolder,
    "list": _read_list,
    "ljspeech": _read_ljspeech,
    "librispeech": _read_librispeech,
    "libritts": _read_libritts,
    "vctk": _read_vctk,
}


# ---- what every recording goes through


def _check_ids(recordings: list[Recording], problems: Problems) -> None:
    seen: dict[str, str] = {}
    for recording in recordings:
        if recording.id in seen:
            first = seen[recording.id]
            problems.add(f"id `{recording.id}`", f"stands for both `{first}` and `{recording.source}`")
        seen.setdefault(recording.id, recording.source)


def _finish(recording: Recording, config: CurateConfig) -> Recording:
    """Fill in the speaker and the licence, name splits in one way and make names writable as UTF-8."""
    speaker = recording.speaker
    if speaker == UNKNOWN_SPEAKER and config.speaker:
        speaker = config.speaker
    split = recording.split and _SPLITS.get(recording.split.lower(), recording.split)
    text = recording.text if recording.text is None else clean_text(recording.text)
    names_none = config.license and not recording.extra.get("license")
    return replace(
        recording,
        id=printable(recording.id),
        source=printable(recording.source),
        text=text,
        speaker=speaker,
        split=split or None,
        extra={**recording.extra, "license": config.license} if names_none else recording.extra,
    )


def _untranscribed(path: Path, root: Path | None, recordings: list[Recording]) -> tuple[Recording, ...]:
    """Return the recordings of a source in which nothing has a transcript: they are curated as whole files."""
    if root is None:
        raise UsageError(f"the dataset `{path.as_posix()}` has no transcripts", "save its audio as files in a folder")
    parts = [recording.id for recording in recordings if recording.start or recording.duration is not None]
    if parts:
        raise UsageError(f"`{parts[0]}` in `{path}` is a part of a recording, without a transcript",
                         "give the folder of the recordings: --layout recordings")
    if not recordings:
        raise UsageError(f"found neither recordings nor transcripts in `{path}` ({_LOOKED_FOR})", "check the path")
    log.info("%d recordings without transcripts below `%s` (%s)", len(recordings), path, _LOOKED_FOR)
    return tuple(recordings)


def _warn_of_nameless(recordings: list[Recording]) -> None:
    nameless = sum(recording.speaker == UNKNOWN_SPEAKER for recording in recordings)
    if nameless:
        log.warning(
            "%d of %d recordings name no speaker and count as one speaker, `%s`; -O speaker=NAME names them",
            nameless, len(recordings), UNKNOWN_SPEAKER,
        )


def _count_unlisted(layout: str, root: Path | None, recordings: list[Recording], out: Path) -> int:
    """Count audio that the tables leave out; VCTK's second microphones and old clips in `out` are no loss."""
    if root is None or layout in ("manifest", "vctk"):
        return 0
    listed = {recording.audio for recording in recordings}
    out = out.resolve()
    count = sum(1 for file in audio_files(root) if file not in listed and not real_path(file).is_relative_to(out))
    if count:
        log.warning("%d audio files below `%s` are not listed in its tables and are left out", count, root)
    return count
