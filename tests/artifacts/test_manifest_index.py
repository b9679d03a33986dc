"""The index of a manifest says what a slow parse says, and is not believed when it is not of this very manifest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.artifacts import manifest as manifests
from stages.artifacts import manifest_rows
from stages.artifacts.manifest import durations_of, read_manifest, take, write_manifest
from stages.artifacts.manifest_index import open_index
from stages.artifacts.storage import fingerprint_of, write_jsonl
from stages.errors import StorageError, UsageError

SPLITS, SPEAKERS = ["train", "validation", "test"], ["ann", "böb", "\u3000", ""]
ROWS = st.lists(
    st.fixed_dictionaries(
        {"audio": st.sampled_from(["a.flac", "sub/ü.flac"]), "duration": st.floats(0, 200) | st.integers(0, 9),
         "text": st.text(max_size=9)},
        optional={"start": st.floats(0, 1e5), "split": st.sampled_from(SPLITS), "speaker": st.sampled_from(SPEAKERS),
                  "note": st.none() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)}),
    min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def every_manifest_is_large(monkeypatch):
    monkeypatch.setattr(manifests, "WORTHWHILE", 1)


def row(number: int, **changes) -> dict:
    return {"id": f"u{number}", "audio": "a.flac", "duration": 1.0 + number, "text": f"words of {number}",
            "speaker": f"s{number % 2}", "split": "test" if number % 3 == 0 else "train"} | changes


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path, [row(number) for number in range(7)])
    return tmp_path


@pytest.fixture
def checks(monkeypatch) -> list:
    """How often all rows were read from now on."""
    done = []

    def counted(content, manifest):
        done.append(manifest)
        return manifest_rows.index_rows(content, manifest)

    monkeypatch.setattr(manifests, "index_rows", counted)
    return done


def ids(folder) -> list[str]:
    return [utterance.id for utterance in read_manifest(folder).utterances]


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, ends=st.sampled_from(["\n", "\r\n", "\n\n", " \n\u3000\n"]), mark=st.booleans(),
       escaped=st.booleans(), last=st.booleans())
def test_the_index_says_what_a_slow_parse_says(tmp_path_factory, rows, ends, mark, escaped, last):
    folder = tmp_path_factory.mktemp("set")
    rows = [{"id": f"ü{number}", **fields} for number, fields in enumerate(rows)]
    text = ends.join(json.dumps(fields, ensure_ascii=escaped) for fields in rows) + ends * last
    (folder / "manifest.jsonl").write_bytes(b"\xef\xbb\xbf" * mark + text.encode("utf-8"))
    for _ in range(2):  # checked, then remembered
        found = read_manifest(folder)
        assert found.fingerprint == fingerprint_of(rows)
        assert [(u.id, u.audio, u.start, u.duration, u.text, u.split, u.speaker) for u in found.utterances] == [
            (r["id"], folder.resolve() / r["audio"], r.get("start", 0.0), r["duration"], r["text"],
             r.get("split", "train"), r.get("speaker", "unknown")) for r in rows]
        assert found.utterances.durations.tolist() == [r["duration"] for r in rows]
        for name in SPLITS:
            assert [u.id for u in found.split(name)] == [r["id"] for r in rows if r.get("split", "train") == name]
            assert list(found.split(name)) == list(read_manifest(folder, name).utterances)
        said = [r.get("speaker", "unknown") for r in rows]
        assert (found.utterances.speakers[:, None] == found.utterances.speakers).tolist() == [
            [a == b for b in said] for a in said]
    assert open_index(folder / "manifest.jsonl") is not None


def test_parts_of_a_manifest_are_chosen_without_parsing(folder, monkeypatch):
    utterances = read_manifest(folder).utterances
    whole = list(utterances)
    monkeypatch.setattr(manifests, "parse_row", None)
    part, chosen = utterances[-3:], take(utterances, np.array([5, 1]))
    assert durations_of(part).tolist() == [5.0, 6.0, 7.0] and durations_of(chosen).tolist() == [6.0, 2.0]
    assert utterances.of_split("test").durations.tolist() == [1.0, 4.0, 7.0] and not utterances.of_split("dev")
    monkeypatch.undo()
    assert (list(part), list(chosen), utterances[-1]) == (whole[-3:], [whole[5], whole[1]], whole[-1])
    with pytest.raises(IndexError):
        utterances[7]


def test_rows_are_checked_once(folder, checks):
    assert ids(folder) == ids(folder) == [f"u{number}" for number in range(7)] and checks == []
    (folder / "manifest.index").unlink()
    assert len(ids(folder)) == len(ids(folder)) == 7 and len(checks) == 1


def test_a_copied_index_is_believed_by_the_content(folder, checks):
    made = (folder / "manifest.index").stat().st_mtime_ns
    os.utime(folder / "manifest.jsonl", ns=(1, made + 10**9))
    assert len(ids(folder)) == 7 and checks == []
    assert (folder / "manifest.index").stat().st_mtime_ns == made + 10**9, "and is not hashed again"


@pytest.mark.parametrize("name", ["u99", "x6"])
def test_an_index_of_other_rows_is_noticed(folder, checks, name):
    file = folder / "manifest.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace('"u6"', f'"{name}"'), encoding="utf-8")
    os.utime(file, ns=(1, time.time_ns() + 10**9))
    assert ids(folder)[-1] == name and len(checks) == 1
    assert ids(folder)[-1] == name and len(checks) == 1, "the index was made again"


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b"\0",
    lambda data: data.replace(b'"rows": 7', b'"rows": 6'), lambda data: data.replace(b'"test"', b'"TEST"'),
    lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: b"[]\n" + data])
def test_a_damaged_index_is_not_believed(folder, checks, damage):
    file = folder / "manifest.index"
    time_of_change, whole = file.stat().st_mtime_ns, file.read_bytes()
    file.write_bytes(damage(whole))
    os.utime(file, ns=(1, time_of_change))
    assert [u.id for u in read_manifest(folder, "test").utterances] == ["u0", "u3", "u6"] and len(checks) == 1
    assert file.read_bytes() == whole


def test_the_same_manifest_has_the_same_index(folder, tmp_path):
    before = (folder / "manifest.index").read_bytes()
    (folder / "manifest.index").unlink()
    read_manifest(folder)
    assert (folder / "manifest.index").read_bytes() == before


def test_a_folder_that_may_not_be_written_needs_no_index(folder, monkeypatch):
    (folder / "manifest.index").unlink()

    def refuse(*_):
        raise StorageError("read-only file system")

    monkeypatch.setattr(manifests, "save_index", refuse)
    assert len(ids(folder)) == 7


def test_small_manifests_have_no_index_not_even_an_old_one(folder, monkeypatch):
    monkeypatch.setattr(manifests, "WORTHWHILE", 8)
    write_manifest(folder, [row(number) for number in range(7)])
    assert len(ids(folder)) == 7 and not (folder / "manifest.index").exists()


def test_wrong_rows_are_refused_when_written_and_leave_what_was_there(folder):
    with pytest.raises(UsageError, match=r"manifest.jsonl`: row 2: field `duration` should be seconds, got `-1`"):
        write_manifest(folder, [row(0), row(1, duration=-1)])
    assert len(ids(folder)) == 7 and not list(folder.glob(".halle-tmp-*"))


@pytest.mark.parametrize("changes, told", [
    ({"duration": float("nan")}, "field `duration` should be seconds, got `nan`"),
    ({"duration": 10**400}, "field `duration` should be seconds"),
    ({"start": True}, "field `start` should be seconds, got `True`"),
    ({"text": None}, "field `text` should be text, got `None`"),
    ({"id": ""}, "field `id` should be text"),
    ({"id": "u0"}, "id `u0` was seen before"),
    ({"audio": "/etc/passwd"}, "path `/etc/passwd` leaves the data root"),
])
def test_a_foreign_manifest_is_checked_row_by_row(tmp_path, changes, told):
    lines = [json.dumps(row(number) | (changes if number == 2 else {})) for number in range(4)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            read_manifest(tmp_path)
        assert f"row 3: {told}" in caught.value.message
    assert not (tmp_path / "manifest.index").exists()


def test_lines_that_are_no_rows_are_named(tmp_path):
    file = tmp_path / "manifest.jsonl"
    file.write_text(json.dumps(row(0)) + '\n\n{"id":\n' + "[" * 100_000 + "\n7\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_manifest(tmp_path)
    assert caught.value.message == "; ".join(f"manifest.jsonl:{line}: not a JSON object" for line in (3, 4, 5))
    file.write_bytes(b"\n" + json.dumps(row(0, text="caf\u00e9"), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(UsageError, match=r"manifest.jsonl:2: byte 0xE9 is not UTF-8"):
        read_manifest(tmp_path)


def test_the_first_problems_are_shown_in_order_and_all_are_counted(tmp_path):
    write_jsonl(tmp_path / "manifest.jsonl", [row(0), row(0), *(row(number, text=7) for number in range(1, 9))])
    with pytest.raises(UsageError, match=r": row 2: id `u0` was seen before; row 3: .*row 6: .*; and 4 more$"):
        read_manifest(tmp_path)


def test_ids_of_equal_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.artifacts.manifest_index.hash_of", lambda name: 7)
    monkeypatch.setattr(manifests, "hash_of", lambda name: 7)
    write_manifest(tmp_path, [row(0), row(1)])
    assert ids(tmp_path) == ["u0", "u1"]


def test_a_manifest_that_is_replaced_is_read_as_it_was_and_one_written_into_is_noticed(folder):
    utterances = read_manifest(folder).utterances
    write_manifest(folder, [row(number + 100) for number in range(9)])
    assert [u.id for u in utterances] == [f"u{number}" for number in range(7)]
    utterances = read_manifest(folder).utterances
    whole = (folder / "manifest.jsonl").read_bytes()
    for damaged in (whole.replace(b'"u100"', b'"u900"'), whole.replace(b'"id"', b'"id ', 1)):
        with (folder / "manifest.jsonl").open("r+b") as file:
            file.write(damaged)
        assert utterances[3].id == "u103"
        with pytest.raises(StorageError, match="was changed while it was in use: row 1"):
            utterances[0]


KILLED = """
import os, sys
from stages.artifacts import manifest, manifest_index, storage
manifest.WORTHWHILE = 1
rows = [{"id": f"new{n}", "audio": "a.flac", "duration": 1.0, "text": "x"} for n in range(7)]
seen = []
def die(path):
    seen.append(path)
    if len(seen) == int(sys.argv[2]):
        os._exit(9)
storage._flush_file = die
manifest.write_manifest(sys.argv[1], rows)
"""


@pytest.mark.parametrize("writes, expected", [(1, "u0"), (2, "new0")])
def test_a_writer_killed_in_the_middle_leaves_a_manifest_that_opens(folder, writes, expected):
    """Killed before the manifest's rename the old one is there; before the index's, the new one with a stale index."""
    before = (folder / "manifest.index").read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(writes)], check=False)
    assert done.returncode == 9 and (folder / "manifest.index").read_bytes() == before
    assert ids(folder)[0] == expected and len(ids(folder)) == 7
