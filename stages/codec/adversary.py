"""The multi-scale STFT discriminator that judges decoded audio (EnCodec, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from encodec.msstftd import MultiScaleSTFTDiscriminator
from torch import Tensor, nn

from stages.codec.encodec import normalise_weights

FFT_SIZES = (1024, 2048, 512, 256, 128)  # inferred: Audiocraft's MS-STFT; hops are a quarter


@dataclass(frozen=True)
class Judgement:
    """Of each scale: logits [batch, 1, frames, frequencies], and the feature maps of its layers."""

    logits: tuple[Tensor, ...]
    maps: tuple[tuple[Tensor, ...], ...]


class Adversary(nn.Module):
    """Judge waveforms [batch, 1, samples] at five STFT resolutions; at least the largest FFT size of samples."""

    def __init__(self, filters: int = 32, fft_sizes: tuple[int, ...] = FFT_SIZES):
        super().__init__()
        self.min_samples = max(fft_sizes)
        self.discriminator = MultiScaleSTFTDiscriminator(
            filters=filters,
            n_ffts=list(fft_sizes),
            hop_lengths=[size // 4 for size in fft_sizes],
            win_lengths=list(fft_sizes),
            norm="none",
            activation_params={"negative_slope": 0.3},
        )
        for scale in self.discriminator.discriminators:
            # the first convolution has no weight norm, as in the reference
            normalise_weights(nn.ModuleList([*scale.convs[1:], scale.conv_post]))
        # few channels and large maps: on a CPU this layout takes 60 % of the time
        self.to(memory_format=torch.channels_last)

    def forward(self, waveform: Tensor) -> Judgement:
        logits, maps = self.discriminator(waveform)
        return Judgement(tuple(logits), tuple(tuple(scale) for scale in maps))
