"""SEANet, EnCodec's convolutional encoder and decoder (section 7.1, appendix A.1), from the `encodec` package.

24 kHz waveforms become 48 latents a second (hop 500 = 10 * 5 * 5 * 2). SpeechTokenizer's differs in one thing: the LSTM
of its encoder reads in both directions.
"""

from __future__ import annotations

import math

import torch
from encodec.modules import SConv1d, SConvTranspose1d, SEANetDecoder, SEANetEncoder
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from stages.config.models import SEANetConfig

# 5 s at 48 Hz: 93 s at once take 950 MiB and half as long again (measured, paper size)
PART_FRAMES = 240
MARGIN_FRAMES = 16  # the convolutions behind the LSTM see two to either side


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


class CausalConvolution(nn.Module):
    """The package's causal convolution, which adds the zeros before its input itself.

    The package copies every input to pad it, a tenth of the encoder's time; values are the same. Parameters keep
    their names. Gives ceil(samples / stride) frames.
    """

    def __init__(self, padded: SConv1d):
        super().__init__()
        self.conv = padded.conv
        inner = padded.conv.conv
        self.stride = inner.stride[0]
        inner.padding = ((inner.kernel_size[0] - 1) * inner.dilation[0] - (self.stride - 1),)

    def forward(self, samples: Tensor) -> Tensor:
        return self.conv(samples)[..., : -(-samples.shape[-1] // self.stride)]  # it pads the end as well


def pad_inside(module: nn.Module) -> None:
    """Make every causal convolution that pads with zeros a `CausalConvolution`."""
    for name, child in module.named_children():
        if isinstance(child, SConv1d) and child.causal and child.pad_mode == "constant":
            setattr(module, name, CausalConvolution(child))
        else:
            pad_inside(child)


class SubPixelConvolution(nn.Module):
    """A transposed convolution of two strides' length as an ordinary one of two taps, and a re-ordering.

    A channel for each sample of a frame: [batch, inputs, frames] to [batch, outputs, (frames + 1) * stride]. On a CPU
    it saves a seventh of the decoder's time. Its sums have another order, so values differ by rounding.
    """

    def __init__(self, transposed: nn.ConvTranspose1d):
        super().__init__()
        inputs, self.outputs, length = transposed.weight.shape
        self.kernel_size, self.stride = transposed.kernel_size, transposed.stride
        taps = transposed.weight.detach().view(inputs, self.outputs, 2, length // 2)
        taps = taps.flip(2).permute(1, 3, 0, 2).reshape(-1, inputs, 2)
        self.register_buffer("taps", taps.contiguous())
        self.register_buffer("bias", transposed.bias.detach().repeat_interleave(length // 2))

    def forward(self, latents: Tensor) -> Tensor:
        frames = nn.functional.conv1d(latents, self.taps, self.bias, padding=1)
        return frames.unflatten(1, (self.outputs, -1)).transpose(2, 3).flatten(2)


class BidirectionalLSTM(nn.Module):
    """LSTM layers of full width in both directions: [batch, dim, frames] to [batch, 2 * dim, frames].

    The input is repeated along the channels, so that the additive skip still adds (SpeechTokenizer, modules/lstm.py).
    """

    def __init__(self, dim: int, num_layers: int):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers, batch_first=True, bidirectional=True)

    def forward(self, latents: Tensor) -> Tensor:
        rows = latents.transpose(1, 2)
        return (torch.cat([rows, rows], dim=2) + self.lstm(rows)[0]).transpose(1, 2)


def read_both_ways(encoder: SEANetEncoder, config: SEANetConfig) -> None:
    """Replace the encoder's LSTM by a bi-directional one, and the convolution after it by one of twice the inputs."""
    *_, lstm, _, _ = encoder.model
    width = lstm.lstm.hidden_size
    encoder.model[-3] = BidirectionalLSTM(width, config.lstm_layers)
    encoder.model[-1] = SConv1d(2 * width, config.latent_dim, config.last_kernel_size, causal=config.causal,
                                pad_mode=config.pad_mode)  # fmt: skip


class SEANetAutoencoder(nn.Module):
    """Waveforms [batch, 1, samples] to latents [batch, latent_dim, samples / hop_length] and back.

    With `bidirectional`, every latent depends on the whole waveform; the decoder stays as it is.
    """

    def __init__(self, config: SEANetConfig, bidirectional: bool = False):
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
        if bidirectional:
            read_both_ways(self.encoder, config)
        if config.init == "unit-gain":
            pass_the_signal(self)
        normalise_weights(self)
        pad_inside(self)

    def encode_latents(self, waveform: Tensor) -> Tensor:
        """Return latents of a waveform whose samples are a multiple of the hop."""
        return self.encoder(waveform)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Return [batch, 1, samples]; without gradients, long latents are decoded in parts that differ by rounding."""
        if torch.is_grad_enabled() or latents.shape[-1] <= PART_FRAMES:
            return self.decoder(latents)
        return self._decode_in_parts(latents)

    def _decode_in_parts(self, latents: Tensor) -> Tensor:
        """Run the LSTM, which remembers, over all latents, and the convolutions behind it over parts with a margin."""
        layers = self.decoder.model
        behind = 2 if self.config.lstm_layers else 1
        latents = layers[:behind](latents)
        num_frames, parts = latents.shape[-1], []
        for start in range(0, num_frames, PART_FRAMES):
            first = max(0, start - MARGIN_FRAMES)
            stop = min(start + PART_FRAMES, num_frames)
            decoded = layers[behind:](latents[..., first : stop + MARGIN_FRAMES])
            parts.append(decoded[..., (start - first) * self.hop_length : (stop - first) * self.hop_length])
        return torch.cat(parts, dim=-1)

    def for_inference(self) -> None:
        """Trade the decoder's transposed convolutions, weight norm folded, for faster ones; it cannot train then."""
        for child in [child for child in self.decoder.modules() if isinstance(child, SConvTranspose1d)]:
            if isinstance(child.convtr.convtr, nn.ConvTranspose1d):
                child.convtr.convtr = SubPixelConvolution(child.convtr.convtr)
