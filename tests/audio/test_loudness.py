"""Loudness: the asked RMS, no clipping, silence left alone."""

import numpy as np
import pytest

from stages.audio.loudness import PEAK, LoudnessMeter, _ear, loudness, normalise_loudness

TONE = np.sin(np.arange(24_000) / 20).astype(np.float32)


@pytest.mark.parametrize("gain", [0.001, 0.1, 1.0, 3.0])
def test_every_input_level_gives_the_asked_rms(gain):
    result = normalise_loudness(gain * TONE, -20.0)
    assert np.sqrt(np.mean(result**2)) == pytest.approx(0.1, rel=1e-4)
    assert result.dtype == np.float32


def test_a_peak_that_would_clip_limits_the_gain():
    click = np.zeros(24_000, dtype=np.float32)
    click[100] = 0.5
    assert np.abs(normalise_loudness(click, -20.0)).max() == pytest.approx(PEAK)


def test_silence_stays_silence():
    assert not normalise_loudness(np.zeros(10, dtype=np.float32), -20.0).any()
    assert len(normalise_loudness(np.zeros(0, dtype=np.float32), -20.0)) == 0


def test_loudness_has_the_filters_of_the_standard_at_48_khz():
    (head, of_head), (ear, of_ear) = _ear(48_000)
    assert head == pytest.approx([1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-10)
    assert of_head == pytest.approx([1.0, -1.69065929318241, 0.73248077421585], abs=1e-10)
    assert ear == [1.0, -2.0, 1.0] and of_ear == pytest.approx([1.0, -1.99004745483398, 0.99007225036621], abs=1e-10)


@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 48_000])
def test_the_loudness_of_the_standards_own_tone_is_what_it_says(sample_rate):
    tone = np.sin(2 * np.pi * 997 * np.arange(2 * sample_rate) / sample_rate)
    assert loudness(tone, sample_rate) == pytest.approx(-3.01, abs=0.05)
    assert loudness(tone / 10, sample_rate) == pytest.approx(-23.01, abs=0.05)


def test_pauses_make_a_sound_no_softer():
    pause = np.zeros(5 * 24_000, dtype=np.float32)
    assert loudness(np.concatenate([pause, TONE, pause, TONE]), 24_000) == pytest.approx(
        loudness(np.concatenate([TONE, TONE]), 24_000), abs=1.0)
    assert loudness(pause, 24_000) == -np.inf and loudness(TONE[:100], 24_000) < loudness(TONE, 24_000)


@pytest.mark.parametrize("size", [1000, 7001, 24_000])
def test_what_comes_in_blocks_is_as_loud_as_the_whole(size):
    whole = np.concatenate([TONE, 0.2 * TONE, np.zeros(9000, dtype=np.float32), TONE[:1234]])
    meter = LoudnessMeter(24_000)
    for first in range(0, len(whole), size):
        meter.add(whole[first : first + size])
    assert meter.loudness == pytest.approx(loudness(whole, 24_000), abs=1e-9)
