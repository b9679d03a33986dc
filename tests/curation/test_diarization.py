"""Who speaks when: from a file beside the recording, else from a model."""

from __future__ import annotations

import numpy as np
import pytest

from stages.audio.io import AudioError, write_audio
from stages.audio.recording import open_recording
from stages.config.stage_configs import CurateConfig
from stages.curation import diarization
from stages.curation.diarization import DIARIZE, NO_TURNS, diarize_recording, missing, run, settings
from stages.curation.recordings import Recording
from stages.speech.spans import Span, Turn

RATE = 16_000
SPEECH = {"vad": {"speech": [[0.5, 2.0], [2.5, 4.0]]}}


class Halves:
    """The first half of each span is one speaker's, the second another's."""

    name, version = "halves", "7"

    def diarize(self, recording, speech):
        return [Turn(begin, begin + span.seconds / 2, speaker) for span in speech
                for begin, speaker in ((span.start, "A"), (span.start + span.seconds / 2, "B"))]


@pytest.fixture
def recording(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
    write_audio(tmp_path / "a.wav", noise, RATE)
    return Recording("a", tmp_path / "a.wav", "a.wav", None)


def config(**changes):
    return CurateConfig(**{"source": "x", "out": "y", "device": "cpu"} | changes)


def test_turns_are_found_in_the_speech_and_told_with_who_found_them(recording):
    found = diarize_recording(open_recording(recording.audio), [Span(1.0, 1.66666)], Halves())
    assert found == {"diarizer": "halves", "version": "7", "turns": [[1.0, 1.333, "A"], [1.333, 1.667, "B"]]}


def test_the_chosen_model_hears_what_step_vad_found(recording, monkeypatch):
    asked = []
    monkeypatch.setattr(diarization, "_diarizer", lambda name, device: asked.append((name, device)) or Halves())
    found = run(recording, SPEECH, config(diarizer="some/pipeline"))
    assert asked == [("some/pipeline", "cpu")] and "reason" not in found
    assert [turn[:2] for turn in found["turns"]] == [[0.5, 1.25], [1.25, 2.0], [2.5, 3.25], [3.25, 4.0]]


def test_turns_beside_the_recording_replace_the_model(recording, tmp_path):
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 2.00 1.50 <NA> <NA> zoe <NA> <NA>\n"
                                     "SPEAKER a 1 0.25 1.00 <NA> <NA> yan <NA> <NA>\n", encoding="utf-8")
    found = run(recording, SPEECH, config(diarizer="not here"))
    assert found == {"diarizer": "a.rttm", "version": "", "turns": [[0.25, 1.25, "A"], [2.0, 3.5, "B"]]}
    assert DIARIZE.beside == (".rttm",)  # so that a new file makes the step run again


def test_turns_that_cannot_be_read_drop_the_recording(recording, tmp_path):
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 two 1.50 <NA> <NA> zoe <NA> <NA>\n", encoding="utf-8")
    with pytest.raises(AudioError) as caught:
        run(recording, SPEECH, config())
    assert caught.value.reason == "BAD_TRANSCRIPT"


def test_a_recording_without_turns_is_dropped_with_a_reason(recording, tmp_path):
    assert run(recording, SPEECH, config(diarizer="none"))["reason"] == NO_TURNS
    (tmp_path / "a.rttm").write_text("\n", encoding="utf-8")
    assert run(recording, SPEECH, config())["reason"] == NO_TURNS


def test_another_diarizer_does_the_step_again_and_one_that_is_missing_is_told_before():
    assert settings(config()) != settings(config(diarizer="none"))
    assert missing(config(diarizer="none")) == ""
    assert "hf download no/such" in missing(config(diarizer="no/such"))
