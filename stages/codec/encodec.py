"""EnCodec: SEANet encoder and decoder around a residual vector quantizer (section 7.1, appendix A.1).

24 kHz waveforms become 48 frames a second (hop 500 = 10 * 5 * 5 * 2) of 8 codes. SEANet comes from the
`encodec` package; the quantizer is ours (see quantizer.py).
"""

from __future__ import annotations

import math

import torch
from encodec.modules import SEANetDecoder, SEANetEncoder
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from stages.codec.base import Codec, Streams, StreamSpec, TeacherCodes, pad_to_multiple
from stages.codec.hierarchy import PlainHierarchy
from stages.codec.quantizer import ResidualQuantizer, exact
from stages.config.models import CodecConfig, SEANetConfig
from stages.errors import UsageError


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


def check_waveform(waveform: Tensor) -> None:
    """Refuse what is not [batch, 1, samples] with at least one sample."""
    if waveform.dim() != 3 or waveform.shape[1] != 1 or waveform.shape[2] == 0:
        raise UsageError(
            f"expected a waveform [batch, 1, samples] of at least one sample, got `{list(waveform.shape)}`",
            hint="give mono audio that is not empty",
        )


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


class EncodecCodec(Codec):
    """A plain residual-VQ codec with one stream, `rvq`; also a `Teacher` for multi-resolution codecs."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.sample_rate = config.seanet.sample_rate
        self.hop_length = config.seanet.hop_length
        self.latent_dim = config.seanet.latent_dim
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.quantizer.codebook_size
        self.autoencoder = SEANetAutoencoder(config.seanet)
        self.quantizer = ResidualQuantizer(self.latent_dim, config.num_codebooks, config.quantizer)
        self.streams = (
            StreamSpec(
                name="rvq",
                role="transmitted",
                num_codebooks=self.num_codebooks,
                frame_rate=config.seanet.frame_rate,
                hop_length=self.hop_length,
                codebook_size=self.codebook_size,
            ),
        )

    @property
    def alignment(self) -> int:
        return self.hop_length

    @property
    def hierarchy(self) -> PlainHierarchy:
        return PlainHierarchy(self.quantizer, self.streams[0])

    def encode_latents(self, waveform: Tensor) -> Tensor:
        return self.autoencoder.encode_latents(waveform)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode_latents(latents)

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Streams:
        check_waveform(waveform)
        with exact():
            latents = self.encode_latents(pad_to_multiple(waveform, self.alignment))
        return {"rvq": self.quantizer.encode(latents)}

    @torch.no_grad()
    def decode(self, streams: Streams, num_samples: int | None = None) -> Tensor:
        return self.decode_latents(self.quantizer.embed(streams["rvq"]))[..., :num_samples]

    def quantize(self, latents: Tensor) -> TeacherCodes:
        codes = self.quantizer.encode(latents)
        return TeacherCodes(codes, self.quantizer.partial_sums(codes))

    def codebook(self, index: int) -> Tensor:
        return self.quantizer.codebooks[index].codebook

    def export_config(self) -> dict:
        return self.config.model_dump(mode="json")
