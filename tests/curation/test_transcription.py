from __future__ import annotations

import numpy as np
import pytest

from stages.audio.io import write_audio
from stages.audio.recording import open_recording
from stages.config.stage_configs import CurateConfig
from stages.curation import transcription
from stages.curation.recordings import Recording
from stages.curation.transcription import listen, missing, run, stretches
from stages.curation.utterances import Dropped
from stages.errors import MissingModelError
from stages.speech.spans import Span
from stages.speech.transcriber import Transcript, Word

RATE = 16_000


class Counter:
    """Hears one word a stretch: how many seconds it was given."""

    name, version = "counter", "1"

    def __init__(self, texts: dict[int, str] | None = None):
        self.texts, self.seconds = texts or {}, []

    def transcribe(self, waveform, sample_rate) -> Transcript:
        self.seconds.append(len(waveform) / sample_rate)
        text = self.texts.get(len(self.seconds), f"number{len(self.seconds)}")
        return Transcript(text, tuple(Word(word, 0.25, 0.5) for word in text.split()))


@pytest.fixture
def sound(tmp_path):
    def make(seconds: float):
        noise = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
        write_audio(tmp_path / "a.wav", noise, RATE)
        return open_recording(tmp_path / "a.wav")

    return make


def recording(sound) -> Recording:
    return Recording("a", sound.path, "a.wav", None)


def test_speech_is_heard_in_stretches_of_at_most_thirty_seconds_that_do_not_overlap():
    speech = [Span(0.1, 10.0), Span(10.4, 25.0), Span(25.2, 32.0), Span(36.0, 37.0), Span(37.2, 38.9)]
    assert stretches(speech, 39.0) == [Span(0.0, 25.1), Span(25.1, 32.25), Span(35.75, 39.0)]


def test_words_are_timed_from_the_beginning_of_the_recording(sound):
    heard = listen(Counter(), sound(12.0), [Span(2.0, 3.0), Span(6.0, 8.0)])
    assert heard.words == [Word("number1", 2.0, 2.25), Word("number2", 6.0, 6.25)]


def test_speech_without_pauses_is_heard_in_parts_so_that_memory_stays_flat(sound):
    counter = Counter()
    listen(counter, sound(300.0), [Span(0.0, 300.0)])
    assert sum(counter.seconds) == pytest.approx(300.0, abs=0.01)
    assert max(counter.seconds) <= 120.0


def test_loops_and_silence_are_refused_stretch_by_stretch(sound):
    """Case 31: empty text, and one phrase looped."""
    heard = listen(Counter({1: "thank you " * 30, 2: " . "}), sound(12.0), [Span(1, 2), Span(5, 6), Span(9, 10)])
    assert [word.text for word in heard.words] == ["number3"]
    assert heard.refused == [Dropped(0.75, 2.25, "REPETITION"), Dropped(4.75, 6.25, "NO_TEXT")]


@pytest.mark.parametrize(("said", "reason"), [("", "NO_TEXT"), ("la " * 40, "REPETITION")])
def test_a_recording_in_which_nothing_can_be_believed_is_dropped(sound, monkeypatch, said, reason):
    monkeypatch.setattr(transcription, "_transcriber", lambda *_: Counter({1: said}))
    found = run(recording(sound(4.0)), {"vad": {"speech": [[1.0, 2.0]]}}, CurateConfig(device="cpu"))
    assert found["reason"] == reason


def test_a_transcript_beside_the_audio_is_taken_and_no_model_asked(sound, monkeypatch):
    def refuse(*_):
        raise AssertionError("asked for a model")

    monkeypatch.setattr(transcription, "_transcriber", refuse)
    here = recording(sound(4.0))
    here.audio.with_suffix(".srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello there.\n", encoding="utf-8")
    found = run(here, {"vad": {"speech": []}}, CurateConfig(device="cpu"))
    assert found["recogniser"] == "a.srt"
    assert found["words"] == [["Hello there.", 1.0, 2.0]]
    assert "reason" not in found


def test_without_a_recogniser_only_written_speech_is_kept(sound):
    config = CurateConfig(transcriber="none", device="cpu")
    assert missing(config) == ""
    assert run(recording(sound(4.0)), {"vad": {"speech": [[1, 2]]}}, config)["reason"] == "NO_TRANSCRIPT"


def test_a_missing_recogniser_is_named_before_anything_is_done(monkeypatch):
    def lack(*_):
        raise MissingModelError("there is no `x` here", "pip install x")

    monkeypatch.setattr(transcription, "_transcriber", lack)
    assert missing(CurateConfig(device="cpu")) == "there is no `x` here (pip install x)"
