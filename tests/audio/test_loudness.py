"""Loudness: the asked RMS, no clipping, silence left alone."""

import numpy as np
import pytest

from stages.audio.loudness import PEAK, normalise_loudness

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
