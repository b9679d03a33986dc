"""Plain residual-VQ codecs: an autoencoder of any family around a residual vector quantizer (section 3, L_NAC).

A family is an `nn.Module` with `sample_rate`, `hop_length`, `latent_dim`, `encode_latents` and `decode_latents`;
`build_autoencoder` knows them by `arch`. The quantizer is ours (see quantizer.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.codec.base import Codec, Streams, StreamSpec, TeacherCodes, check_waveform, pad_to_multiple
from stages.codec.encodec import SEANetAutoencoder
from stages.codec.foreign import build_foreign
from stages.codec.hierarchy import PlainHierarchy
from stages.codec.quantizer import ResidualQuantizer, exact
from stages.codec.spectral import SpectralAutoencoder
from stages.config.models import CodecConfig

AUTOENCODERS = (SEANetAutoencoder, SpectralAutoencoder)


def build_autoencoder(config: CodecConfig) -> nn.Module:
    """Return the untrained autoencoder of `config.arch`."""
    if config.arch == "foreign":
        return build_foreign(config.foreign)
    if config.arch == "spectral":
        return SpectralAutoencoder(config.spectral)
    return SEANetAutoencoder(config.seanet, bidirectional=config.arch == "speechtokenizer")


class ResidualCodec(Codec):
    """A plain residual-VQ codec with one stream, `rvq`; also a `Teacher` for multi-resolution codecs."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.autoencoder = build_autoencoder(config)
        self.sample_rate = self.autoencoder.sample_rate
        self.hop_length = self.autoencoder.hop_length
        self.latent_dim = self.autoencoder.latent_dim
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.quantizer.codebook_size
        self.quantizer = ResidualQuantizer(self.latent_dim, config.num_codebooks, config.quantizer)
        self.streams = (
            StreamSpec(
                name="rvq",
                role="transmitted",
                num_codebooks=self.num_codebooks,
                frame_rate=config.autoencoder.frame_rate,
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

    def quantizers(self) -> dict[str, ResidualQuantizer]:
        """Return the residual quantizer by the name of its stream."""
        return {"rvq": self.quantizer}

    def quantize(self, latents: Tensor) -> TeacherCodes:
        codes = self.quantizer.encode(latents)
        return TeacherCodes(codes, self.quantizer.partial_sums(codes))

    def codebook(self, index: int) -> Tensor:
        return self.quantizer.codebook(index)

    def export_config(self) -> dict:
        return self.config.described()
