"""Subtitles say when each sentence is heard, and whether somebody listened."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from heard import Hearing
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.audio.io import read_audio
from stages.speech.transcriber import Transcript, Word, load_transcriber
from stages.synthesis.captions import TimedSentence, TimedWord, time_sentences, to_srt, to_vtt, write_captions
from stages.synthesis.long_script import Piece, Sentence
from stages.synthesis.takes import Speech, SpokenPiece

SPEECH = Path(__file__).parent.parent.parent / "examples" / "speech"


def speech_of(*pieces: tuple[tuple[str, ...], float, float], sound: np.ndarray | None = None, rate: int = 100):
    """Return speech whose pieces are (sentences, start, end); a sentence has as many tokens as letters."""
    spoken = tuple(SpokenPiece(Piece(tuple(Sentence(text, len(text)) for text in texts)), start, end, {})
                   for texts, start, end in pieces)
    sound = np.zeros(round(pieces[-1][2] * rate), dtype=np.float32) if sound is None else sound
    return Speech(sound, np.zeros((1, 0)), rate, 0, "end", {}, spoken)


def heard(*words: tuple[str, float, float]) -> Transcript:
    return Transcript(" ".join(word for word, *_ in words), tuple(Word(*word) for word in words))


def test_a_sentence_begins_and_ends_with_its_words_as_they_were_heard():
    speech = speech_of((("One two.", "It costs $5."), 10.0, 20.0))
    listener = Hearing(heard(("one", 0.5, 0.9), ("two", 1.0, 1.5), ("it", 3.0, 3.2), ("costs", 3.3, 4.0),
                             ("five", 4.1, 4.5), ("dollars", 4.5, 5.0)))
    first, second = time_sentences(speech, listener)
    assert (first.start, first.end, second.start, second.end) == pytest.approx((10.5, 11.5, 13.0, 15.0))
    assert {first.timing, second.timing} == {"recogniser"}
    assert [word.text for word in second.words] == ["It", "costs", "$5."]
    assert [word.start for word in second.words] == pytest.approx([13.0, 13.3, 14.1])


def test_what_was_not_heard_lies_between_what_was_and_is_called_an_estimate():
    speech = speech_of((("One two.", "Aaaa.", "Bbbb bbbb b.", "Three four."), 0.0, 12.0))
    listener = Hearing(heard(("one", 1.0, 1.5), ("two", 1.5, 2.0), ("mumble", 4.0, 6.0), ("three", 10.0, 10.5),
                             ("four", 10.5, 11.0)))
    sentences = time_sentences(speech, listener)
    assert [sentence.timing for sentence in sentences] == ["recogniser", "estimate", "estimate", "recogniser"]
    assert [sentence.start for sentence in sentences] == pytest.approx([1.0, 2.0, 2.0 + 8 * 5 / 17, 10.0])
    assert sentences[2].end == pytest.approx(10.0)


def test_a_model_that_knows_when_it_says_what_is_believed():
    speech = speech_of((("One two.", "It costs $5."), 10.0, 20.0))
    told = replace(speech.pieces[0], word_times=(10.0, 11.5, 13.0, 13.5, 15.0, 18.25))
    first, second = time_sentences(replace(speech, pieces=(told,)), Hearing(heard(("one", 0.5, 0.9))))
    assert (first.start, first.end, second.start, second.end) == (10.0, 13.0, 13.0, 18.25)
    assert {first.timing, second.timing} == {"pointer"}
    assert [(word.text, word.start, word.end) for word in second.words] == [
        ("It", 13.0, 13.5), ("costs", 13.5, 15.0), ("$5.", 15.0, 18.25)]
    assert "NOTE" not in to_vtt([first, second])


def test_marks_of_words_rise_and_lie_within_their_cue():
    words = [TimedWord(*word) for word in (("one", 1, 2), ("😀", 2, 2), ("two", 2, 2), ("three", 2.0002, 3),
                                           ("four", 3, 3))]
    vtt = to_vtt([TimedSentence("one 😀 two three four", 1, 3, "pointer", tuple(words))])
    assert "one <00:00:02.000>😀 two three four" in vtt


def test_without_a_recogniser_sentences_share_their_piece_by_text_and_pauses_stay_empty():
    speech = speech_of((("Aaa.", "Bbbbbbb."), 0.0, 6.0), (("Cccc.",), 8.0, 9.0))
    sentences = time_sentences(speech, None)
    assert [(sentence.start, sentence.end) for sentence in sentences] == [(0, 2), (2, 6), (8, 9)]
    assert {sentence.timing for sentence in sentences} == {"estimate"}
    assert "NOTE some times are estimates" in to_vtt(sentences)


def test_a_real_recogniser_finds_the_pause_between_two_spoken_sentences():
    rate = 16_000
    sound = read_audio(SPEECH / "prompt.ogg", rate)
    text = (SPEECH / "prompt.txt").read_text(encoding="utf-8").split(". ")
    first, second = time_sentences(speech_of(((text[0] + ".", text[1]), 0.0, len(sound) / rate), sound=sound,
                                             rate=rate), load_transcriber("pocketsphinx"))
    level = np.convolve(np.square(sound, dtype=np.float64), np.ones(rate // 10), mode="valid")
    middle = slice(len(level) // 3, 2 * len(level) // 3)
    pause = (middle.start + np.argmin(level[middle])) / rate + 0.05
    assert first.timing == second.timing == "recogniser"
    assert first.end - 0.15 < pause < second.start + 0.15
    assert [word.text for word in (*first.words, *second.words)] == f"{text[0]}. {text[1]}".split()


def test_subtitles_have_the_form_that_players_read(tmp_path):
    words = (TimedWord("Tom", 3601.0, 3601.5), TimedWord("&", 3601.5, 3601.6), TimedWord("<i>", 3601.6, 3602.0004))
    sentences = [TimedSentence("Tom & <i>", 3601.0, 3602.0, "recogniser", words)]
    assert to_srt(sentences) == "1\n01:00:01,000 --> 01:00:02,000\nTom & <i>\n"
    assert to_vtt(sentences) == ("WEBVTT\n\n01:00:01.000 --> 01:00:02.000\n"
                                 "Tom <01:00:01.500>&amp; <01:00:01.600>&lt;i&gt;\n")
    files = write_captions(tmp_path / "part.1.wav", sentences, "both")
    assert [file.name for file in files] == ["part.1.srt", "part.1.vtt"] and all(file.is_file() for file in files)
    assert write_captions(tmp_path / "x.wav", sentences, "none") == []


def test_a_long_sentence_is_shown_in_parts_of_two_lines():
    text = " ".join(["word"] * 50) + "."
    sentences = time_sentences(speech_of(((text, "Short one."), 0.0, 30.0)), None)
    cues = to_srt(sentences).split("\n\n")
    shown = [cue.strip().split("\n")[2:] for cue in cues]
    assert [len(" ".join(lines)) for lines in shown] == [64, 64, 64, 55, 10]
    assert all(len(lines) <= 2 and max(map(len, lines)) <= 42 for lines in shown)
    assert " ".join(" ".join(lines) for lines in shown) == f"{text} Short one."


texts = st.lists(st.sampled_from(["one two.", "Mister 5 said three", "four!", "one, one, two", "- -", "$7.50"]),
                 min_size=1, max_size=5)
noises = st.lists(st.tuples(st.sampled_from(["one", "two", "three", "said", "four", "mumble", "7"]),
                            st.floats(0, 1), st.floats(0, 0.5)), max_size=12)


@settings(max_examples=50, deadline=None)
@given(texts, noises)
def test_times_never_run_backwards_nor_leave_the_piece(sentences, said):
    now, words = 0.0, []
    for word, gap, length in said:
        words.append(Word(word, now + gap, now + gap + length))
        now += gap + length
    timed = time_sentences(speech_of((tuple(sentences), 5.0, 9.0)), Hearing(Transcript("", tuple(words))))
    assert [sentence.text for sentence in timed] == sentences
    moments = [moment for sentence in timed for word in sentence.words for moment in (word.start, word.end)]
    assert all(5.0 - 1e-6 <= moment <= 9.0 + 1e-6 for moment in moments)
    assert all(earlier <= later + 1e-6 for earlier, later in pairwise(moments))
    assert [word.text for sentence in timed for word in sentence.words] == " ".join(sentences).split()
