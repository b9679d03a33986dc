"""Mel spectrograms at several window lengths, and the distance of two recordings by them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn


class MelSpectrogram(nn.Module):
    """Mel power spectrogram [batch, mels, frames] of [batch, 1, samples] with a hop of a quarter window.

    Hann window, normalised by its energy; reflected edges, so the frames cover the whole waveform.
    """

    def __init__(self, sample_rate: int, window: int, num_mels: int = 64, min_frequency: float = 64.0):
        super().__init__()
        from torchaudio.transforms import MelSpectrogram as TorchaudioMel

        self.window = window
        self.hop_length = window // 4
        with warnings.catch_warnings():
            # short windows have fewer frequencies than mels: some filters are empty, as in the reference
            warnings.filterwarnings("ignore", message="At least one mel filterbank")
            self.transform = TorchaudioMel(
                sample_rate=sample_rate,
                n_fft=window,
                hop_length=self.hop_length,
                f_min=min_frequency,
                n_mels=num_mels,
                window_fn=torch.hann_window,
                normalized=True,
                center=False,
            )

    def forward(self, waveform: Tensor) -> Tensor:
        margin = (self.window - self.hop_length) // 2
        last = -waveform.shape[-1] % self.hop_length
        padded = nn.functional.pad(nn.functional.pad(waveform, (0, last)), (margin, margin), mode="reflect")
        return self.transform(padded).squeeze(1)


def log_mel(mel: Tensor, floor: float = 1e-5) -> Tensor:
    """Return log10 of a mel power spectrogram raised by `floor`."""
    return torch.log10(mel + floor)


def mel_distance(estimate: Tensor, target: Tensor, sample_rate: int) -> Tensor:
    """Return how far apart waveforms [batch, 1, samples] sound, [batch]: mean absolute difference of log10 mel powers.

    Window 1024, hop 256, 64 bands, floor 1e-5.
    """
    mel = MelSpectrogram(sample_rate, window=1024).to(target.device)
    return (log_mel(mel(estimate)) - log_mel(mel(target))).abs().mean(dim=(1, 2))
