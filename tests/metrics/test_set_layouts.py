"""A test set may be written down in many ways, and whatever is wrong with it is told with its line."""

from __future__ import annotations

import json
import logging
import math
import os

import numpy as np
import pytest

from stages.artifacts.manifest import read_manifest
from stages.audio.io import AudioError, write_audio
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics.cases import plan_cases, without_recording
from stages.metrics.set_layouts import read_listing, read_texts
from stages.metrics.sounds import read_recording

RATE = 8000


def wav(path, seconds=1.0):
    write_audio(path, np.linspace(-0.5, 0.5, round(seconds * RATE), dtype=np.float32), RATE)
    return path


def jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(name="a", **more):
    return {"id": name, "audio": f"{name}.wav", "duration": 1.0, "text": f"words of {name}"} | more


def only(listing):
    (case,) = listing.cases
    return case


def refused(path, **more):
    """Return the problems of a set that cannot be read."""
    with pytest.raises(UsageError) as caught:
        read_listing(path, **more)
    return caught.value


# ---- layouts


def test_a_manifest_is_read_as_the_stages_read_it(tmp_path):
    jsonl(tmp_path / "manifest.jsonl", row("a", speaker="ann", split="test", take=2),
          row("b", start=0.25, duration=0.5))
    listing, manifest = read_listing(tmp_path), read_manifest(tmp_path)
    assert tuple(case.recording for case in listing.cases) == tuple(manifest.utterances)
    assert listing.fingerprint == manifest.fingerprint
    first = listing.cases[0]
    assert (first.id, first.text, first.speaker, first.split, first.extra) == (
        "a", "words of a", "ann", "test", {"take": 2})
    assert read_listing(tmp_path / "manifest.jsonl").cases == listing.cases


def test_a_manifest_of_recordings_kept_elsewhere_is_read_from_there(tmp_path):
    jsonl(tmp_path / "set" / "manifest.jsonl", row())
    (tmp_path / "set" / "manifest.json").write_text(json.dumps({"audio_root": "../sounds"}), encoding="utf-8")
    assert only(read_listing(tmp_path / "set")).recording.audio == tmp_path.resolve() / "sounds" / "a.wav"


def test_rows_need_no_recording(tmp_path):
    jsonl(tmp_path / "manifest.jsonl", {"id": "a", "text": "only a text"}, row("b"))
    first, second = read_listing(tmp_path).cases
    assert first.recording is None and not first.refused and second.recording is not None


def test_a_row_may_name_its_prompt_by_id_or_as_a_file(tmp_path):
    wav(tmp_path / "voices" / "ann.wav", 2.5)
    jsonl(tmp_path / "manifest.jsonl", row("a", prompt_id="b"), row("b"),
          {"id": "c", "text": "c", "prompt": "voices/ann.wav", "prompt_text": "I am Ann."})
    by_id, _, by_file = read_listing(tmp_path).cases
    assert by_id.prompt.id == "b" and by_id.prompt.text == "words of b"
    assert (by_file.prompt.duration, by_file.prompt.text) == (2.5, "I am Ann.")
    assert by_file.prompt.audio.is_file() and by_file.extra == {}


def test_a_prompt_that_is_no_recording_of_the_set_refuses_its_row(tmp_path):
    jsonl(tmp_path / "manifest.jsonl", row("a", prompt_id="x"), {"id": "b", "text": "b"}, row("c", prompt_id="b"))
    assert [case.refused for case in read_listing(tmp_path).cases] == [
        "its prompt `x` is not a recording of the set", "", "its prompt `b` is not a recording of the set"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_an_audio_folder_with_metadata_is_read_and_durations_there_cut_nothing(tmp_path, name):
    wav(tmp_path / "sub" / "a.wav", 2.0)
    if name.endswith("csv"):
        (tmp_path / name).write_text('file_name,text,duration\nsub/a.wav,"one, two",1.9\n', encoding="utf-8")
    else:
        jsonl(tmp_path / name, {"file_name": "sub/a.wav", "text": "one, two", "duration": 1.9})
    case = only(read_listing(tmp_path))
    assert (case.id, case.text, case.recording.duration, case.split) == ("sub_a", "one, two", 2.0, "test")


def test_a_folder_of_audio_is_read_with_the_texts_beside_it(tmp_path):
    wav(tmp_path / "a.wav", 2.0)
    wav(tmp_path / "b.flac")
    (tmp_path / "a.txt").write_text("what a says\n", encoding="utf-8")
    (tmp_path / "notes.md").touch()
    listing = read_listing(tmp_path)
    assert [(case.id, case.text, case.recording.duration) for case in listing.cases] == [
        ("a", "what a says", 2.0), ("b", "", 1.0)]
    assert listing.name == tmp_path.name and not any(case.refused for case in listing.cases)


def test_audio_that_cannot_be_read_refuses_its_own_row_only(tmp_path):
    wav(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"<html>not found</html>")
    first, second = read_listing(tmp_path).cases
    assert not first.refused and "its recording" in second.refused and "text/html" in second.refused


def test_a_list_has_ids_texts_and_perhaps_prompts_with_their_words_beside(tmp_path):
    wav(tmp_path / "voices" / "ann.wav", 2.5)
    (tmp_path / "voices" / "ann.txt").write_text("I am Ann.\n", encoding="utf-8")
    wav(tmp_path / "bob.wav")
    file = tmp_path / "mine.tsv"
    file.write_text("a\tFirst | text.\tvoices/ann.wav\nb\tSecond text.\tbob.wav\nc\tThird text.\n", encoding="utf-8")
    listing = read_listing(file)
    assert listing.name == "mine"
    assert [(case.id, case.text, case.prompt and case.prompt.text) for case in listing.cases] == [
        ("a", "First | text.", "I am Ann."), ("b", "Second text.", ""), ("c", "Third text.", None)]
    assert all(case.recording is None for case in listing.cases)


def test_the_lists_of_seed_tts_are_read_with_four_and_with_five_columns(tmp_path):
    for name in ("prompt-wavs/p.wav", "wavs/a.wav", "truth/b.wav"):
        wav(tmp_path / name, 1.5)
    lines = ["a|The prompt.|prompt-wavs/p.wav|First text.", "b|The prompt.|prompt-wavs/p.wav|Second text.|truth/b.wav",
             "c|The prompt.|prompt-wavs/p.wav|Third text."]
    (tmp_path / "meta.lst").write_text("\n".join(lines), encoding="utf-8")
    listing = read_listing(tmp_path)
    assert listing.cases == read_listing(tmp_path / "meta.lst").cases and listing.name == tmp_path.name
    assert [case.text for case in listing.cases] == ["First text.", "Second text.", "Third text."]
    assert {case.prompt.text for case in listing.cases} == {"The prompt."}
    assert [case.recording and case.recording.audio.name for case in listing.cases] == ["a.wav", "b.wav", None]
    assert listing.cases[1].recording.text == "Second text."


def test_the_short_lists_of_seed_tts_are_read_too(tmp_path):
    wav(tmp_path / "p.wav")
    (tmp_path / "meta.lst").write_text("a|First text.\nb.wav|Second text.|p.wav\n", encoding="utf-8")
    first, second = read_listing(tmp_path).cases
    assert (first.id, first.prompt, second.id) == ("a", None, "b") and second.prompt.audio.name == "p.wav"


def test_a_recording_or_prompt_that_is_not_there_refuses_its_row(tmp_path):
    wav(tmp_path / "a.wav")
    (tmp_path / "mine.tsv").write_text("a\tOne.\ta.wav\nb\tTwo.\tgone.wav\n", encoding="utf-8")
    assert [case.refused for case in without_recording(read_listing(tmp_path / "mine.tsv").cases)] == [
        "", "its prompt is not there"]
    jsonl(tmp_path / "manifest.jsonl", row("a"), row("gone"))
    assert [case.refused for case in without_recording(read_listing(tmp_path).cases)] == [
        "", "its recording is not there"]


def test_texts_of_foreign_audio_come_from_beside_it_or_from_a_table_and_are_known_by_the_file(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.wav").write_bytes(b"nobody decodes it")
    (tmp_path / "b.txt").write_text("beside", encoding="utf-8")
    jsonl(tmp_path / "metadata.jsonl", {"id": "x1", "file_name": "a.wav", "text": "in the table"},
          {"file_name": "lost.wav", "text": "nobody spoke it"})
    assert [(case.id, case.text, case.recording) for case in read_texts(tmp_path)] == [
        ("a", "in the table", None), ("lost", "nobody spoke it", None), ("b", "beside", None), ("c", "", None)]


# ---- what is wrong with sets


def test_every_line_that_is_not_json_is_told(tmp_path):
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row()) + '\n{"id": "b"\n\n[1]\n', encoding="utf-8")
    message = refused(tmp_path).message
    assert "manifest.jsonl:2: not JSON" in message and "manifest.jsonl:4: expected a JSON object" in message


@pytest.mark.parametrize("name, line", [("manifest.jsonl", json.dumps(row())), ("mine.tsv", "a\twords of a"),
                                        ("meta.lst", "a|words of a")])
def test_byte_order_marks_and_windows_line_ends_are_accepted(tmp_path, name, line):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    case = only(read_listing(tmp_path / name))
    assert (case.id, case.text) == ("a", "words of a")


def test_bytes_that_are_not_utf_8_are_told_with_their_line_and_read_by_their_encoding(tmp_path):
    file = tmp_path / "mine.tsv"
    file.write_bytes("a\tone\nb\tcafé\n".encode("latin-1"))
    error = refused(file)
    assert "mine.tsv:2: byte 0xE9 is not UTF-8" in error.message and "encoding=latin-1" in error.hint
    assert read_listing(file, "latin-1").cases[1].text == "café"


@pytest.mark.parametrize("path", ["/etc/passwd.wav", "../a.wav", "x/../../a.wav", "C:/a.wav"])
def test_paths_that_leave_the_data_root_are_refused(tmp_path, path):
    jsonl(tmp_path / "manifest.jsonl", row(), row("b", audio=path))
    assert f"manifest.jsonl:2: path `{path}` leaves the data root" in refused(tmp_path).message
    (tmp_path / "mine.tsv").write_text(f"a\tone\na2\ttwo\t{path}\n", encoding="utf-8")
    assert f"mine.tsv:2: path `{path}` leaves the data root" in refused(tmp_path / "mine.tsv").message


@pytest.mark.parametrize("change, told", [
    ({"id": None}, "field `id`"), ({"id": "  "}, "field `id`"), ({"text": None}, "field `text` is missing"),
    ({"text": ["a"]}, "should be text"), ({"id": {}}, "should be text"), ({"audio": 3.5}, "should be text"),
    ({"duration": "long"}, "should be seconds"), ({"duration": -1.0}, "got `-1.0`"),
    ({"duration": math.nan}, "got `nan`"), ({"start": True}, "got `True`"),
])  # fmt: skip
def test_missing_and_mistyped_fields_are_told_with_their_line(tmp_path, change, told):
    fields = {name: value for name, value in (row("b") | change).items() if value is not None}
    if "id" not in fields:
        del fields["audio"]  # which would name it
    jsonl(tmp_path / "manifest.jsonl", row(), fields)
    message = refused(tmp_path).message
    assert message.startswith("manifest.jsonl:2: ") and told in message


@pytest.mark.parametrize("line, told", [("a\tb\tc\td", "got 4 columns"), ("a|b|c|d|e|f", "got 6 columns"),
                                        ("only words", "got 1 columns")])
def test_lines_of_other_shapes_are_told(tmp_path, line, told):
    (tmp_path / "mine.txt").write_text(line + "\n", encoding="utf-8")
    assert told in refused(tmp_path / "mine.txt").message


def test_an_id_that_was_seen_before_is_refused(tmp_path):
    jsonl(tmp_path / "manifest.jsonl", row(), row("b"), row())
    assert refused(tmp_path).message == "manifest.jsonl:3: id `a` was seen before"


def test_a_duration_beyond_the_file_is_told_with_both_numbers(tmp_path):
    wav(tmp_path / "a.wav", 1.0)
    jsonl(tmp_path / "manifest.jsonl", row(duration=3.0))
    with pytest.raises(AudioError, match=r"part of its 1\.000 s, got 0\.000 s to 3\.000 s"):
        read_recording(only(read_listing(tmp_path)).recording)


@pytest.mark.parametrize("text", ["", "   ", "\t\n"])
def test_an_empty_text_refuses_its_row(tmp_path, text):
    jsonl(tmp_path / "manifest.jsonl", row(text=text))
    assert only(read_listing(tmp_path)).refused == "the reference text is empty"


def test_control_characters_are_stripped_with_a_warning_and_line_breaks_are_kept(tmp_path, caplog):
    jsonl(tmp_path / "manifest.jsonl", row(text="one\0 two\x1b[31m"), row("b", text="one\ntwo"))
    with caplog.at_level(logging.WARNING, logger="halle.eval"):
        first, second = read_listing(tmp_path).cases
    assert first.text == "one two[31m" and second.text == "one\ntwo"
    assert "`a`" in caplog.text and "`b`" not in caplog.text


@pytest.mark.parametrize("field", ["id", "text", "speaker"])
def test_half_characters_are_told_with_their_position(tmp_path, field):
    jsonl(tmp_path / "manifest.jsonl", row(), row("b") | {field: "ab\ud800c"})
    assert f"manifest.jsonl:2: field `{field}` has half a character (a lone surrogate, U+D800) at position 2" in (
        refused(tmp_path).message)


def test_characters_of_any_script_stay_as_they_are(tmp_path):
    texts = ["Grüße, 你好!", "naïve 🙂 café", "$1,234.56 on 3/4"]
    jsonl(tmp_path / "manifest.jsonl", *(row(f"u{index}", text=text) for index, text in enumerate(texts)))
    assert [case.text for case in read_listing(tmp_path).cases] == texts


@pytest.mark.parametrize("name", ["manifest.jsonl", "metadata.csv", "mine.tsv", "meta.lst"])
def test_a_megabyte_of_text_is_read(tmp_path, name):
    text = " ".join(["word"] * 200_000)
    written = {"manifest.jsonl": json.dumps({"id": "a", "text": text}), "metadata.csv": f"id,text\na,{text}",
               "mine.tsv": f"a\t{text}", "meta.lst": f"a|{text}"}  # fmt: skip
    (tmp_path / name).write_text(written[name] + "\n", encoding="utf-8")
    assert only(read_listing(tmp_path / name)).text == text


@pytest.mark.parametrize("name, written, told", [
    ("manifest.jsonl", "[" * 100_000, "manifest.jsonl:1: not JSON"),
    ("metadata.csv", "id,text\na,one\rb,two\n", "metadata.csv:2: not CSV"),
    ("metadata.csv", "id,text\na,one,more\n", "metadata.csv:2: expected 2 columns as in the header, got 3"),
])  # fmt: skip
def test_what_no_reader_understands_is_told_with_its_line(tmp_path, name, written, told):
    (tmp_path / name).write_text(written, encoding="utf-8", newline="")
    assert told in refused(tmp_path).message


def test_a_name_that_no_file_can_have_is_told_with_its_line(tmp_path):
    jsonl(tmp_path / "manifest.jsonl", row(), row("b", audio="y" * 300 + ".wav"), row("c", prompt="é" * 200 + ".wav"))
    message = refused(tmp_path).message
    assert all(f"manifest.jsonl:{line}: path" in message for line in (2, 3)) and "longer than 255 bytes" in message


def test_a_set_without_a_row_is_refused(tmp_path):
    (tmp_path / "mine.tsv").write_text("\n", encoding="utf-8")
    assert "holds no utterance" in refused(tmp_path / "mine.tsv").message


def test_no_more_than_twenty_problems_are_listed(tmp_path):
    jsonl(tmp_path / "manifest.jsonl", *[{"id": "a"}] * 30)
    assert "and 10 more" in refused(tmp_path).message


@pytest.mark.skipif(os.name == "nt", reason="names there are Unicode")
def test_files_whose_names_are_no_text_have_ids_that_can_be_written(tmp_path):
    wav(tmp_path / os.fsdecode(b"caf\xe9.wav"))
    case = only(read_listing(tmp_path))
    assert case.id == "caf%E9" and case.recording.audio.is_file()
    assert [case.id for case in read_texts(tmp_path)] == ["caf%E9"]


def test_planning_keeps_what_reading_refused(tmp_path):
    jsonl(tmp_path / "manifest.jsonl", row(text=""), row("b"))
    planned = plan_cases(read_listing(tmp_path).cases, EvalConfig(setting="reconstruction"))
    assert [case.refused for case in planned] == ["the reference text is empty", ""]
