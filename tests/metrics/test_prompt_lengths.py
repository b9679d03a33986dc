"""Similarity against the length of the prompt: the metric alone, and `halle eval` with a model that says tones."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
from tone_speech import RATE, FakeCodec, FakePipeline, ToneReader, make_set, read, settings

from stages import evaluate
from stages.audio.io import read_audio
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics import speaker
from stages.metrics.base import MetricInput
from stages.metrics.prompt_lengths import SimilarityByPrompt, with_room_for_prompts
from stages.speech import transcriber
from stages.synthesis import sources


class Recorder:
    """A speaker model that remembers what it heard; the 'voice' is the loudest frequency, and how loud all is."""

    name = "recorder"

    def __init__(self):
        self.heard = []

    def embed(self, waveform, sample_rate):
        self.heard.append(np.array(waveform))
        return np.array([1.0, np.abs(waveform).mean()], np.float32)


@pytest.fixture
def recorder(monkeypatch):
    model = Recorder()
    monkeypatch.setattr(speaker, "load_embedder", lambda *given: model)
    return model


def constant(value, seconds):
    return np.full(round(seconds * 100), value, np.float32)


def test_every_prompt_is_judged_by_as_much_speech_and_the_same_seconds_of_the_voice(recorder):
    metric = SimilarityByPrompt().configured(EvalConfig(setting="continuation", prompt_lengths=(3, 10)))
    assert metric.unavailable() == ""
    recording = np.concatenate([constant(1.0, 10), constant(2.0, 7)])
    for seconds in (3, 10):
        made = np.concatenate([constant(5.0, 30), constant(6.0, 7)])
        item = MetricInput("text", 100, np.concatenate([recording[: seconds * 100], made]), seconds * 100, recording)
        assert metric.measure(item).value is not None
    for ours, voice in (recorder.heard[:2], recorder.heard[2:]):
        np.testing.assert_array_equal(ours, constant(6.0, 7))  # the last 7 of 37 s, and no prompt
        np.testing.assert_array_equal(voice, constant(1.0, 10))


def test_speech_shorter_than_what_is_left_is_heard_whole_and_without_its_prompt(recorder):
    metric = SimilarityByPrompt(longest=3.0)
    metric.unavailable()
    recording = constant(1.0, 20)
    item = MetricInput("text", 100, np.concatenate([recording[:300], constant(5.0, 4)]), 300, recording)
    metric.measure(item)
    np.testing.assert_array_equal(recorder.heard[0], constant(5.0, 4))


def test_a_recording_that_ends_with_the_longest_prompt_has_no_value(recorder):
    metric = SimilarityByPrompt(longest=20.0)
    metric.unavailable()
    measured = metric.measure(MetricInput("text", 100, constant(5.0, 30), 300, constant(1.0, 20)))
    assert measured.value is None and "not longer than the longest prompt of 20 s" in measured.reason


def test_only_recordings_with_room_for_the_longest_prompt_are_taken():
    def room(**given):
        return with_room_for_prompts(EvalConfig(setting="continuation", **given)).recording_seconds

    assert room() is None
    assert room(prompt_lengths=(3, 60, 10))[0] == 65.0
    assert room(prompt_lengths=(3, 60), recording_seconds=(10, 90)) == (65.0, 90.0)
    assert room(prompt_lengths=(3,), recording_seconds=(10, 90)) == (10.0, 90.0)
    with pytest.raises(UsageError, match="expected the setting `continuation`, got `cross-sentence`"):
        with_room_for_prompts(EvalConfig(prompt_lengths=(3,)))


@pytest.fixture
def model(monkeypatch, recorder, tmp_path_factory):
    """A model `fake` that answers every prompt with 8 s of the tone of the text."""
    pipeline = FakePipeline(seconds=8.0)
    ar = tmp_path_factory.mktemp("models") / "fake" / "ar"
    ar.mkdir(parents=True)
    monkeypatch.setitem(transcriber._TRANSCRIBERS, "tone-reader", ToneReader)
    monkeypatch.setattr(sources, "find_parts", lambda config: {"codec": "c", "ar": str(ar), "nar": "n"})
    monkeypatch.setattr(sources, "part_fingerprints", lambda parts: dict.fromkeys(parts, "f" * 64))
    loaded = types.SimpleNamespace(codec=FakeCodec(), loudness_db=None)
    monkeypatch.setattr(sources, "load_speech_model", lambda config, device: loaded)
    monkeypatch.setattr(sources, "SpeechPipeline", lambda model, config: pipeline)
    return pipeline


NAMES = [f"fake, prompt {seconds} s" for seconds in (1, 3, 5)]


def test_a_length_of_prompt_is_a_system_and_their_similarities_are_a_curve(tmp_path, model, recorder):
    make_set(tmp_path / "set", seconds=lambda index: 6.0 + 2 * index)  # of which 10 s and more have room
    config = settings(tmp_path, setting="continuation", prompt_lengths=(1, 3, 5), device="cpu",
                      metrics=("wer", "speaker_similarity", "speaker_similarity_by_prompt"))
    evaluate.run(config)
    scores, rows = read(tmp_path)
    assert list(scores["systems"]) == ["recordings", *NAMES] and set(rows) == {"u2", "u3", "u4", "u5"}
    for seconds, name in zip((1, 3, 5), NAMES, strict=True):
        assert scores["systems"][name]["prompted"] == {"model": "fake", "seconds": seconds}
        given = {row["systems"][name]["prompt_seconds"] for row in rows.values()}
        assert given == {float(seconds)}
    curve = scores["curves"]["similarity_by_prompt_length"]
    points = curve["systems"]["fake"]
    assert [(point["x"], point["denominator"]) for point in points] == [(1, 4), (3, 4), (5, 4)]
    by_prompt = [scores["systems"][name]["scores"]["speaker_similarity_by_prompt"]["value"] for name in NAMES]
    assert [point["value"] for point in points] == by_prompt
    assert "SIM by prompt" in curve["y_label"]
    asked = {(each.text, len(each.prompt.waveform) / RATE) for each in model.asked}
    assert len(asked) == 4 * 3 and {seconds for _, seconds in asked} == {1.0, 3.0, 5.0}
    assert "Similarity against the prompt" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_voice_of_a_continuation_is_what_was_given_of_it_and_the_prompt_is_not_heard_again(
    tmp_path, model, recorder
):
    make_set(tmp_path / "set", count=2, seconds=lambda index: 12.0)
    evaluate.run(settings(tmp_path, setting="continuation", prompt_seconds=3.0, metrics=("speaker_similarity",)))
    for index, (ours, voice) in enumerate([recorder.heard[:2], recorder.heard[2:]]):
        whole = read_audio(tmp_path / "out" / "audio" / "fake" / f"u{index}.wav")
        recording = read_audio(tmp_path / "out" / "recordings" / f"u{index}.wav")
        np.testing.assert_array_equal(ours, whole[3 * RATE :])
        np.testing.assert_array_equal(voice, recording[: 3 * RATE])


def test_a_longer_prompt_is_added_without_speaking_again(tmp_path, model):
    make_set(tmp_path / "set", seconds=lambda index: 20.0)
    common = {"setting": "continuation", "metrics": ("speaker_similarity_by_prompt",), "recording_seconds": (15, 90)}
    evaluate.run(settings(tmp_path, prompt_lengths=(3, 5), **common))
    before = len(model.asked)
    evaluate.run(settings(tmp_path, prompt_lengths=(3, 5, 8), **common))
    assert len(model.asked) == before + 6
    points = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["curves"]
    assert [point["x"] for point in points["similarity_by_prompt_length"]["systems"]["fake"]] == [3, 5, 8]
