"""Any bytes as a manifest: it opens and says the same when written again, or a `HalleError` says what is wrong."""

import json
import tempfile
from pathlib import Path

from fuzzing import damaged, fuzz, hard_json, json_values, numbers, only_halle_errors, words
from hypothesis import given
from hypothesis import strategies as st

from stages.artifacts.manifest import FILE_NAME, read_manifest, write_manifest
from stages.artifacts.storage import read_journal, read_json, read_jsonl
from stages.artifacts.strict_json import to_text


def is_json(value) -> bool:
    """Tell whether a value of Python's is one of JSON's, which has no infinity."""
    try:
        return bool(to_text(value))
    except ValueError:
        return False


rows = st.fixed_dictionaries(
    {"id": words, "audio": words, "duration": st.one_of(numbers, st.floats(0, 100)), "text": words},
    optional={"start": numbers, "speaker": json_values, "split": json_values, "license": words, "more": json_values},
)
usual = st.fixed_dictionaries(
    {"id": st.uuids().map(str), "audio": st.just("clips/a.flac"), "duration": st.floats(0, 100), "text": st.text()},
    optional={
        "start": st.floats(0, 9),
        "speaker": st.text(),
        "split": st.sampled_from(["train", "test"]),
        "more": json_values.filter(is_json),
    },
)
SOUND = b"".join(
    json.dumps({"id": name, "audio": f"{name}.wav", "duration": 1.5, "text": "Hé.", "speaker": "s"}).encode() + b"\n"
    for name in "abc"
)
lines = st.lists(st.one_of(rows, json_values, usual), max_size=4).map(
    lambda found: "\n".join(json.dumps(row) for row in found).encode()
)
manifests = st.one_of(st.binary(max_size=60), lines, damaged(SOUND), hard_json)


def as_rows(manifest) -> list[dict]:
    return [
        {
            **row.extra,
            "id": row.id,
            "audio": row.audio.relative_to(manifest.folder.resolve()).as_posix(),
            "start": row.start,
            "duration": row.duration,
            "speaker": row.speaker,
            "text": row.text,
            "split": row.split,
        }
        for row in manifest.utterances
    ]


@fuzz
@given(manifests)
def test_any_bytes_are_a_manifest_that_round_trips_or_an_error_that_explains(content):
    with tempfile.TemporaryDirectory() as name, only_halle_errors():
        folder = Path(name)
        (folder / FILE_NAME).write_bytes(content)
        manifest = read_manifest(folder)
        found = as_rows(manifest)
        assert len(found) == len(manifest.utterances) and manifest.hours >= 0
        assert sum(len(manifest.split(split)) for split in {row["split"] for row in found}) == len(found)
        write_manifest(folder / "again", found)
        again = read_manifest(folder / "again")
        assert [row.id for row in again.utterances] == [row["id"] for row in found]
        assert json.dumps(as_rows(again)) == json.dumps(found)


@fuzz
@given(st.lists(usual, min_size=1, max_size=5))
def test_usual_rows_are_a_manifest_whatever_their_texts_are(found):
    with tempfile.TemporaryDirectory() as name:
        write_manifest(name, found)
        told = [{key: row[key] for key in ("id", "text", "duration")} for row in as_rows(read_manifest(name))]
        assert told == [{key: row[key] for key in ("id", "text", "duration")} for row in found]


@fuzz
@given(
    st.one_of(
        st.binary(max_size=60),
        hard_json,
        json_values.map(lambda value: json.dumps(value).encode()),
        json_values.map(lambda value: json.dumps({"audio_root": value}).encode()),
    )
)
def test_any_bytes_as_the_file_that_names_the_audio_s_folder(content):
    with tempfile.TemporaryDirectory() as name, only_halle_errors():
        (Path(name) / FILE_NAME).write_bytes(SOUND)
        (Path(name) / "manifest.json").write_bytes(content)
        assert all(row.audio.is_absolute() for row in read_manifest(name).utterances)


@fuzz
@given(st.one_of(st.binary(max_size=60), hard_json, lines, damaged(SOUND)))
def test_any_bytes_as_json_lines_and_journals(content):
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "x.jsonl"
        for read in (read_json, read_jsonl, read_journal):
            file.write_bytes(content)
            with only_halle_errors():
                assert isinstance(read(file), (dict, list))
