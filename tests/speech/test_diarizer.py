from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.audio.io import read_audio, write_audio
from stages.audio.recording import open_recording
from stages.errors import MissingModelError
from stages.speech import diarizer
from stages.speech.diarizer import RATE, load_diarizer, missing_diarizer, name_speakers
from stages.speech.spans import Span, Turn, intersect, total_seconds, union

SPEECH = Path(__file__).parents[2] / "examples" / "speech"


def test_speakers_are_named_in_the_order_in_which_they_come():
    turns = [Turn(5.0, 6.0, "host"), Turn(0.0, 2.0, "guest"), Turn(1.0, 4.0, "host")]
    assert name_speakers(turns) == [Turn(0.0, 2.0, "A"), Turn(1.0, 4.0, "B"), Turn(5.0, 6.0, "B")]


def test_the_27th_speaker_has_two_letters():
    names = [turn.speaker for turn in name_speakers([Turn(i, i + 1.0, f"{i:03d}") for i in range(28)])]
    assert names[25:] == ["Z", "AA", "AB"]


def test_the_share_of_speech_is_that_of_a_fine_grid():
    speech = [Span(0.5, 1.0), Span(1.25, 3.0), Span(6.0, 7.0)]
    starts = np.arange(0, 8, 0.25)
    fine = [np.mean([any(span.start <= start + x < span.end for span in speech)
                     for x in np.arange(0.0005, 1.5, 0.001)]) for start in starts]
    assert diarizer._covered(speech, starts, 1.5) == pytest.approx(fine, abs=0.002)


def make_recording(path, waveform, rate=RATE):
    write_audio(path, waveform, rate)
    return open_recording(path)


@pytest.mark.parametrize("seconds", [0.5, 1.6, 61.3, 121.0])
def test_every_window_is_listened_to_once_however_long_the_recording_is(tmp_path, seconds):
    waveform = np.linspace(-1, 1, round(seconds * RATE)).astype(np.float32)
    window, hop = round(diarizer.WINDOW_SECONDS * RATE), round(diarizer.HOP_SECONDS * RATE)
    wanted = range(0, max(1, len(waveform) - window + hop), hop)
    found = []
    for first, piece in diarizer._pieces(make_recording(tmp_path / "a.wav", waveform)):
        assert len(piece) <= 62 * RATE and first == len(found)
        found += [piece[start : start + window] for start in range(0, len(piece) - window + 1, hop)]
    assert len(found) == len(wanted)
    for start, piece in zip(wanted, found, strict=True):
        np.testing.assert_allclose(piece[: len(waveform) - start], waveform[start : start + window], atol=1e-4)


# ---- with the model


@pytest.fixture(scope="module")
def resemblyzer():
    pytest.importorskip("resemblyzer")
    return load_diarizer("resemblyzer")


def sentences(voice, count):
    rows = [json.loads(line) for line in (SPEECH / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    files = [row["file_name"] for row in rows if row["speaker"] == voice][:count]
    return [read_audio(SPEECH / file, RATE) for file in files]


@pytest.fixture(scope="module")
def dialogue(tmp_path_factory):
    """Two voices in four turns of two sentences, with pauses of 0.4 s; and who speaks when."""
    lines = {voice: sentences(voice, 4) for voice in ("rms", "slt")}
    parts, truth, now = [], [], 0.0
    for voice, first in (("rms", 0), ("slt", 0), ("rms", 2), ("slt", 2)):
        for line in lines[voice][first : first + 2]:
            parts += [line, np.zeros(round(0.4 * RATE), np.float32)]
            truth.append(Turn(now, now + len(line) / RATE, voice))
            now += len(line) / RATE + 0.4
    return make_recording(tmp_path_factory.mktemp("dialogue") / "d.wav", np.concatenate(parts)), truth


def test_two_voices_are_told_apart(resemblyzer, dialogue):
    recording, truth = dialogue
    speech = union(turn.span for turn in truth)
    turns = resemblyzer.diarize(recording, speech)
    assert {turn.speaker for turn in turns} == {"A", "B"}
    for name, voice in (("A", "rms"), ("B", "slt")):
        found = union(turn.span for turn in turns if turn.speaker == name)
        own = union(turn.span for turn in truth if turn.speaker == voice)
        assert total_seconds(intersect(found, own)) > 0.97 * total_seconds(own)
        assert total_seconds(found) < 1.1 * total_seconds(own)


def test_all_speech_and_nothing_else_has_a_speaker(resemblyzer, dialogue):
    recording, _ = dialogue
    speech = [Span(0.33, 4.21), Span(6.0, 22.5)]
    turns = resemblyzer.diarize(recording, speech)
    found = union((turn.span for turn in turns), gap=1e-9)
    edges = [[edge for span in spans for edge in (span.start, span.end)] for spans in (found, speech)]
    assert edges[0] == pytest.approx(edges[1])


def test_one_voice_is_one_speaker(resemblyzer, tmp_path):
    recording = make_recording(tmp_path / "a.wav", np.concatenate(sentences("awb", 5)))
    assert {turn.speaker for turn in resemblyzer.diarize(recording, [Span(0.0, recording.seconds)])} == {"A"}


def test_the_same_recording_gives_the_same_turns(resemblyzer, dialogue):
    recording, truth = dialogue
    speech = union(turn.span for turn in truth)
    assert resemblyzer.diarize(recording, speech) == load_diarizer("resemblyzer").diarize(recording, speech)


@pytest.mark.parametrize("seconds, speech", [(0.3, [Span(0.0, 0.3)]), (5.0, []), (5.0, [Span(4.9, 5.0)])])
def test_next_to_nothing_can_be_diarized(resemblyzer, tmp_path, seconds, speech):
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    turns = resemblyzer.diarize(make_recording(tmp_path / "a.wav", noise), speech)
    assert [turn.span for turn in turns] == speech


def test_silence_can_be_diarized(resemblyzer, tmp_path):
    recording = make_recording(tmp_path / "a.wav", np.zeros(5 * RATE, np.float32))
    assert [turn.speaker for turn in resemblyzer.diarize(recording, [Span(0.0, 5.0)])] == ["A"]


# ---- pipelines of pyannote.audio


class Pipeline:
    """What pyannote.audio's does: from a folder, to a device, a waveform to an annotation."""

    def __init__(self, annotation):
        self.annotation, self.heard = annotation, None

    def to(self, device):
        self.device = device

    def __call__(self, file):
        self.heard = file
        return self.annotation


@pytest.fixture
def pyannote(monkeypatch, tmp_path):
    """A pipeline in a folder, and a package that loads it."""
    tracks = [(types.SimpleNamespace(start=start, end=end), number, speaker)
              for number, (start, end, speaker) in enumerate([(0.5, 3.0, "S1"), (2.5, 4.0, "S0"), (4.2, 9.0, "S1")])]
    annotation = types.SimpleNamespace(itertracks=lambda yield_label: iter(tracks))
    pipeline = Pipeline(annotation)

    def from_pretrained(folder):
        if "broken" in (Path(folder) / "config.yaml").read_text(encoding="utf-8"):
            raise KeyError("pipeline")
        return pipeline

    package, audio = types.ModuleType("pyannote"), types.ModuleType("pyannote.audio")
    package.__path__ = []
    audio.Pipeline = types.SimpleNamespace(from_pretrained=from_pretrained)
    audio.__spec__ = package.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "pyannote", package)
    monkeypatch.setitem(sys.modules, "pyannote.audio", audio)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "config.yaml").write_text("pipeline: {}", encoding="utf-8")
    return pipeline, tmp_path / "pipeline"


def test_a_pipeline_hears_the_whole_recording_and_its_turns_keep_to_the_speech(pyannote, tmp_path):
    pipeline, folder = pyannote
    waveform = np.linspace(-0.5, 0.5, 8000 * 5).astype(np.float32)
    found = load_diarizer(str(folder)).diarize(make_recording(tmp_path / "a.wav", waveform, 8000),
                                               [Span(1.0, 3.5), Span(4.0, 4.8)])
    assert found == [Turn(1.0, 3.0, "A"), Turn(2.5, 3.5, "B"), Turn(4.2, 4.8, "A")]
    assert pipeline.heard["sample_rate"] == RATE and pipeline.heard["waveform"].shape == (1, 5 * RATE)
    assert pipeline.device == torch.device("cpu")


def test_pipelines_since_4_keep_the_annotation_in_an_output(pyannote, tmp_path):
    pipeline, folder = pyannote
    pipeline.annotation = types.SimpleNamespace(speaker_diarization=pipeline.annotation)
    recording = make_recording(tmp_path / "a.wav", np.full(RATE * 5, 0.1, np.float32))
    assert len(load_diarizer(str(folder)).diarize(recording, [Span(0.0, 5.0)])) == 3


def test_another_pipeline_has_another_version(pyannote):
    _, folder = pyannote
    before = load_diarizer(str(folder)).version
    (folder / "weights").mkdir()
    (folder / "weights" / "model.bin").write_bytes(b"1")
    assert load_diarizer(str(folder)).version != before


def test_a_pipeline_that_cannot_be_loaded_is_named(pyannote):
    _, folder = pyannote
    (folder / "config.yaml").write_text("broken", encoding="utf-8")
    with pytest.raises(MissingModelError, match="cannot be loaded: 'pipeline'") as caught:
        load_diarizer(str(folder))
    assert str(folder) in caught.value.message and "hf download pyannote/" in caught.value.hint


def test_a_pipeline_that_is_not_here_is_named_with_what_to_fetch():
    with pytest.raises(MissingModelError) as caught:
        load_diarizer("pyannote/speaker-diarization-community-1")
    assert "`pyannote/speaker-diarization-community-1`" in caught.value.message
    assert "https://hf.co/pyannote/speaker-diarization-community-1" in caught.value.hint
    assert "hf download" in caught.value.hint and "--diarizer resemblyzer" in caught.value.hint


@pytest.mark.parametrize("name, said", [("resemblyzer", "`resemblyzer`"), ("pipeline", "`pyannote.audio`")])
def test_a_package_that_is_not_installed_is_named(monkeypatch, tmp_path, name, said):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "config.yaml").write_text("pipeline: {}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(diarizer, "find_spec", lambda package: None)
    assert said in missing_diarizer(name)
    with pytest.raises(MissingModelError, match=said) as caught:
        load_diarizer(name)
    assert caught.value.hint.startswith("pip install")
