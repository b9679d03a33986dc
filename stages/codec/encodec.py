"""SEANet, EnCodec's convolutional encoder and decoder (section 7.1, appendix A.1), from the `encodec` package.

24 kHz waveforms become 48 latents a second (hop 500 = 10 * 5 * 5 * 2).
"""

from __future__ import annotations

import math

import torch
from encodec.modules import SEANetDecoder, SEANetEncoder
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from stages.config.models import SEANetConfig


def normalise_weights(module: nn.Module) -> None:
    """Put weight norm on every 1-D and 2-D convolution inside.

    The package's own weight norm leaves modules that cannot be copied; this one can, and it reads
    checkpoints of the other (weight_g, weight_v).
    """
    convolutions = (nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d)
    for child in [child for child in module.modules() if isinstance(child, convolutions)]:
        weight_norm(child)


@torch.no_grad()
def pass_the_signal(module: nn.Module) -> None:
    """Start convolutions without bias and with unit gain: torch's defaults shrink a signal by sqrt(3) each."""
    convolutions = (nn.Conv1d, nn.ConvTranspose1d)
    for child in [child for child in module.modules() if isinstance(child, convolutions)]:
        child.weight.mul_(math.sqrt(3))
        child.bias.zero_()


class SEANetAutoencoder(nn.Module):
    """Waveforms [batch, 1, samples] to latents [batch, latent_dim, samples / hop_length] and back."""

    def __init__(self, config: SEANetConfig):
        super().__init__()
        self.config = config
        self.sample_rate = config.sample_rate
        self.hop_length = config.hop_length
        self.latent_dim = config.latent_dim
        arguments = dict(
            dimension=config.latent_dim,
            n_filters=config.base_filters,
            n_residual_layers=config.num_residual_layers,
            ratios=list(config.ratios),
            norm="none",
            kernel_size=config.kernel_size,
            last_kernel_size=config.last_kernel_size,
            residual_kernel_size=config.residual_kernel_size,
            dilation_base=config.dilation_base,
            causal=config.causal,
            pad_mode=config.pad_mode,
            true_skip=config.true_skip,
            compress=config.compress,
            lstm=config.lstm_layers,
        )
        self.encoder = SEANetEncoder(**arguments)
        self.decoder = SEANetDecoder(**arguments)
        if config.init == "unit-gain":
            pass_the_signal(self)
        normalise_weights(self)

    def encode_latents(self, waveform: Tensor) -> Tensor:
        """Return latents of a waveform whose samples are a multiple of the hop."""
        return self.encoder(waveform)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)
