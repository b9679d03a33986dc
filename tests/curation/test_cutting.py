from __future__ import annotations

import numpy as np
import pytest

from stages.audio.io import write_audio
from stages.config.stage_configs import CurateConfig
from stages.curation.cutting import run, settings
from stages.curation.recordings import Recording

RATE = 16_000


@pytest.fixture
def recording(tmp_path):
    """Noise from 1 to 4.5 and from 5 to 9 s, 20 dB less for 0.1 s at 4.03 s."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32)
    for start, end in ((0.0, 1.0), (4.5, 5.0), (9.0, 10.0)):
        noise[round(start * RATE) : round(end * RATE)] *= 0.001
    noise[round(3.98 * RATE) : round(4.08 * RATE)] *= 0.1
    write_audio(tmp_path / "a.wav", noise, RATE)
    return Recording("a", tmp_path / "a.wav", "a.wav", None)


def found(words: list, turns: list) -> dict:
    return {"check": {"seconds": 10.0}, "vad": {"speech": [[1.0, 4.5], [5.0, 9.0]]},
            "diarize": {"diarizer": "a.rttm", "turns": turns},
            "transcribe": {"words": words, "refused": [], "time_error": 0.05}}


def test_what_the_steps_found_becomes_utterances_with_the_times_of_their_words(recording):
    inputs = found([["one", 1.0, 4.5], ["two", 5.0, 7.0], ["three", 7.0, 9.0]], [[1.0, 4.5, "A"], [5.0, 9.0, "B"]])
    result = run(recording, inputs, CurateConfig(min_seconds=3.0, max_seconds=90.0))
    assert result["utterances"] == [
        {"start": 0.8, "end": 4.7, "speaker": "A", "text": "one", "words": [["one", 1.0, 4.5]]},
        {"start": 4.8, "end": 9.2, "speaker": "B", "text": "two three",
         "words": [["two", 5.0, 7.0], ["three", 7.0, 9.0]]}]
    assert [list(drop) for drop in result["dropped"]] == [["start", "end", "reason"]] * 3


def test_words_next_to_another_speaker_are_left_out_where_the_diarizer_may_not_hear_that_both_speak(recording):
    inputs = found([["one", 1.0, 4.5], ["two", 5.0, 5.6], ["three", 6.0, 9.0]], [[1.0, 4.5, "A"], [5.0, 9.0, "B"]])
    inputs["vad"]["speech"] = [[1.0, 4.5], [5.0, 5.6], [6.0, 9.0]]
    inputs["diarize"]["diarizer"] = "resemblyzer"
    assert [one["text"] for one in run(recording, inputs, CurateConfig())["utterances"]] == ["three"]
    inputs["diarize"]["diarizer"] = "a.rttm"
    assert [one["text"] for one in run(recording, inputs, CurateConfig())["utterances"]] == ["one", "two three"]


def test_a_cut_without_a_pause_lies_where_the_sound_is_quietest(recording):
    inputs = found([["one", 1.0, 4.0], ["two", 4.0, 9.0]], [[1.0, 9.0, "A"]])
    inputs["vad"]["speech"] = [[1.0, 9.0]]
    result = run(recording, inputs, CurateConfig(max_seconds=6.0))
    assert result["utterances"][0]["end"] == pytest.approx(4.03, abs=0.03)


def test_bad_segments_of_a_diarizer_are_dropped_and_told(recording):
    inputs = found([["one", 1.0, 4.5]], [[1.0, 4.5, "A"], [3.0, 3.0, "A"], [6.0, 5.0, "B"]])
    result = run(recording, inputs, CurateConfig())
    told = [drop for drop in result["dropped"] if drop["reason"] == "BAD_SEGMENT"]
    assert [drop["detail"] for drop in told] == ["turn of A from 3 to 3 s", "turn of B from 6 to 5 s"]
    assert [one["text"] for one in result["utterances"]] == ["one"]


def test_other_lengths_are_other_results():
    assert settings(CurateConfig()) != settings(CurateConfig(max_seconds=180.0))
    assert settings(CurateConfig()) == settings(CurateConfig(min_rate=8000, workers=3))
