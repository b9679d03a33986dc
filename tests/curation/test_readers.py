"""Every layout gives the same kind of recordings, and every fault of a table is named with its line."""

from __future__ import annotations

import os
import sys

import pytest
from tiny_corpora import audio_folder, record, settings, write_lines

from stages.curation.readers import read_corpus
from stages.errors import HalleError, UsageError


def read(source, **changes):
    return read_corpus(settings(source, **changes))


def rows_of(corpus) -> list[tuple]:
    return [(r.id, r.source, r.text, r.speaker, r.split) for r in corpus.recordings]


def refusal(source, **changes) -> HalleError:
    with pytest.raises(HalleError) as caught:
        read(source, **changes)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def test_audio_folder_with_jsonl_keeps_unknown_columns(tmp_path):
    record(tmp_path / "sub" / "a.wav")
    write_lines(
        tmp_path / "metadata.jsonl",
        {"file_name": "sub/a.wav", "transcription": "hello  there", "speaker_id": 7, "split": "dev", "mood": "calm"},
    )
    corpus = read(tmp_path)
    assert corpus.layout == "audiofolder"
    assert rows_of(corpus) == [("sub_a", "sub/a.wav", "hello there", "7", "validation")]
    assert corpus.recordings[0].extra == {"mood": "calm"}


def test_recordings_that_name_no_licence_have_that_of_the_settings(tmp_path):
    rows = [{"file_name": f"{name}.wav", "text": "hello", "license": licence} for name, licence in
            (("a", "CC BY 4.0"), ("b", None))]
    write_lines(tmp_path / "metadata.jsonl", *rows)
    assert [one.extra["license"] for one in read(tmp_path, license="CC0").recordings] == ["CC BY 4.0", "CC0"]
    record(tmp_path / "more" / "c.wav")
    assert read(tmp_path / "more", license="CC0").recordings[0].extra == {"license": "CC0"}


def test_a_duration_cuts_only_together_with_a_start(tmp_path):
    record(tmp_path / "a.wav")
    write_lines(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.wav", "text": "whole", "duration": 3.1},
        {"file_name": "a.wav", "text": "part", "start": 1.5, "duration": 0.5},
    )
    whole, part = read(tmp_path).recordings
    assert (whole.id, whole.start, whole.duration) == ("a", 0.0, None)
    assert (part.id, part.start, part.duration) == ("a-0001500", 1.5, 0.5)


def test_audio_folder_with_csv(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_bytes('\ufefffile_name,text,speaker,start\r\na.wav,"one, two",x,\r\n'.encode())
    assert rows_of(read(tmp_path)) == [("a", "a.wav", "one, two", "x", None)]


def test_list_of_two_columns(tmp_path):
    record(tmp_path / "wavs" / "a.wav")
    write_lines(tmp_path / "train.txt", "wavs/a.wav|one two")
    for source in (tmp_path, tmp_path / "train.txt"):
        assert rows_of(read(source, speaker="me")) == [("wavs_a", "wavs/a.wav", "one two", "me", None)]
    write_lines(tmp_path / "train.txt", "wavs/a.wav|one | two")
    assert rows_of(read(tmp_path, list_columns="wav|text"))[0][2] == "one | two"


def test_list_of_three_columns_needs_a_header_or_a_setting(tmp_path):
    record(tmp_path / "a.wav")
    expected = [("a", "a.wav", "one", "x", None)]
    path = write_lines(tmp_path / "l.txt", "a.wav|x|one")
    assert "list_columns" in refusal(path).hint
    assert rows_of(read(path, list_columns="wav|speaker|text")) == expected
    write_lines(path, "wav|text|speaker", "a.wav|one|x")
    assert rows_of(read(path)) == expected


def test_list_paths_may_start_elsewhere(tmp_path):
    record(tmp_path / "audio" / "a.wav")
    path = write_lines(tmp_path / "lists" / "l.txt", "a.wav|one")
    corpus = read(path, list_root=str(tmp_path / "audio"))
    assert corpus.recordings[0].audio.is_file()


def test_ljspeech(tmp_path):
    record(tmp_path / "wavs" / "LJ001-0001.wav")
    write_lines(tmp_path / "metadata.csv", "LJ001-0001|In 1455,|In fourteen fifty-five,")
    corpus = read(tmp_path)
    assert corpus.layout == "ljspeech"
    assert rows_of(corpus) == [
        ("LJ001-0001", "wavs/LJ001-0001.wav", "In fourteen fifty-five,", "LJSpeech", None)
    ]
    assert corpus.recordings[0].extra["raw_text"] == "In 1455,"


def test_librispeech(tmp_path):
    folder = tmp_path / "dev-clean" / "84" / "121123"
    record(folder / "84-121123-0000.flac", rate=16_000)
    write_lines(folder / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR")
    corpus = read(tmp_path)
    assert corpus.layout == "librispeech"
    source = "dev-clean/84/121123/84-121123-0000.flac"
    assert rows_of(corpus) == [("84-121123-0000", source, "GO DO YOU HEAR", "84", "validation")]


def test_libritts_lists_recordings_without_a_text(tmp_path):
    folder = tmp_path / "train-clean-100" / "19" / "198"
    for name in ("19_198_000000_000000", "19_198_000001_000000"):
        record(folder / f"{name}.wav")
    write_lines(folder / "19_198_000000_000000.normalized.txt", "Doctor Smith")
    write_lines(folder / "19_198_000000_000000.original.txt", "Dr. Smith")
    corpus = read(tmp_path)
    assert corpus.layout == "libritts"
    assert [(r.text, r.speaker, r.split) for r in corpus.recordings] == [
        ("Doctor Smith", "19", "train"), (None, "19", "train"),
    ]
    assert corpus.recordings[0].extra["raw_text"] == "Dr. Smith"


def test_vctk_takes_the_first_microphone(tmp_path):
    for microphone in ("mic1", "mic2"):
        record(tmp_path / "wav48_silence_trimmed" / "p225" / f"p225_001_{microphone}.flac", rate=48_000)
    write_lines(tmp_path / "txt" / "p225" / "p225_001.txt", "Please call Stella.")
    corpus = read(tmp_path)
    source = "wav48_silence_trimmed/p225/p225_001_mic1.flac"
    assert rows_of(corpus) == [("p225_001", source, "Please call Stella.", "p225", None)]
    assert (corpus.layout, corpus.unlisted) == ("vctk", 0)


def test_a_layout_can_be_forced(tmp_path):
    record(tmp_path / "wavs" / "a.wav")
    write_lines(tmp_path / "metadata.csv", "a|raw|normal")
    assert read(tmp_path, layout="ljspeech").layout == "ljspeech"
    refusal(tmp_path, layout="audiofolder")
    refusal(tmp_path, layout="vctk")


def test_recordings_without_transcripts_are_curated_whole(tmp_path):
    for name in ("b.wav", "sub/a.wav", "sub/c.wav", "sub/c.flac", "out/clips/b-0001.flac"):
        record(tmp_path / name)
    corpus = read(tmp_path, out=str(tmp_path / "out"))
    assert corpus.layout == "recordings"
    expected = [("b", "b.wav"), ("sub_a", "sub/a.wav"), ("sub/c.flac", "sub/c.flac"), ("sub/c.wav", "sub/c.wav")]
    assert [(recording.id, recording.source) for recording in corpus.recordings] == expected
    assert all(recording.text is None for recording in corpus.recordings)
    alone = read(tmp_path / "sub" / "a.wav")
    assert (alone.layout, rows_of(alone)) == ("recordings", [("a", "a.wav", None, "unknown", None)])


def test_metadata_without_texts_keeps_what_it_says_of_the_recordings(tmp_path):
    record(tmp_path / "a.wav")
    write_lines(tmp_path / "metadata.jsonl", {"file_name": "a.wav", "duration": 3.0, "license": "CC0"})
    corpus = read(tmp_path)
    assert (corpus.layout, corpus.recordings[0].extra) == ("recordings", {"license": "CC0"})
    write_lines(tmp_path / "metadata.jsonl", {"file_name": "a.wav", "start": 1.0, "duration": 1.0})
    assert "--layout recordings" in refusal(tmp_path).hint


def test_an_empty_and_a_missing_source_are_told_apart(tmp_path):
    assert "neither recordings nor transcripts" in refusal(tmp_path).message
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="got nothing"):
        read("")


def test_all_faults_of_a_table_are_reported_at_once_with_their_lines(tmp_path):
    record(tmp_path / "a.wav")
    write_lines(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.wav", "text": "fine"},
        "{not json",
        {"text": "no file"},
        {"file_name": "../a.wav", "text": "outside"},
        {"file_name": "/etc/passwd", "text": "outside"},
        {"file_name": "b.wav", "text": ["list"]},
        {"file_name": "c.wav", "text": "x", "start": -1},
        '{"file_name": "d.wav", "text": "x", "duration": NaN}',
        {"file_name": "a.wav", "text": "again"},
        "[1]",
    )
    message = refusal(tmp_path).message
    for part in (
        "metadata.jsonl:2: not JSON",
        "metadata.jsonl:3: field `file_name` is missing",
        "metadata.jsonl:4: path `../a.wav` leaves the data root",
        "metadata.jsonl:5: path `/etc/passwd` leaves the data root",
        "metadata.jsonl:6: field `text` should be text, got `['list']`",
        "metadata.jsonl:7: field `start` should be seconds, 0 or more, got `-1`",
        "metadata.jsonl:8: field `duration` should be seconds, 0 or more, got `nan`",
        "id `a`: stands for both `a.wav` and `a.wav`",
        "metadata.jsonl:10: expected a JSON object",
    ):
        assert part in message


def test_many_faults_are_counted_and_not_all_shown(tmp_path):
    write_lines(tmp_path / "metadata.jsonl", *["{"] * 50)
    message = refusal(tmp_path).message
    assert message.count("not JSON") == 20 and "and 30 more" in message


def test_wrong_column_counts_are_named(tmp_path):
    write_lines(tmp_path / "metadata.csv", "file_name,text", "a.wav,b,c")
    assert "metadata.csv:2: expected 2 columns as in the header, got 3" in refusal(tmp_path).message


def test_windows_line_ends_and_a_byte_order_mark_are_accepted(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "metadata.jsonl").write_bytes(b'\xef\xbb\xbf{"file_name": "a.wav", "text": "one"}\r\n\r\n')
    assert rows_of(read(tmp_path))[0][2] == "one"


def test_latin_1_is_named_and_read_when_asked_for(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "metadata.jsonl").write_bytes(b'\n{"file_name": "a.wav", "text": "caf\xe9"}\n')
    error = refusal(tmp_path)
    assert "metadata.jsonl:2: byte 0xE9 is not UTF-8" in error.message and "latin-1" in error.hint
    assert rows_of(read(tmp_path, encoding="latin-1"))[0][2] == "café"
    assert "expected a text encoding" in refusal(tmp_path, encoding="klingon").message


def test_control_characters_are_stripped_from_texts(tmp_path):
    record(tmp_path / "a.wav")
    write_lines(tmp_path / "metadata.jsonl", {"file_name": "a.wav", "text": "a\x00b\x1b[31m\tc\n d"})
    assert read(tmp_path).recordings[0].text == "ab[31m c d"


def test_audio_that_no_table_lists_is_counted(tmp_path):
    audio_folder(tmp_path, 2)
    record(tmp_path / "extra.wav")
    assert read(tmp_path).unlisted == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_file_names_that_are_no_text_are_percent_encoded(tmp_path):
    folder = tmp_path / "1" / "2"
    record(folder / "1_2_a.wav").rename(folder / os.fsdecode(b"1_2_\xe9\n.wav"))
    (folder / os.fsdecode(b"1_2_\xe9\n.normalized.txt")).write_text("hello", encoding="utf-8")
    recording = read(tmp_path).recordings[0]
    assert (recording.id, recording.text) == ("1_2_%E9%0A", "hello")
    assert recording.audio.is_file()


@pytest.mark.parametrize("source", ["./nowhere", "../nowhere", "~/nowhere"])
def test_a_path_that_is_not_there_is_not_looked_for_among_datasets(source):
    assert "does not exist" in refusal(source).message


def test_a_file_beside_recordings_that_is_no_text_is_no_list(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "README.txt").write_bytes("für alle".encode("latin-1"))
    assert [row[0] for row in rows_of(read(tmp_path))] == ["a"]


def test_names_may_hold_a_dot(tmp_path):
    for number in (0, 1):
        record(tmp_path / f"spk1.{number:04d}.wav")
    write_lines(tmp_path / "l.txt", "spk1.0000|one", "spk1.0001|two")
    assert [row[0] for row in rows_of(read(tmp_path / "l.txt", list_columns="wav|text"))] == ["spk1.0000", "spk1.0001"]


def test_libritts_does_not_read_what_an_earlier_run_wrote_into_it(tmp_path):
    folder = tmp_path / "train-clean-100" / "19" / "198"
    for place in (folder, tmp_path / "curated" / "clips"):
        record(place / "19_198_000000_000000.wav")
        write_lines(place / "19_198_000000_000000.normalized.txt", "Doctor Smith")
    assert len(read(tmp_path, out=str(tmp_path / "curated")).recordings) == 1
