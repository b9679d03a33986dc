from __future__ import annotations

import json
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stages.audio.io import read_audio
from stages.errors import MissingModelError, UsageError
from stages.metrics.intelligibility import count_word_errors
from stages.speech import transcriber as transcriber_module
from stages.speech.transcriber import (
    PocketsphinxTranscriber,
    Transcript,
    load_transcriber,
    recogniser_in_words,
    register_transcriber,
    split_at_pauses,
)

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
RATE = 16_000


@pytest.fixture(scope="module")
def recogniser():
    return load_transcriber("pocketsphinx")


def spoken(count, seconds=(2.0, 5.0)):
    """Return (waveform at 16 kHz, text) of the first `count` short clips of the clearest voice that ships."""
    rows = [json.loads(line) for line in (SPEECH / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    clear = [row for row in rows if "rms" in row["file_name"] and seconds[0] <= row["duration"] <= seconds[1]][:count]
    assert len(clear) == count
    return [(read_audio(SPEECH / row["file_name"], RATE), row["text"]) for row in clear]


def noise(seconds, level=0.1, seed=0):
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE)).astype(np.float32)


def test_speech_is_read_and_times_lie_inside_it_in_order(recogniser):
    waveform, text = spoken(1)[0]
    heard = recogniser.transcribe(waveform, RATE)
    assert count_word_errors(text, heard.text).rate < 0.5
    assert heard.text == " ".join(word.text for word in heard.words)
    assert heard.words[0].start >= 0 and heard.words[-1].end <= len(waveform) / RATE + 0.05
    assert all(first.end <= second.start for first, second in pairwise(heard.words))


def test_the_same_speech_is_heard_alike_at_another_sample_rate(recogniser):
    import soxr

    waveform, _ = spoken(1)[0]
    at_24k = soxr.resample(waveform, RATE, 24_000)
    assert recogniser.transcribe(at_24k, 24_000).text == recogniser.transcribe(waveform, RATE).text


def test_a_transcript_does_not_depend_on_what_was_heard_before():
    clips = [waveform for waveform, _ in spoken(3, seconds=(3.0, 4.0))]
    listener = PocketsphinxTranscriber()
    forward = [listener.transcribe(clip, RATE) for clip in clips]
    backward = [listener.transcribe(clip, RATE) for clip in reversed(clips)]
    assert forward == backward[::-1]


def test_no_words_are_heard_in_nothing_silence_or_a_few_samples(recogniser):
    for num_samples in (0, 100, RATE):
        assert recogniser.transcribe(np.zeros(num_samples, np.float32), RATE) == Transcript("")


def test_every_piece_of_a_long_recording_is_decoded_in_order(monkeypatch):
    """45 s: whatever a recogniser drops, the pieces given to the decoder are the whole recording."""
    waveform = noise(45.0)
    for pause in (8.0, 17.0, 33.0):
        waveform[int(pause * RATE) : int((pause + 0.4) * RATE)] = 0
    decoded = []
    listener = PocketsphinxTranscriber()
    monkeypatch.setattr(listener, "_decode", lambda piece, offset: decoded.append((piece.copy(), offset)) or [])
    listener.transcribe(waveform, RATE)
    assert len(decoded) >= 3
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in decoded]), waveform)
    starts = np.cumsum([0, *(len(piece) for piece, _ in decoded[:-1])]) / RATE
    np.testing.assert_allclose([offset for _, offset in decoded], starts)


def test_speech_past_40_seconds_is_heard_with_its_times(recogniser):
    (opening, _), (closing, text) = spoken(2)
    waveform = np.concatenate([opening, np.zeros(40 * RATE, np.float32), closing])
    heard = recogniser.transcribe(waveform, RATE)
    late = [word for word in heard.words if word.start > 40]
    assert count_word_errors(text, " ".join(word.text for word in late)).rate < 0.5


def test_a_minute_of_speech_is_heard_whole_as_well_as_its_sentences(recogniser):
    """65 s of flite speech in one file; what was heard in each sentence alone is kept beside this test."""
    kept = json.loads((Path(__file__).parent / "flite_windows.json").read_text(encoding="utf-8"))
    pause = np.zeros(round(0.3 * RATE), np.float32)
    clips = [read_audio(SPEECH / "audio" / f"rms-{number:03d}.ogg", RATE) for number in range(1, 14)]
    waveform = np.concatenate([part for clip in clips for part in (clip, pause)])
    assert len(waveform) > 60 * RATE
    heard = recogniser.transcribe(waveform, RATE)
    errors = count_word_errors(" ".join(text for text, _ in kept["sentences"]), heard.text)
    by_sentence = [count_word_errors(text, said) for text, said in kept["sentences"]]
    assert errors.words == sum(each.words for each in by_sentence) == 185
    assert errors.rate <= sum(each.total for each in by_sentence) / errors.words + 0.01
    assert errors.rate < 0.06
    assert heard.words[-1].end > 60  # and not cut at 30 s


def test_pieces_tile_the_recording_are_short_enough_and_are_cut_in_pauses():
    waveform = noise(100.0)
    pauses = [(11.0, 11.5), (30.0, 30.4), (44.0, 44.3)]
    for start, end in pauses:
        waveform[int(start * RATE) : int(end * RATE)] = 0
    pieces = split_at_pauses(waveform, RATE, max_seconds=20)
    assert pieces[0][0] == 0 and pieces[-1][1] == len(waveform)
    assert all(first[1] == second[0] for first, second in pairwise(pieces))
    assert all(0 < end - start <= 20 * RATE for start, end in pieces)
    cuts = [end / RATE for _, end in pieces[:3]]
    assert all(start < cut < end for cut, (start, end) in zip(cuts, pauses, strict=True))


@pytest.mark.parametrize("num_samples", [1, 50, 199, 200, 201, 1999])
def test_pieces_tile_recordings_of_any_length(num_samples):
    pieces = split_at_pauses(np.zeros(num_samples, np.float32), 100, max_seconds=2)
    assert sum(end - start for start, end in pieces) == num_samples
    assert all(0 < end - start <= 200 for start, end in pieces)


def test_an_unknown_recogniser_is_refused_with_the_known_ones():
    with pytest.raises(MissingModelError, match="`pocketsphinx`, got `wisper`") as caught:
        load_transcriber("wisper")
    assert "package.module:function" in caught.value.hint and "whisper" in caught.value.hint


def test_a_recogniser_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pocketsphinx", None)
    with pytest.raises(MissingModelError, match="not installed"):
        load_transcriber("pocketsphinx")


def test_a_recogniser_of_ones_own_is_named_by_module_and_function(monkeypatch):
    mine = types.SimpleNamespace(name="mine", version="1")
    monkeypatch.setitem(__import__("sys").modules, "my_recogniser", types.SimpleNamespace(make=lambda: mine))
    assert load_transcriber("my_recogniser:make") is mine
    with pytest.raises(MissingModelError, match="cannot be loaded"):
        load_transcriber("my_recogniser:missing")


def test_pocketsphinx_is_shown_with_a_warning_and_others_without():
    assert recogniser_in_words("pocketsphinx") == "pocketsphinx, ranking only"
    assert recogniser_in_words("whisper-large-v3") == "whisper-large-v3"


def test_pocketsphinx_hears_no_other_language():
    with pytest.raises(UsageError, match="English only, got the language `de`") as caught:
        load_transcriber("pocketsphinx", language="de")
    assert "--transcriber" in caught.value.hint
    assert load_transcriber("pocketsphinx", language="en-GB").name == "pocketsphinx"


def test_a_registered_recogniser_is_found_by_name(monkeypatch):
    monkeypatch.setattr(transcriber_module, "_TRANSCRIBERS", {})
    register_transcriber("mine", lambda: "made")
    assert load_transcriber("mine") == "made"
