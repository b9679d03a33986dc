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
from stages.metrics.speaker import SimilarityDrift, SpeakerSimilarity, windows_of

RATE = 24_000


def sound(value, seconds=1.0):
    return np.full(round(seconds * RATE), value, np.float32)


class Mean:
    """The 'voice' of these tests is the mean sample; that of 8 is none."""

    name = "mean"

    def embed(self, waveform, sample_rate):
        mean = waveform.mean()
        return np.array([1.0, np.nan if mean == 8 else mean], np.float32)


@pytest.fixture
def with_mean(monkeypatch):
    asked = []
    monkeypatch.setattr(speaker, "load_embedder", lambda *given: asked.append(given) or Mean())
    return asked


def test_similarity_is_the_cosine_between_what_was_generated_and_the_voice(with_mean):
    metric = SpeakerSimilarity("folder/wavlm")
    whole = np.concatenate([sound(9.0), sound(1.0)])
    item = MetricInput("text", RATE, whole, prompt_samples=RATE, voice=sound(3.0))
    assert metric.unavailable() == ""
    assert metric.measure(item).value == pytest.approx((1 + 3) / np.sqrt(2 * 10))
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


VOICE_METRICS = [SpeakerSimilarity, SimilarityDrift]
UNUSABLE = {"silent": sound(0.0, 20.0), "not finite": sound(np.nan, 20.0), "shorter than 0.5 s": sound(1.0, 0.3)}


@pytest.mark.parametrize("kind", VOICE_METRICS)
@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_voice_in_unusable_sound_has_no_similarity_and_a_reason(with_mean, kind, reason):
    metric = kind()
    metric.unavailable()
    ours = metric.measure(MetricInput("text", RATE, UNUSABLE[reason], voice=sound(1.0)))
    theirs = metric.measure(MetricInput("text", RATE, sound(1.0, 20.0), voice=UNUSABLE[reason]))
    assert ours.value is None and ours.reason.startswith("the output is") and reason in ours.reason
    assert theirs.value is None and theirs.reason.startswith("the recording of the voice is")


def test_sound_without_a_voice_has_no_similarity(with_mean):
    metric = SpeakerSimilarity()
    metric.unavailable()
    for output, voice, where in ((8.0, 1.0, "output"), (1.0, 8.0, "recording of the voice")):
        measured = metric.measure(MetricInput("text", RATE, sound(output), voice=sound(voice)))
        assert measured.value is None and measured.reason == f"the speaker model hears no voice in the {where}"


@pytest.mark.parametrize("kind", VOICE_METRICS)
def test_the_prompts_seconds_are_never_in_what_sim_hears(monkeypatch, kind):
    heard = []

    class Recorder(Mean):
        def embed(self, waveform, sample_rate):
            heard.append(waveform)
            return super().embed(waveform, sample_rate)

    monkeypatch.setattr(speaker, "load_embedder", lambda *given: Recorder())
    prompt, made, voice = sound(5.0, 3.0), sound(1.0, 20.0), sound(2.0)
    metric = kind()
    metric.unavailable()
    whole = np.concatenate([prompt, made])
    assert metric.measure(MetricInput("text", RATE, whole, prompt_samples=len(prompt), voice=voice)).value is not None
    ours = [waveform for waveform in heard if waveform[0] != 2.0]
    assert {each.tolist()[0] for each in ours} == {1.0} and not any((each == 5.0).any() for each in ours)
    assert sum(map(len, ours)) == len(made)


def test_metrics_share_one_copy_of_a_speaker_model_and_let_it_go(with_mean):
    config = EvalConfig(speaker_model="resemblyzer", device="cpu")
    metrics = [kind().configured(config) for kind in VOICE_METRICS]
    assert [metric.unavailable() for metric in metrics] == ["", ""] and len(with_mean) == 1
    del metrics
    SpeakerSimilarity().configured(config).unavailable()
    assert len(with_mean) == 2


def test_the_drift_is_the_similarity_at_the_end_less_that_at_the_beginning(with_mean):
    metric = SimilarityDrift()
    metric.unavailable()
    turning = np.concatenate([sound(1.0, 15.0), sound(0.0, 5.0), sound(3.0, 10.0)])  # silence is no voice
    measured = metric.measure(MetricInput("text", RATE, turning, voice=sound(1.0)))
    other = (1 + 3) / np.sqrt(2 * 10)
    assert measured.details["similarity"] == pytest.approx([1, 1, 1, other, other])
    assert measured.details["seconds"] == pytest.approx([2.5, 7.5, 12.5, 22.5, 27.5])
    assert measured.value == pytest.approx(other - 1, abs=1e-6)


def test_speech_of_less_than_three_windows_has_a_curve_and_no_drift(with_mean):
    metric = SimilarityDrift()
    metric.unavailable()
    measured = metric.measure(MetricInput("text", RATE, sound(1.0, 11.0), voice=sound(1.0)))
    assert measured.value is None and "three windows" in measured.reason
    assert measured.details["seconds"] == pytest.approx([2.75, 8.25])


@pytest.mark.parametrize("seconds", [0.7, 5.0, 7.4, 7.6, 61.3])
def test_windows_are_about_five_seconds_equally_long_and_tile(seconds):
    waveform = np.arange(round(seconds * RATE))
    windows = [window for _, window in windows_of(waveform, RATE)]
    np.testing.assert_array_equal(np.concatenate(windows), waveform)
    lengths = [len(window) / RATE for window in windows]
    assert max(lengths) - min(lengths) < 1e-4 and (len(windows) == 1 or 3.3 < lengths[0] < 7.5)


class Loudest(torch.nn.Module):
    """Stands in for UTMOS: float32 [1, samples] at 16 kHz to [1]."""

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return waveform.amax(dim=1) + waveform.shape[1] / 16000


def test_utmos_is_a_torchscript_file_that_hears_what_was_generated_at_16_khz(tmp_path):
    torch.jit.script(Loudest()).save(str(tmp_path / "utmos.pt"))
    metric = UTMOS().configured(EvalConfig(utmos=str(tmp_path / "utmos.pt"), device="cpu"))
    assert metric.unavailable() == ""
    item = MetricInput("text", RATE, np.concatenate([sound(9.0), sound(1.0, 2.0)]), prompt_samples=RATE)
    assert metric.measure(item).value == pytest.approx(1.0 + 2.0, abs=0.2)  # resampling rings at the ends
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
    found = {"sig_mos": 3.1, "bak_mos": 4.1, "ovrl_mos": 2.9}
    module.dnsmos = types.SimpleNamespace(run=lambda samples, rate: given.append((samples, rate)) or found)
    monkeypatch.setitem(sys.modules, "speechmos", module)
    item = MetricInput("text", RATE, sound(1.5))
    assert [DNSMOS(opinion).measure(item).value for opinion in ("sig", "bak", "ovrl")] == [3.1, 4.1, 2.9]
    (samples, rate), = given  # one run gives all three
    assert rate == 16_000 and len(samples) == 16_000 and samples.max() <= 1.0


@pytest.mark.parametrize("reason", UNUSABLE)
def test_unusable_sound_has_no_predicted_opinion_and_a_reason(tmp_path, reason):
    torch.jit.script(Loudest()).save(str(tmp_path / "utmos.pt"))
    utmos = UTMOS(str(tmp_path / "utmos.pt"))
    utmos.unavailable()
    for metric in (utmos, DNSMOS()):
        measured = metric.measure(MetricInput("text", RATE, UNUSABLE[reason]))
        assert measured.value is None and reason in measured.reason


def test_dnsmos_of_clipped_speech_is_a_number(tmp_path):
    pytest.importorskip("speechmos")
    loud = 1.7 * np.sin(np.arange(RATE) / 9).astype(np.float32)
    assert 1 < DNSMOS().measure(MetricInput("text", RATE, loud)).value < 5


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
