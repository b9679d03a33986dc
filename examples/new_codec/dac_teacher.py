"""DAC (Kumar et al., 2023), as `transformers` has it, made a teacher for `halle mreq --teacher dac_teacher:make`."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from transformers import DacConfig, DacModel

from stages.codec.base import TeacherCodes

WEIGHTS = "descript/dac_24khz"  # on the hub: 24 kHz, 75 Hz; a folder of such weights is taken from $DAC_WEIGHTS
NUM_CODEBOOKS = 8  # of 32: 6 kbit/s
SHAPE = ("encoder_hidden_size", "downsampling_ratios", "decoder_hidden_size", "n_codebooks", "codebook_size",
         "codebook_dim", "sampling_rate")  # fmt: skip


def make(shape: dict | None = None) -> DacTeacher:
    """Return the teacher with DAC's weights; with a `shape`, which a student's checkpoint records, one without."""
    if shape is None:
        return DacTeacher(DacModel.from_pretrained(os.environ.get("DAC_WEIGHTS", WEIGHTS)))
    return DacTeacher(DacModel(DacConfig(**shape)))


class DacAutoencoder(nn.Module):
    """The encoder and decoder: what a student copies and trains."""

    def __init__(self, dac: DacModel):
        super().__init__()
        self.sample_rate, self.hop_length = dac.config.sampling_rate, dac.config.hop_length
        self.latent_dim = dac.config.hidden_size
        self.encoder, self.decoder = dac.encoder, dac.decoder

    def encode_latents(self, waveform: Tensor) -> Tensor:
        """[batch, 1, samples] to [batch, latent_dim, samples / hop_length]."""
        return self.encoder(waveform)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents to [batch, 1, frames * hop_length]: strides of 5 leave DAC a few samples short at the end."""
        waveform = self.decoder(latents)
        return nn.functional.pad(waveform, (0, latents.shape[-1] * self.hop_length - waveform.shape[-1]))


class DacTeacher(nn.Module):
    """The `Teacher` contract of stages/codec/base.py around a DacModel."""

    def __init__(self, dac: DacModel):
        super().__init__()
        self.autoencoder = DacAutoencoder(dac)
        self.quantizer = dac.quantizer
        self.sample_rate, self.hop_length = self.autoencoder.sample_rate, self.autoencoder.hop_length
        self.latent_dim = self.autoencoder.latent_dim
        self.num_codebooks = min(NUM_CODEBOOKS, dac.config.n_codebooks)
        self.codebook_size = dac.config.codebook_size
        settings = dac.config.to_dict()
        self.architecture = {"shape": {name: settings[name] for name in SHAPE}}

    def encode_latents(self, waveform: Tensor) -> Tensor:
        return self.autoencoder.encode_latents(waveform)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode_latents(latents)

    @torch.no_grad()
    def quantize(self, latents: Tensor) -> TeacherCodes:
        """DAC's own look-up (cosine, among `codebook_dim` projected numbers) and the sums that it leads to."""
        codes = self.quantizer(latents, self.num_codebooks)[1]
        sums: list[Tensor] = []
        for index in range(self.num_codebooks):
            embedded = self.codebook(index)[codes[:, index]].transpose(1, 2)
            sums.append(sums[-1] + embedded if sums else embedded)
        return TeacherCodes(codes, tuple(sums))

    @torch.no_grad()
    def codebook(self, index: int) -> Tensor:
        """Entries [codebook_size, latent_dim]: DAC's short ones, projected as it projects them before adding up."""
        layer = self.quantizer.quantizers[index]
        return layer.out_proj(layer.codebook.weight.T.unsqueeze(0)).squeeze(0).T
