from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.manifest import Utterance
from stages.audio.io import write_audio
from stages.metrics import quality, validation
from stages.metrics.validation import HeldOutSpeech, evenly_chosen
from stages.speech.transcriber import Transcript

RATE = 16_000
needs_pesq = pytest.mark.skipif(find_spec("pesq") is None, reason="the extra `pesq` is not installed")


class LoudListener:
    """Hear the text in what is loud, and nothing else."""

    name, version = "loud-listener", "1"

    def transcribe(self, waveform, sample_rate):
        return Transcript("one two three four" if np.abs(waveform).max() > 0.05 else "")


@pytest.fixture
def utterances(tmp_path):
    t = np.arange(2 * RATE) / RATE
    voice = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 30)) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t))
    made = []
    for index in range(4):
        write_audio(tmp_path / f"{index}.wav", 0.1 * voice, RATE)
        made.append(Utterance(f"u{index}", tmp_path / f"{index}.wav", 0.0, 2.0, "ann", "one two three four", "test"))
    return made


@needs_pesq
def test_what_is_given_back_as_it_was_has_the_best_measures(utterances):
    measures = HeldOutSpeech(utterances, 2, RATE, LoudListener()).measure(lambda waveform: waveform)
    assert measures == {"mel_distance": 0.0, "stoi": pytest.approx(1.0), "pesq": pytest.approx(4.64, abs=0.01),
                        "wer": 0.0}  # fmt: skip


def test_utterances_are_decoded_whole_and_half_of_them_lost_is_half_the_words(utterances, monkeypatch):
    monkeypatch.setattr(quality, "pesq_window", lambda window: (2.0, ""))
    decoded = []

    def decode(waveform):
        decoded.append(len(waveform))
        return waveform * (0.1 if len(decoded) % 2 else 1.0)

    measures = HeldOutSpeech(utterances, 4, RATE, LoudListener()).measure(decode)
    assert decoded == [2 * RATE] * 4
    assert measures["wer"] == pytest.approx(50.0) and measures["mel_distance"] > 0.1


def test_without_a_recogniser_there_is_no_word_error_rate_and_silence_has_no_measure_at_all(utterances):
    speech = HeldOutSpeech(utterances, 2, RATE)
    assert speech.measure(lambda waveform: 0 * waveform) == {}
    assert "wer" not in speech.measure(lambda waveform: waveform)


def test_a_recording_that_cannot_be_read_is_left_out_and_said(utterances, caplog):
    Path(utterances[0].audio).unlink()
    measures = HeldOutSpeech(utterances, 4, RATE).measure(lambda waveform: waveform)
    assert measures["mel_distance"] == 0.0 and "left out" in caplog.text


def test_utterances_are_chosen_evenly_and_minutes_of_speech_only_when_there_is_nothing_else(utterances):
    many = [Utterance(f"u{n}", Path("x.wav"), 0.0, 90.0 if n % 2 else 5.0, "ann", "", "test") for n in range(20)]
    assert [u.id for u in evenly_chosen(many, 5)] == ["u0", "u4", "u8", "u12", "u16"]
    assert [u.id for u in evenly_chosen(many[1:2], 5)] == ["u1"]
    assert evenly_chosen(many, 0) == [] and len(evenly_chosen(many, 99)) == 10


def test_samples_are_the_beginnings_of_a_few_utterances_beside_what_is_made_of_them(utterances, monkeypatch):
    monkeypatch.setattr(validation, "SAMPLE_SECONDS", 0.5)
    utterances[0].audio.unlink()
    found = HeldOutSpeech(utterances, 4, RATE).samples(lambda waveform: -waveform)
    assert [(sample.group, sample.name) for sample in found] == [
        ("utterance-2", "original"), ("utterance-2", "reconstruction"),
        ("utterance-3", "original"), ("utterance-3", "reconstruction")]  # fmt: skip
    assert all(len(sample.waveform) == RATE // 2 and sample.sample_rate == RATE for sample in found)
    np.testing.assert_array_equal(found[1].waveform, -found[0].waveform)
    assert [sample.synthetic for sample in found] == [False, True, False, True]
