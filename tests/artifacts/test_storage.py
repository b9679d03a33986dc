"""Nothing is read that was not completely written."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from stages.artifacts.storage import (
    append_jsonl,
    atomic_path,
    is_complete,
    read_journal,
    read_json,
    read_jsonl,
    remove_folder,
    staged_folder,
    storage_error,
    sweep_temporaries,
    verify_checksums,
    write_checksums,
    write_json,
    write_text,
)
from stages.errors import StorageError, UsageError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(RuntimeError), atomic_path(file) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert file.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_becomes_a_storage_error_with_a_hint(tmp_path):
    with pytest.raises(StorageError) as caught, atomic_path(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert caught.value.exit_code == 4 and "free some space" in caught.value.hint


def test_an_error_of_the_disk_is_told_from_another():
    for number, told in ((errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "Disk quota exceeded")):
        full = storage_error(OSError(number, told, "a.txt"))
        assert full.exit_code == 4 and f"`a.txt`: {told.lower()}" in full.message and "free some space" in full.hint
    assert "ulimit" in storage_error(OSError(errno.EMFILE, "Too many open files", "a.txt")).hint
    assert storage_error(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) is None


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "shard"
    with pytest.raises(RuntimeError), staged_folder(folder) as temporary:
        write_text(temporary / "x", "1")
        raise RuntimeError
    assert not folder.exists()
    with staged_folder(folder) as temporary:
        write_text(temporary / "below" / "x", "1")
    assert is_complete(folder)
    verify_checksums(folder)


def test_every_changed_missing_or_cut_file_is_named(tmp_path):
    for name in "abc":
        write_text(tmp_path / name, name * 10)
    write_checksums(tmp_path)
    (tmp_path / "a").write_text("A" * 10, encoding="utf-8")
    (tmp_path / "b").unlink()
    os.truncate(tmp_path / "c", 3)
    with pytest.raises(StorageError) as caught:
        verify_checksums(tmp_path)
    assert all(f"{name}`" in caught.value.message for name in "abc")


def test_a_torn_journal_line_is_dropped_and_overwritten(tmp_path):
    journal = tmp_path / "j.jsonl"
    append_jsonl(journal, {"n": 1})
    append_jsonl(journal, {"n": 2})
    os.truncate(journal, journal.stat().st_size - 3)
    assert read_journal(journal) == [{"n": 1}]
    append_jsonl(journal, {"n": 3})
    assert read_journal(journal) == [{"n": 1}, {"n": 3}]


def test_json_lines_accept_bom_and_crlf_and_name_bad_lines(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert read_jsonl(file) == [{"a": 1}, {"a": 2}]
    file.write_bytes(b'{"a": 1}\nnot json\n[3]\n')
    with pytest.raises(UsageError, match=r"m\.jsonl:2.*m\.jsonl:3"):
        read_jsonl(file)
    file.write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(UsageError, match="0xE9 is not UTF-8"):
        read_jsonl(file)


def test_a_newer_format_is_refused(tmp_path):
    write_json(tmp_path / "x.json", {"format_version": 99})
    with pytest.raises(UsageError, match="99"):
        read_json(tmp_path / "x.json")


def test_json_never_holds_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})


def test_leftovers_of_killed_writers_are_swept(tmp_path):
    context = staged_folder(tmp_path / "x")
    temporary = context.__enter__()  # never left: as if killed
    write_text(temporary / "half", "1")
    sweep_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []
    context = staged_folder(tmp_path / "below" / "x")
    context.__enter__()
    sweep_temporaries(tmp_path)
    assert len(list((tmp_path / "below").iterdir())) == 1
    sweep_temporaries(tmp_path, deep=True)
    assert list((tmp_path / "below").iterdir()) == []


def test_a_folder_is_deleted_or_replaced_such_that_no_part_of_it_is_ever_seen(tmp_path, monkeypatch):
    seen = []

    def watch(path, **options):
        seen.append((sorted(item.name for item in tmp_path.iterdir() if not item.name.startswith(".")), path.name))
        removes(path, **options)

    removes = shutil.rmtree
    with staged_folder(tmp_path / "old") as temporary:
        write_text(temporary / "x", "1")
    monkeypatch.setattr(shutil, "rmtree", watch)
    remove_folder(tmp_path / "old")
    assert seen[0][0] == [] and seen[0][1].startswith(".halle-tmp-")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    with staged_folder(tmp_path / "a") as temporary:
        write_text(temporary / "x", "old")
    moves = Path.replace

    def fail(path, target):
        if path.name.endswith("-a") and not path.name.endswith("-old-a") and Path(target).name == "a":
            raise OSError(5, "Input/output error")
        return moves(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError), staged_folder(tmp_path / "a") as temporary:
        write_text(temporary / "x", "new")
    assert (tmp_path / "a" / "x").read_text(encoding="utf-8") == "old"
    verify_checksums(tmp_path / "a")


def test_json_is_written_for_people(tmp_path):
    write_json(tmp_path / "x.json", {"name": "é"})
    assert "é" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": "é"}
