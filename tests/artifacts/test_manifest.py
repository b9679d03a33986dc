"""Manifests: what is written is read, and every problem is named at once."""

import pytest

from stages.artifacts.manifest import read_manifest, stays_inside, write_manifest
from stages.artifacts.storage import write_json, write_jsonl
from stages.errors import UsageError

ROW = {"id": "a-1", "audio": "clips/a-1.flac", "start": 0.0, "duration": 3.5, "speaker": "a", "text": "hello",
       "split": "train", "licence": "CC0"}


def test_what_is_written_is_read_and_unknown_columns_are_kept(tmp_path):
    write_manifest(tmp_path, [ROW, {**ROW, "id": "a-2", "split": "test"}])
    manifest = read_manifest(tmp_path)
    assert [u.id for u in manifest.utterances] == ["a-1", "a-2"]
    assert manifest.utterances[0].extra == {"licence": "CC0"}
    assert manifest.utterances[0].audio == tmp_path.resolve() / "clips" / "a-1.flac"
    assert [u.id for u in read_manifest(tmp_path, "test").utterances] == ["a-2"]


def test_the_fingerprint_follows_the_content(tmp_path):
    write_manifest(tmp_path / "a", [ROW])
    write_manifest(tmp_path / "b", [ROW])
    write_manifest(tmp_path / "c", [{**ROW, "text": "hullo"}])
    a, b, c = (read_manifest(tmp_path / name).fingerprint for name in "abc")
    assert a == b != c


def test_all_bad_rows_are_reported_together(tmp_path):
    bad = [ROW, ROW, {**ROW, "id": "b", "audio": "../x.wav"}, {**ROW, "id": "c", "duration": "3"}]
    write_jsonl(tmp_path / "manifest.jsonl", bad)
    with pytest.raises(UsageError) as caught:
        read_manifest(tmp_path)
    for part in ("row 2: id `a-1`", "row 3: path `../x.wav` leaves", "row 4: field `duration`"):
        assert part in caught.value.message


def test_audio_may_lie_below_a_root_named_beside_the_manifest(tmp_path):
    write_manifest(tmp_path / "out", [ROW])
    write_json(tmp_path / "out" / "manifest.json", {"format_version": 1, "audio_root": "../recordings"})
    expected = (tmp_path / "recordings" / "clips" / "a-1.flac").resolve()
    assert read_manifest(tmp_path / "out").utterances[0].audio == expected


@pytest.mark.parametrize("path, inside", [("a/b.wav", True), ("../b.wav", False), ("/b.wav", False),
                                          ("a/../../b.wav", False), ("C:/b.wav", False), ("a..b/c.wav", True)])
def test_paths_that_leave_their_folder_are_known(path, inside):
    assert stays_inside(path) is inside


def test_a_folder_without_a_manifest_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(UsageError) as caught:
        read_manifest(tmp_path / "data")
    assert caught.value.hint.endswith(f"halle curate RECORDINGS --out {tmp_path / 'data'}")
    with pytest.raises(UsageError) as caught:
        read_manifest(tmp_path)
    assert f"halle curate {tmp_path} --out" in caught.value.hint, "a folder that is there may be the recordings"
