from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.audio.io import read_audio, write_audio
from stages.audio.recording import open_recording
from stages.config.recordings import VoiceActivityConfig
from stages.errors import MissingModelError
from stages.speech import onnx_models, vad
from stages.speech.spans import Span, intersect, total_seconds
from stages.speech.vad import FRAME, RATE, load_vad, speech_spans

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
FRAME_SECONDS = FRAME / RATE
PLAIN = VoiceActivityConfig(min_speech_seconds=0, min_silence_seconds=0, pad_seconds=0)


def spans_of(values, settings=PLAIN, seconds=1000.0):
    return speech_spans(np.array(values, np.float32), settings, seconds)


def frames(start, end):
    return Span(start * FRAME_SECONDS, end * FRAME_SECONDS)


def test_speech_begins_at_the_threshold_and_lasts_until_below_the_release():
    assert spans_of([0.1, 0.4, 0.5, 0.4, 0.36, 0.3, 0.49, 0.1]) == [frames(2, 5)]


@given(st.lists(st.floats(0, 1, width=32), max_size=60))
def test_hysteresis_is_what_a_loop_finds(values):
    settings, speaking, found = PLAIN, False, []
    for value in values:
        speaking = value >= np.float32(settings.threshold) or (speaking and value >= np.float32(settings.release))
        found.append(speaking)
    spans = spans_of(values)
    heard = [any(span.start <= (i + 0.5) * FRAME_SECONDS < span.end for span in spans) for i in range(len(values))]
    assert heard == found


def test_short_pauses_are_closed_and_clicks_dropped():
    values = [1.0] * 20 + [0.0] * 3 + [1.0] * 20 + [0.0] * 10 + [1.0] * 2 + [0.0] * 10
    settings = VoiceActivityConfig(min_speech_seconds=0.1, min_silence_seconds=0.1, pad_seconds=0)
    assert spans_of(values, settings) == [frames(0, 43)]
    assert len(spans_of(values)) == 3


def test_padding_stays_inside_the_recording_and_spans_do_not_overlap():
    settings = VoiceActivityConfig(min_speech_seconds=0, min_silence_seconds=0.03, pad_seconds=0.1)
    spans = spans_of([1.0] * 10 + [0.0] * 4 + [1.0] * 10, settings, seconds=24 * FRAME_SECONDS - 0.01)
    assert spans == [Span(0.0, 24 * FRAME_SECONDS - 0.01)]


def test_no_frames_hold_no_speech():
    assert spans_of([]) == []


def test_a_release_above_the_threshold_is_refused():
    with pytest.raises(ValidationError, match="release should not exceed threshold"):
        VoiceActivityConfig(threshold=0.3, release=0.4)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(onnx_models, "find_spec", lambda package: None)
    with pytest.raises(MissingModelError, match=r"`silero_vad` and `onnxruntime` \(pip install 'halle\[vad\]'\)"):
        load_vad()


def test_an_unknown_detector_is_refused():
    with pytest.raises(MissingModelError, match="got `energy`"):
        load_vad("energy")


# ---- with the model


@pytest.fixture(scope="module")
def silero():
    pytest.importorskip("onnxruntime")
    if vad.missing_silero():
        pytest.skip("the extra `vad` is not installed")
    return load_vad()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A recording of sentences with pauses of 0.2 to 2 s of faint noise between them, and where the sentences are."""
    folder, random = tmp_path_factory.mktemp("spoken"), np.random.default_rng(0)
    rows = [json.loads(line) for line in (SPEECH / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    parts, truth, at = [], [], 0
    for row, pause in zip(rows[:8], (0.2, 0.4, 0.7, 1.0, 1.3, 1.6, 1.8, 2.0), strict=True):
        sound = _without_silence(read_audio(SPEECH / row["file_name"], RATE))
        gap = np.zeros(round(pause * RATE), np.float32)
        at += len(gap)
        truth.append(Span(at / RATE, (at + len(sound)) / RATE))
        parts += [gap, sound]
        at += len(sound)
    samples = np.concatenate([*parts, np.zeros(RATE, np.float32)])
    samples += 5e-4 * random.standard_normal(len(samples)).astype(np.float32)
    write_audio(folder / "spoken.wav", samples, RATE)
    return folder / "spoken.wav", truth


def _without_silence(sound):
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    return sound[loud[0] : loud[-1]]


def record(tmp_path, samples, sample_rate=RATE):
    write_audio(tmp_path / "sound.wav", np.asarray(samples, np.float32), sample_rate)
    return open_recording(tmp_path / "sound.wav")


def test_sentences_are_found_and_pauses_are_not(silero, spoken):
    file, truth = spoken
    recording = open_recording(file)
    found = silero.find(recording)
    both = total_seconds(intersect(truth, found))
    assert both > 0.97 * total_seconds(truth)
    assert total_seconds(found) - both < 0.1 * (recording.seconds - total_seconds(truth))
    middles = [(left.end + right.start) / 2 for left, right in pairwise(truth)]
    assert not [middle for middle in middles if any(span.start < middle < span.end for span in found)]


def test_probabilities_are_those_of_the_package_frame_by_frame(silero, spoken):
    """The package's own TorchScript, which is called for each frame and keeps its state itself."""
    import torch

    model = torch.jit.load(onnx_models.package_file("silero_vad", "data/silero_vad.jit"))
    samples = read_audio(spoken[0], RATE)[: 60 * FRAME]
    with torch.inference_mode():
        expected = [float(model(torch.from_numpy(frame), RATE)) for frame in samples.reshape(-1, FRAME)]
    found = silero.probabilities(open_recording(spoken[0]))
    np.testing.assert_allclose(found[:60], expected, atol=1e-4)


def test_blocks_do_not_change_what_is_found(silero, spoken, monkeypatch):
    recording = open_recording(spoken[0])
    whole = silero.probabilities(recording)
    monkeypatch.setattr(vad, "_BLOCK_SECONDS", 7 * FRAME_SECONDS)
    np.testing.assert_allclose(silero.probabilities(recording), whole, atol=1e-4)


def test_every_sample_belongs_to_a_frame(silero, tmp_path):
    assert len(silero.probabilities(record(tmp_path, np.zeros(10 * FRAME + 1)))) == 11


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.zeros(1), np.full(1, 0.5), np.ones(RATE // 10)],
                         ids=["silence", "one silent sample", "one sample", "offset"])
def test_there_is_no_speech_in_next_to_nothing(silero, tmp_path, samples):
    assert silero.find(record(tmp_path, samples)) == []


def test_there_is_no_speech_in_music_and_noise(silero, tmp_path):
    t = np.arange(10 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 277.2, 329.6, 440)) * np.exp(-3 * (t % 0.5)) / 8
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(t))
    assert total_seconds(silero.find(record(tmp_path, np.concatenate([chord, noise])))) < 0.5


def test_sound_beyond_full_scale_is_heard_as_clipped(silero, spoken, tmp_path):
    import soundfile

    samples = read_audio(spoken[0], RATE)
    soundfile.write(tmp_path / "loud.wav", samples * (3 / np.abs(samples).max()), RATE, subtype="FLOAT")
    found = silero.find(open_recording(tmp_path / "loud.wav"))
    assert total_seconds(intersect(found, spoken[1])) > 0.95 * total_seconds(spoken[1])


def test_a_recording_at_another_rate_holds_the_same_speech(silero, spoken, tmp_path):
    import soxr

    samples = read_audio(spoken[0], RATE)
    found = silero.find(record(tmp_path, soxr.resample(samples, RATE, 44_100), 44_100))
    expected = silero.find(open_recording(spoken[0]))
    both = total_seconds(intersect(found, expected))
    assert both > 0.99 * max(total_seconds(found), total_seconds(expected))
