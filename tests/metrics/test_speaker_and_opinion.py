from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from stages.config.stage_configs import EvalConfig
from stages.errors import MissingModelError
from stages.metrics import opinion, speaker
from stages.metrics.base import MetricInput
from stages.metrics.opinion import DNSMOS, UTMOS
from stages.metrics.speaker import SpeakerSimilarity

RATE = 24_000


def sound(value, seconds=1.0):
    return np.full(round(seconds * RATE), value, np.float32)


class Mean:
    """The 'voice' of these tests is the mean sample."""

    name = "mean"

    def embed(self, waveform, sample_rate):
        return np.array([1.0, waveform.mean()], np.float32)


@pytest.fixture
def with_mean(monkeypatch):
    asked = []
    monkeypatch.setattr(speaker, "load_embedder", lambda *given: asked.append(given) or Mean())
    return asked


def test_similarity_is_the_cosine_between_what_was_generated_and_the_voice(with_mean):
    metric = SpeakerSimilarity("folder/wavlm")
    whole = np.concatenate([sound(9.0), sound(1.0)])
    item = MetricInput("text", RATE, whole, prompt_samples=RATE, voice=sound(0.0))
    assert metric.unavailable() == ""
    assert metric.measure(item).value == pytest.approx(1 / np.sqrt(2))
    assert metric.label == "SIM (wavlm)"


def test_the_speaker_model_and_device_are_those_of_the_settings_and_loaded_once(with_mean):
    metric = SpeakerSimilarity().configured(EvalConfig(speaker_model="resemblyzer", device="cpu"))
    assert [metric.unavailable(), metric.unavailable()] == ["", ""] and with_mean == [("resemblyzer", "cpu")]
    assert metric.label == "SIM (resemblyzer)"


def test_a_speaker_model_that_is_missing_is_asked_for_once_and_says_what_to_do(monkeypatch):
    asked = []

    def missing(*given):
        asked.append(given)
        raise MissingModelError("there is no such model", hint="fetch it")

    monkeypatch.setattr(speaker, "load_embedder", missing)
    metric = SpeakerSimilarity()
    assert [metric.unavailable(), metric.unavailable()] == ["there is no such model: fetch it"] * 2 and len(asked) == 1


@pytest.mark.parametrize("seconds", [(0.2, 1.0), (1.0, 0.2)])
def test_too_little_speech_has_no_similarity(with_mean, seconds):
    metric = SpeakerSimilarity()
    metric.unavailable()
    measured = metric.measure(MetricInput("text", RATE, sound(1.0, seconds[0]), voice=sound(1.0, seconds[1])))
    assert measured.value is None and "shorter than 0.5 s" in measured.reason


class Loudest(torch.nn.Module):
    """Stands in for UTMOS: float32 [1, samples] at 16 kHz to [1]."""

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return waveform.amax(dim=1) + waveform.shape[1] / 16000


def test_utmos_is_a_torchscript_file_that_hears_what_was_generated_at_16_khz(tmp_path):
    torch.jit.script(Loudest()).save(str(tmp_path / "utmos.pt"))
    metric = UTMOS().configured(EvalConfig(utmos=str(tmp_path / "utmos.pt"), device="cpu"))
    assert metric.unavailable() == ""
    item = MetricInput("text", RATE, np.concatenate([sound(9.0), sound(0.0, 2.0)]), prompt_samples=RATE)
    assert metric.measure(item).value == pytest.approx(2.0)
    assert metric.measure(MetricInput("text", RATE, sound(1.0, 0.2))).value is None


def test_utmos_that_is_missing_or_no_model_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(opinion, "_cached_file", lambda: None)
    assert "hf download" in UTMOS().unavailable()
    (tmp_path / "text.pt").write_text("this is no model", encoding="utf-8")
    assert "not a TorchScript file" in UTMOS(str(tmp_path / "text.pt")).unavailable()
    assert "no UTMOS at" in UTMOS(str(tmp_path / "nowhere.pt")).unavailable()


def test_dnsmos_gets_sound_within_full_scale_at_16_khz(monkeypatch):
    given = []
    module = types.ModuleType("speechmos")
    module.dnsmos = types.SimpleNamespace(run=lambda samples, rate: given.append((samples, rate)) or {"p808_mos": 3.5})
    monkeypatch.setitem(sys.modules, "speechmos", module)
    assert DNSMOS().measure(MetricInput("text", RATE, sound(1.5))).value == 3.5
    (samples, rate), = given
    assert rate == 16_000 and len(samples) == 16_000 and samples.max() <= 1.0


def test_dnsmos_that_is_not_installed_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(opinion, "find_spec", lambda name: None if name == "librosa" else object())
    assert "librosa" in DNSMOS().unavailable() and "onnxruntime" not in DNSMOS().unavailable()


def test_dnsmos_prefers_speech_to_noise():
    for package in ("speechmos", "onnxruntime", "librosa"):
        pytest.importorskip(package)
    from pathlib import Path

    from stages.audio.io import read_audio

    speech = read_audio(Path(__file__).parents[2] / "examples" / "speech" / "audio" / "rms-001.ogg", RATE)
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    scores = [DNSMOS().measure(MetricInput("text", RATE, waveform)).value for waveform in (speech, noise)]
    assert scores[0] > scores[1] + 0.5
