"""Small codecs and synthetic sound for the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.residual import ResidualCodec
from stages.config.models import CodecConfig, MRVQConfig, QuantizerConfig, SEANetConfig


def synthetic_speech(batch: int, samples: int, seed: int = 0) -> Tensor:
    """Sums of sines under a slow envelope, with a little noise, [batch, 1, samples]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / 24_000
    pitch = 80 + 200 * torch.rand(batch, 1, 1, generator=generator)
    harmonics = torch.stack([torch.sin(2 * torch.pi * pitch * k * time) / k for k in range(1, 6)]).sum(0)
    envelope = 0.5 + 0.5 * torch.sin(2 * torch.pi * 3 * time + 6 * torch.rand(batch, 1, 1, generator=generator))
    return 0.2 * harmonics * envelope + 0.01 * torch.randn(batch, 1, samples, generator=generator)


def tiny_config(**changes) -> CodecConfig:
    fields = {
        "seanet": SEANetConfig(base_filters=2, latent_dim=16, lstm_layers=1),
        "quantizer": QuantizerConfig(codebook_size=16, kmeans_iterations=5),
    }
    return CodecConfig(**{**fields, **changes})


def tiny_teacher() -> ResidualCodec:
    torch.manual_seed(0)
    codec = ResidualCodec(tiny_config())
    with torch.no_grad():
        latents = codec.encode_latents(synthetic_speech(4, 48_000, seed=1))
    codec.quantizer.initialise(latents.transpose(1, 2).reshape(-1, latents.shape[1]))
    return codec.eval()


def make_student(teacher: ResidualCodec, mrvq: MRVQConfig) -> MultiResolutionCodec:
    torch.manual_seed(1)
    codec = MultiResolutionCodec.from_teacher(teacher, mrvq)
    with torch.no_grad():
        clips = codec.encode_latents(synthetic_speech(24, 24_000, seed=2))
    codec.mrvq.initialise(clips)
    return codec.eval()
