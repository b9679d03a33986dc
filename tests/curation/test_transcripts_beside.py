from __future__ import annotations

from pathlib import Path

import pytest

from stages.audio.base import AudioError
from stages.curation.transcripts_beside import (
    join_sentences,
    read_captions,
    read_ctm,
    read_rttm,
    turns_beside,
    words_beside,
)
from stages.errors import UsageError
from stages.speech.spans import Turn
from stages.speech.transcriber import Word


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_turns_of_an_rttm_are_read_in_order_and_other_lines_passed_over(tmp_path):
    file = write(tmp_path / "a.rttm", ";; made by hand\r\nSPKR-INFO a 1 <NA> <NA> <NA> unknown host <NA>\r\n"
                 "SPEAKER a 1 5.5 2.25 <NA> <NA> guest <NA> <NA>\r\nSPEAKER a 1 0.1 5 <NA> <NA> host <NA> <NA>\r\n")
    assert read_rttm(file) == [Turn(0.1, 5.1, "host"), Turn(5.5, 7.75, "guest")]


def test_every_bad_line_of_an_rttm_is_named_with_its_number(tmp_path):
    file = write(tmp_path / "a.rttm", "SPEAKER a 1 x 2 <NA> <NA> host <NA> <NA>\n\nSPEAKER a 1 3\n"
                 "SPEAKER a 1 1 nan <NA> <NA> host <NA> <NA>\nhello there\n")
    with pytest.raises(UsageError) as raised:
        read_rttm(file)
    lines = raised.value.message.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["a.rttm:1:", "a.rttm:3:", "a.rttm:4:", "a.rttm:5:"]
    assert "expected seconds, got `x`" in lines[0]


def test_a_turn_of_no_or_negative_length_is_readable_and_left_to_the_cut(tmp_path):
    file = write(tmp_path / "a.rttm", "SPEAKER a 1 3 0 <NA> <NA> host <NA> <NA>\n"
                 "SPEAKER a 1 3 -1 <NA> <NA> host <NA> <NA>\n")
    assert read_rttm(file) == [Turn(3.0, 2.0, "host"), Turn(3.0, 3.0, "host")]


def test_words_of_a_ctm_have_times_and_no_marks(tmp_path):
    file = write(tmp_path / "a.ctm", "\ufeff;; recognised\na 1 0.50 0.25 hello 0.98\n"
                 "a 1 0.75 0.1 <eps>\na 1 1.0 0.5 größer\n")
    assert read_ctm(file) == [Word("hello", 0.5, 0.75), Word("größer", 1.0, 1.5)]
    with pytest.raises(UsageError, match=r"a.ctm:2: expected at least 5 fields, got 3"):
        read_ctm(write(tmp_path / "a.ctm", "a 1 0 1 yes\na 1 0.5\n"))


SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Good morning,</i>
everybody

2
00:00:02,500 --> 00:01:04,250
and welcome. &amp; [music]

3
00:01:05,000 --> 00:01:06,000
[applause]

4
01:00:00,000 --> 01:00:01,000
- Who is there?
"""


def test_captions_say_what_is_spoken_without_markup_and_sounds(tmp_path):
    cues = read_captions(write(tmp_path / "a.srt", SRT))
    assert cues == [Word("Good morning, everybody", 1.0, 2.5), Word("and welcome. &", 2.5, 64.25),
                    Word("Who is there?", 3600.0, 3601.0)]


def test_webvtt_is_read_with_its_header_notes_settings_and_short_times(tmp_path):
    text = ("WEBVTT - title\nKind: captions\n\nNOTE nothing\nof note\n\nSTYLE\n::cue {}\n\n"
            "intro\n00:01.000 --> 00:02.000 align:start position:0%\n<v Ann>one <00:01.500>two\n\n"
            "00:02.000 --> 00:03.000\n>> three\n")
    cues = read_captions(write(tmp_path / "a.vtt", text))
    assert cues == [Word("one two", 1.0, 2.0), Word("three", 2.0, 3.0)]


def test_every_bad_cue_is_named_with_its_line(tmp_path):
    with pytest.raises(UsageError) as raised:
        read_captions(write(tmp_path / "a.srt", "1\n00:00:01 --> 00:00:02,5\nyes\n\nwhat is this\n\n"
                            "2\n00:00:05,000 --> 00:00:06,000\nfine\n"))
    lines = raised.value.message.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["a.srt:2:", "a.srt:5:"]


def test_captions_of_one_sentence_are_joined_and_those_without_punctuation_are_not():
    cues = [Word("when it", 0, 1), Word("rains.", 1.2, 2), Word("It", 2.1, 3), Word("pours.", 6, 7)]
    assert [cue.text for cue in join_sentences(cues)] == ["when it rains.", "It", "pours."]
    plain = [Word("when it", 0, 1), Word("rains", 1, 2)]
    assert join_sentences(plain) == plain


def test_files_beside_the_audio_are_found_by_its_name_and_words_come_before_captions(tmp_path):
    audio = tmp_path / "a.flac"
    assert turns_beside(audio) is None
    assert words_beside(audio) is None
    write(tmp_path / "a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\nyes\n")
    assert words_beside(audio).file == "a.vtt"
    write(tmp_path / "a.ctm", "a 1 0 1 no\n")
    assert words_beside(audio).words == [Word("no", 0.0, 1.0)]
    write(tmp_path / "a.rttm", "SPEAKER a 1 3 2 <NA> <NA> host <NA> <NA>\n")
    assert turns_beside(audio) == [Turn(3.0, 5.0, "host")]


def test_a_transcript_that_cannot_be_read_drops_its_recording_and_says_where(tmp_path):
    write(tmp_path / "a.ctm", "nothing\n")
    with pytest.raises(AudioError) as raised:
        words_beside(tmp_path / "a.flac")
    assert raised.value.reason == "BAD_TRANSCRIPT"
    assert "a.ctm:1: expected at least 5 fields" in raised.value.detail
    (tmp_path / "a.ctm").write_bytes(b"a 1 0 1 gr\xfc\xdfe\n")
    with pytest.raises(AudioError, match="0xFC is not UTF-8"):
        words_beside(tmp_path / "a.flac")
    assert words_beside(tmp_path / "a.flac", "latin-1").words == [Word("grüße", 0.0, 1.0)]
