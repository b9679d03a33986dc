"""Every write of the project: a temporary name, flushed, then renamed, so that nobody reads half a file.

A finished folder carries `checksums.json` (size and sha256 of every file), written last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.artifacts import strict_json
from stages.errors import StorageError, UsageError

FORMAT_VERSION = 1
CHECKSUMS = "checksums.json"
_TEMPORARY = ".halle-tmp-"
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name)}
_OF_STORAGE = {getattr(errno, name) for name in (
    "ENOSPC", "EDQUOT", "EIO", "ESTALE", "EMFILE", "ENFILE", "EROFS", "EFBIG", "EACCES", "EPERM", "ENAMETOOLONG",
) if hasattr(errno, name)}


@contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn the operating system's errors into a `StorageError` that names the path."""
    try:
        yield
    except OSError as error:
        raise _storage_error(error, path, doing) from error


def storage_error(error: OSError) -> StorageError | None:
    """Return what an error of the system says of the disk that nobody expected it of; None when it is of another."""
    named = error.filename if error.filename is not None else "a file"
    return _storage_error(error, named, "read or write") if error.errno in _OF_STORAGE else None


def _storage_error(error: OSError, path: object, doing: str) -> StorageError:
    reason = error.strerror or str(error)
    return StorageError(f"could not {doing} `{path}`: {reason.lower()}", _hint_for(error))


def _hint_for(error: OSError) -> str:
    if error.errno in _FULL:
        return "free some space, then run the same command again: it continues where it stopped"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the number of open files (ulimit -n), then run the same command again"
    if error.errno == errno.EIO:
        return "check the disk, then run the same command again: it continues where it stopped"
    return "check that the folder exists and may be written"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it into place.

    The temporary name keeps the suffix, so that writers which choose a format by suffix work.
    """
    path = Path(path)
    with storage_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            yield temporary
            _flush_file(temporary)
            temporary.replace(path)
            _flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: str | Path, unlisted: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield an empty temporary folder; on success checksum it and rename it to `path`, replacing what was there.

    What is `unlisted`, by name at its top, gets no checksum: it may be changed.
    """
    path = Path(path)
    with storage_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        temporary.mkdir()
        try:
            yield temporary
            for file in _files_below(temporary):
                _flush_file(file)
            write_checksums(temporary, unlisted)
            with _moved_away(path):
                temporary.replace(path)
            _flush_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _moved_away(path: Path) -> Iterator[None]:
    """Keep a folder under a temporary name while another takes its place, then delete it; a failure brings it back."""
    if not path.exists():
        yield
        return
    aside = path.parent / f"{_TEMPORARY}{uuid.uuid4().hex[:8]}-old-{path.name}"
    path.replace(aside)
    try:
        yield
    except BaseException:
        aside.replace(path)
        raise
    shutil.rmtree(aside)


def remove_folder(path: str | Path) -> None:
    """Delete a folder such that no part of it is ever seen under its name."""
    path = Path(path)
    with storage_errors(path, "delete"), _moved_away(path):
        pass


def temporary_beside(path: Path) -> Path:
    """Return a new name in the folder of `path`, which `sweep_temporaries` knows."""
    return path.parent / f"{_TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}"


def sweep_temporaries(folder: str | Path, deep: bool = False) -> None:
    """Delete what killed processes left under temporary names directly below `folder`; `deep`, anywhere below it."""
    for leftover in [*(Path(folder).rglob if deep else Path(folder).glob)(f"{_TEMPORARY}*")]:
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: object) -> None:
    write_text(path, strict_json.to_text(value, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    write_text(path, "".join(to_json_line(row) for row in rows))


def append_jsonl(path: str | Path, row: dict) -> None:
    """Add one line to a journal. A killed process may leave half a line: `read_journal` drops it."""
    path = Path(path)
    with storage_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(to_json_line(row))


def to_json_line(row: dict) -> str:
    return strict_json.to_text(row) + "\n"


def read_json(path: str | Path) -> dict:
    path = Path(path)
    try:
        value = strict_json.parse(_read_utf8(path))
    except ValueError as error:
        raise StorageError(f"`{path}` is not JSON: {error}", "make it again with the stage that wrote it") from error
    version = value.get("format_version", FORMAT_VERSION) if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise StorageError(f"expected a JSON object, with format_version if any, in `{path}`, got something else",
                           "make it again with the stage that wrote it")
    if version > FORMAT_VERSION:
        raise UsageError(f"expected format_version at most {FORMAT_VERSION} in `{path}`, got {version}",
                         "upgrade halle: this file was made by a newer one")
    return value


def read_jsonl(path: str | Path) -> list[dict]:
    """Return the rows of a JSON-lines file; a byte order mark, CRLF and empty lines are accepted."""
    rows, problems = [], []
    path = Path(path)
    for number, line in enumerate(_read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = strict_json.parse(line)
        except strict_json.UnkeptError as error:
            problems.append(f"{path.name}:{number}: not JSON: {error}")
            continue
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            problems.append(f"{path.name}:{number}: not a JSON object")
    if problems:
        raise UsageError("; ".join(problems[:5]) + _and_more(problems, 5), f"mend these lines of `{path}`")
    return rows


def read_journal(path: str | Path, mend: bool = True) -> list[dict]:
    """Return the complete lines of a journal written by `append_jsonl`; `mend` drops a torn last line from the file."""
    path = Path(path)
    if not path.exists():
        return []
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn and mend:
        write_bytes(path, whole + b"\n" if whole else b"")
    try:
        rows = [strict_json.parse(line) for line in whole.decode("utf-8").split("\n") if line]
    except ValueError as error:  # bytes that are not UTF-8, too
        raise StorageError(f"the journal `{path}` is damaged: {error}",
                           "restore it from a copy, or --restart") from error
    if not all(isinstance(row, dict) for row in rows):
        raise StorageError(f"the journal `{path}` is damaged: a line is no JSON object",
                           "restore it from a copy, or --restart")
    return rows


def _read_utf8(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"`{path}` does not exist") from error
    except OSError as error:
        raise StorageError(f"could not read `{path}`: {(error.strerror or str(error)).lower()}") from error
    return decode_utf8(data, path)


def decode_utf8(data: bytes, path: str | Path) -> str:
    """Return a file's text, without a byte order mark; raise `UsageError` with the line of a byte that is no UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{Path(path).name}:{line}: byte 0x{data[error.start]:02X} is not UTF-8",
                         f"save `{path}` again as UTF-8") from error


def _and_more(problems: list[str], shown: int) -> str:
    return f"; and {len(problems) - shown} more" if len(problems) > shown else ""


def sha256_file(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(value: object) -> str:
    """Return the sha256 of a JSON-ready value in its canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("utf-8")


def write_checksums(folder: str | Path, exclude: tuple[str, ...] = ()) -> None:
    """Record size and sha256 of every file below `folder`: from now on it counts as complete."""
    folder = Path(folder)
    files = {}
    for file in _files_below(folder):
        name = file.relative_to(folder).as_posix()
        if name.split("/")[0] not in exclude:
            files[name] = {"size": file.stat().st_size, "sha256": sha256_file(file)}
    write_json(folder / CHECKSUMS, {"format_version": FORMAT_VERSION, "files": files})


def is_complete(folder: str | Path) -> bool:
    return (Path(folder) / CHECKSUMS).is_file()


def verify_checksums(folder: str | Path) -> None:
    """Read every listed file again; raise a `StorageError` that names all files that differ."""
    folder = Path(folder)
    problems = []
    for name, expected in read_json(folder / CHECKSUMS)["files"].items():
        file = folder / name
        if not file.is_file():
            problems.append(f"`{file}` is missing")
        elif file.stat().st_size != expected["size"]:
            problems.append(f"`{file}` should have {expected['size']} bytes, has {file.stat().st_size}")
        else:
            with storage_errors(file, "read"):
                if sha256_file(file) != expected["sha256"]:
                    problems.append(f"`{file}` is damaged: its sha256 differs")
    if problems:
        raise StorageError("; ".join(problems[:5]) + _and_more(problems, 5), "make it again, or restore it from a copy",
                           tuple(problems))


def _files_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*")
                  if file.is_file() and file.name != CHECKSUMS and not file.name.startswith(_TEMPORARY))


def _flush_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
