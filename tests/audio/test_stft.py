from __future__ import annotations

import pytest
import torch

from stages.audio.stft import MelSpectrogram, log_mel, mel_distance


@pytest.mark.parametrize("samples", [2048, 2049, 3000])
@pytest.mark.parametrize("exponent", range(6, 11))
def test_frames_cover_the_whole_waveform(samples: int, exponent: int) -> None:
    mel = MelSpectrogram(24_000, 2**exponent)
    frames = -(-samples // mel.hop_length)
    assert mel(torch.randn(2, 1, samples)).shape == (2, 64, frames)


def test_a_tone_is_loudest_in_a_higher_mel_when_it_is_higher() -> None:
    mel = MelSpectrogram(24_000, 1024)
    time = torch.arange(12_000) / 24_000
    tones = [torch.sin(2 * torch.pi * hz * time).view(1, 1, -1) for hz in (300, 1000, 5000)]
    loudest = [int(mel(tone).mean(-1).argmax()) for tone in tones]
    assert loudest == sorted(set(loudest))


def test_power_grows_with_the_square_of_the_amplitude() -> None:
    mel, wave = MelSpectrogram(24_000, 256), torch.randn(1, 1, 4000)
    torch.testing.assert_close(mel(2 * wave), 4 * mel(wave), rtol=1e-4, atol=1e-6)


def test_the_mel_distance_of_each_item_is_its_mean_difference_in_decades_of_power() -> None:
    wave = torch.randn(1, 1, 6000, generator=torch.Generator().manual_seed(0))
    pair = torch.cat([wave, 10 * wave])  # ten times louder is a hundred times the power
    torch.testing.assert_close(mel_distance(pair, wave.expand(2, -1, -1), 24_000), torch.tensor([0.0, 2.0]),
                               rtol=1e-3, atol=1e-6)  # fmt: skip


def test_the_logarithm_has_a_floor() -> None:
    torch.testing.assert_close(log_mel(torch.zeros(3)), torch.full((3,), -5.0))
