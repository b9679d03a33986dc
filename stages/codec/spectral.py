"""A light autoencoder: short-time spectra in, ConvNeXt blocks at the latent rate, short-time spectra out.

Encoder and head follow Vocos (Siuzdak 2023): no layer runs above the latent rate, so that a CPU trains and runs it.

    waveform -> STFT -> ConvNeXt blocks -> latents [latent_dim, samples / hop] -> ConvNeXt blocks -> inverse STFT

A latent takes in, and gives, the spectra of a few windows within its hop.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.config.models import SpectralConfig

COMPRESSION = 0.3  # exponent of magnitudes that the encoder reads: loudness as the ear has it, phase kept
SMALLEST = 1e-5  # magnitude below which nothing is told apart
LARGEST = 1e2  # magnitude that the decoder can give, as in Vocos: keeps the exponential from running away


class ShortTimeSpectrum(nn.Module):
    """STFT of [batch, samples] with one frame a hop, its window centred on the hop, and the exact inverse."""

    window: Tensor

    def __init__(self, window_length: int, hop_length: int):
        super().__init__()
        self.window_length, self.hop_length = window_length, hop_length
        missing = window_length - hop_length
        self.margins = (missing // 2, missing - missing // 2)
        self.register_buffer("window", torch.hann_window(window_length), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return complex spectra [batch, samples / hop, bins] of a waveform whose samples are a multiple of the hop."""
        padded = nn.functional.pad(waveform, self.margins)
        frames = padded.unfold(-1, self.window_length, self.hop_length) * self.window
        return torch.fft.rfft(frames, norm="ortho")

    def inverse(self, spectra: Tensor) -> Tensor:
        """Return the waveform [batch, frames * hop] whose windowed frames are nearest to complex spectra."""
        frames = torch.fft.irfft(spectra, self.window_length, norm="ortho") * self.window
        weight = self.window.square().expand(1, frames.shape[1], -1)
        return self._overlap_add(frames) / self._overlap_add(weight).clamp_min(SMALLEST)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """[batch, frames, window_length] -> [batch, frames * hop], the margins cut off."""
        length = (frames.shape[1] - 1) * self.hop_length + self.window_length
        added = nn.functional.fold(frames.transpose(1, 2), (1, length), (1, self.window_length),
                                   stride=(1, self.hop_length))  # fmt: skip
        return added[:, 0, 0, self.margins[0] : length - self.margins[1]]


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over frames, then two linear layers at every frame, added to the input.

    Takes and returns [batch, frames, channels].
    """

    def __init__(self, channels: int, ffn_dim: int, kernel_size: int, scale: float):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, ffn_dim)
        self.activation = nn.GELU()
        self.narrow = nn.Linear(ffn_dim, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, frames: Tensor) -> Tensor:
        mixed = self.depthwise(frames.transpose(1, 2)).transpose(1, 2)
        return frames + self.scale * self.narrow(self.activation(self.widen(self.norm(mixed))))


class ConvNeXt(nn.Module):
    """[batch, frames, inputs] to [batch, frames, outputs] through blocks of `channels`."""

    def __init__(self, inputs: int, outputs: int, num_blocks: int, config: SpectralConfig):
        super().__init__()
        self.enter = nn.Linear(inputs, config.channels)
        self.enter_norm = nn.LayerNorm(config.channels)
        self.blocks = nn.Sequential(*(
            ConvNeXtBlock(config.channels, config.ffn_dim, config.kernel_size, 1 / num_blocks)
            for _ in range(num_blocks)))  # fmt: skip
        self.leave_norm = nn.LayerNorm(config.channels)
        self.leave = nn.Linear(config.channels, outputs)

    def forward(self, frames: Tensor) -> Tensor:
        return self.leave(self.leave_norm(self.blocks(self.enter_norm(self.enter(frames)))))


class SpectralAutoencoder(nn.Module):
    """Waveforms [batch, 1, samples] to latents [batch, latent_dim, samples / hop_length] and back."""

    def __init__(self, config: SpectralConfig):
        super().__init__()
        self.config = config
        self.sample_rate = config.sample_rate
        self.hop_length = config.hop_length
        self.latent_dim = config.latent_dim
        bins = config.window_length // 2 + 1
        self.spectrum = ShortTimeSpectrum(config.window_length, config.spectrum_hop)
        width = config.spectra_per_latent * bins
        self.encoder = ConvNeXt(3 * width, config.latent_dim, config.encoder_blocks, config)
        self.decoder = ConvNeXt(config.latent_dim, 2 * width, config.decoder_blocks, config)

    def encode_latents(self, waveform: Tensor) -> Tensor:
        """Return latents of a waveform whose samples are a multiple of the hop."""
        with torch.autocast(waveform.device.type, enabled=False):
            features = compressed_features(self.spectrum(waveform.float().squeeze(1)))
        side_by_side = features.unflatten(1, (-1, self.config.spectra_per_latent)).flatten(2)
        return self.encoder(side_by_side).transpose(1, 2)

    def decode_latents(self, latents: Tensor) -> Tensor:
        side_by_side = self.decoder(latents.transpose(1, 2)).float()
        spectra = side_by_side.unflatten(2, (self.config.spectra_per_latent, -1)).flatten(1, 2)
        log_magnitude, angle = spectra.chunk(2, dim=-1)
        with torch.autocast(latents.device.type, enabled=False):
            magnitude = log_magnitude.clamp_max(math.log(LARGEST)).exp()  # before: infinity has no gradient
            return self.spectrum.inverse(torch.polar(magnitude, angle)).unsqueeze(1)


def compressed_features(spectra: Tensor) -> Tensor:
    """Return what the encoder reads, [batch, frames, 3 * bins], of complex spectra: log10 magnitudes, and real and
    imaginary parts of compressed magnitude."""
    magnitude = spectra.abs().clamp_min(SMALLEST)
    compressed = torch.view_as_real(spectra * magnitude.pow(COMPRESSION - 1))
    return torch.cat([magnitude.log10(), compressed[..., 0], compressed[..., 1]], dim=-1)
