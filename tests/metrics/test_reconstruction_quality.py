from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from stages.metrics import quality
from stages.metrics.base import MetricInput
from stages.metrics.quality import PESQ, STOI, MelDistance, even_windows, pesq_window

RATE = 16_000
ALL = [PESQ(), STOI(), MelDistance()]
needs_pesq = pytest.mark.skipif(find_spec("pesq") is None, reason="the extra `pesq` is not installed")
INSTALLED = [pytest.param(PESQ(), marks=needs_pesq), STOI(), MelDistance()]


@pytest.fixture(scope="module")
def voice():
    """Two seconds of bursts with the spectrum of a voice: harmonics of 120 Hz, four times a second."""
    t = np.arange(2 * RATE) / RATE
    tone = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 30))
    return (0.2 * tone * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


def pair(reference, output, sample_rate=RATE):
    return MetricInput("text", sample_rate, output, reference=reference)


def noisy(voice, level):
    return voice + np.random.default_rng(0).normal(0, level, len(voice)).astype(np.float32)


@pytest.mark.parametrize("metric", INSTALLED, ids=lambda metric: metric.name)
def test_the_same_recording_scores_best_and_more_noise_scores_worse(metric, voice):
    same, little, much = (metric.measure(pair(voice, noisy(voice, level))).value for level in (0.0, 0.01, 0.2))
    assert (same > little > much) if metric.better == "higher" else (same < little < much)


def test_the_best_scores_are_those_of_the_standards(voice):
    assert STOI().measure(pair(voice, voice)).value == pytest.approx(1.0, abs=1e-6)
    assert MelDistance().measure(pair(voice, voice)).value == 0.0


@needs_pesq
def test_the_best_pesq_is_that_of_the_standard(voice):
    assert PESQ().measure(pair(voice, voice)).value == pytest.approx(4.64, abs=0.01)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_what_cannot_be_compared_has_no_value_and_a_reason(metric, voice):
    silence = np.zeros_like(voice)
    cases = {
        "the output is silent": (voice, silence),
        "the reference is silent": (silence, voice),
        "the reference is shorter than 0.4 s": (voice[:6000], voice[:6000]),
        "lengths differ": (voice, voice[: RATE // 2 + RATE]),
        "the output is not finite": (voice, np.where(np.arange(len(voice)) == 5, np.nan, voice)),
    }
    for reason, waveforms in cases.items():
        measured = metric.measure(pair(*waveforms))
        assert measured.value is None and reason in measured.reason


def test_a_recording_with_too_little_sound_has_no_stoi_instead_of_almost_zero(voice):
    mostly_silent = np.concatenate([voice[:3000], np.zeros(RATE, np.float32)])
    measured = STOI().measure(pair(mostly_silent, mostly_silent))
    assert measured.value is None and "louder than silence" in measured.reason


@needs_pesq
def test_pesq_without_speech_in_it_has_a_reason(voice):
    click = np.concatenate([voice[:3000], np.zeros(RATE, np.float32)])
    measured = PESQ().measure(pair(click, click))
    assert measured.value is None and "no speech" in measured.reason


@needs_pesq
def test_the_crash_of_pesq_on_more_than_50_bursts_becomes_a_reason():
    t = np.arange(30 * RATE) / RATE
    bursts = (0.2 * np.sin(2 * np.pi * 300 * t) * (t % 0.5 < 0.25)).astype(np.float32)  # 60 of a quarter second
    measured = PESQ().measure(pair(bursts, noisy(bursts, 0.001)))
    assert measured.value is None and "crashed" in measured.reason


def test_a_crash_of_pesq_becomes_a_reason(monkeypatch, tmp_path, voice):
    child = tmp_path / "child.py"
    child.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n", encoding="utf-8")
    monkeypatch.setattr(quality, "_PESQ_CHILD", child)
    assert pesq_window(np.stack([voice, voice])) == (None, "pesq crashed (SIGABRT)")
    assert PESQ().measure(pair(voice, voice)).value is None


def test_pesq_that_hangs_becomes_a_reason(monkeypatch, tmp_path, voice):
    child = tmp_path / "child.py"
    child.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    monkeypatch.setattr(quality, "_PESQ_CHILD", child)
    monkeypatch.setattr(quality, "_PESQ_TIMEOUT", 0.3)
    value, reason = pesq_window(np.stack([voice, voice]))
    assert value is None and "more than" in reason


def test_pesq_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    monkeypatch.setattr(quality.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in PESQ().unavailable()


def test_long_recordings_are_scored_in_equal_windows_of_at_most_30_seconds(monkeypatch):
    seen = []
    monkeypatch.setattr(quality, "pesq_window", lambda window: (seen.append(window.shape[1]) or float(len(seen)), ""))
    waveform = np.random.default_rng(0).normal(0, 0.1, 70 * RATE).astype(np.float32)
    assert PESQ().measure(pair(waveform, waveform)).value == pytest.approx(2.0)
    assert len(seen) == 3 and sum(seen) == len(waveform) and max(seen) <= 30 * RATE


def test_a_window_that_pesq_cannot_score_is_told_beside_the_value(monkeypatch):
    answers = iter([(3.0, ""), (None, "pesq finds no speech")])
    monkeypatch.setattr(quality, "pesq_window", lambda window: next(answers))
    waveform = np.ones(40 * RATE, np.float32)
    measured = PESQ().measure(pair(waveform, waveform))
    assert measured.value == 3.0 and measured.reason == "1 of 2 windows left out: pesq finds no speech"


@pytest.mark.parametrize(("num_samples", "longest"), [(1, 10), (10, 10), (11, 10), (101, 7)])
def test_windows_tile(num_samples, longest):
    windows = even_windows(num_samples, longest)
    assert windows[0][0] == 0 and windows[-1][1] == num_samples
    assert all(0 < end - first <= longest for first, end in windows)
