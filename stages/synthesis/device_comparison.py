"""Whether a device computes what the CPU does: a tiny codec, AR and NAR model on both, forward, backward and spoken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.codec.losses import MultiScaleMelLoss
from stages.codec.quantizer import exact
from stages.codec.residual import ResidualCodec
from stages.config.models import ARConfig, CodecConfig, NARConfig, QuantizerConfig, SEANetConfig, TransformerConfig
from stages.lm.ar import ARModel
from stages.lm.generate import Sampling, generate
from stages.lm.nar import NARModel

# shares of the largest number on the CPU. fp32: sums in another order, and TF32 in convolutions' gradients;
# bf16: 8 bits of mantissa
FP32, BF16 = 2e-3, 5e-2
_TRANSFORMER = TransformerConfig(dim=32, num_heads=4, num_layers=2, ffn_dim=64)
_SIZE, _FRAMES, _TOKENS = 16, 24, 10


@dataclass(frozen=True)
class Comparison:
    """`difference` is the largest, as a share of the largest number on the CPU."""

    what: str
    difference: float
    allowed: float

    @property
    def agrees(self) -> bool:
        return self.difference <= self.allowed  # a NaN does not


def compare_with_cpu(device: torch.device) -> list[Comparison]:
    """Compute the same on the CPU and on `device`."""
    return compare(results_on(torch.device("cpu")), results_on(device))


def compare(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[Comparison]:
    return [Comparison(name, _difference(value, found[name]), BF16 if "bf16" in name else FP32)
            for name, value in expected.items()]


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    largest = float(expected.abs().max())
    return float((found - expected).abs().max()) / max(largest, 1e-12)


def results_on(device: torch.device) -> dict[str, Tensor]:
    """Return what the tiny models compute on a device, as float64 on the CPU. The caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = {**dict(_codec_results(device)), **dict(_ar_results(device)), **dict(_nar_results(device))}
    return {name: value.detach().cpu().double() for name, value in found.items()}


def _codec_results(device: torch.device) -> Iterator[tuple[str, Tensor]]:
    config = CodecConfig(seanet=SEANetConfig(base_filters=4, latent_dim=16, lstm_layers=1), num_codebooks=2,
                         quantizer=QuantizerConfig(codebook_size=_SIZE, kmeans_iterations=3))
    codec = ResidualCodec(config)
    codec.quantizer.initialise(torch.randn(400, 16))
    wave, latents = torch.randn(2, 1, 6000) / 10, torch.randn(2, 16, 12)
    codec, mel = codec.eval().to(device), MultiScaleMelLoss(config.seanet.sample_rate, (256, 1024)).to(device)
    with exact():
        encoded = codec.encode_latents(wave.to(device))
        decoded = codec.decode_latents(latents.to(device))
    loss = mel(decoded, wave.to(device)) + encoded.square().mean()
    loss.backward()
    yield "codec latents", encoded
    yield "codec waveform", decoded
    yield "codec codes", codec.quantizer.encode(latents.to(device))
    yield "codec mel loss", loss
    yield "codec gradient", _gradient(codec)


def _ar_results(device: torch.device) -> Iterator[tuple[str, Tensor]]:
    model = ARModel(ARConfig(transformer=_TRANSFORMER, num_codebooks=3, codebook_size=_SIZE, text_vocab_size=20))
    text, codes = torch.randint(20, (2, _TOKENS)), torch.randint(_SIZE, (2, 3, _FRAMES))
    lengths = torch.tensor([_TOKENS, 6]), torch.tensor([_FRAMES, 9])
    model = model.to(device)
    batch = [tensor.to(device) for tensor in (text, lengths[0], codes, lengths[1])]
    losses = model.loss(*batch).losses
    losses.sum().backward()
    yield "AR losses", losses
    yield "AR gradient", _gradient(model)
    with torch.autocast(device.type, torch.bfloat16):
        yield "AR losses in bf16", model.loss(*batch).losses
    sampling = Sampling(max_frames=12, min_frames=11, temperature=0.0)
    spoken = generate(model.eval(), batch[0][0], batch[2][0, :, :6], sampling, torch.Generator())
    yield "AR spoken codes", spoken.codes


def _nar_results(device: torch.device) -> Iterator[tuple[str, Tensor]]:
    model = NARModel(NARConfig(transformer=_TRANSFORMER, num_levels=3, codebook_size=_SIZE, latent_dim=5,
                               text_vocab_size=20))
    targets, levels, lengths = torch.randint(_SIZE, (2, _FRAMES)), torch.tensor([1, 3]), torch.tensor([_FRAMES, 11])
    inputs = {"feature": torch.randn(2, 5, _FRAMES), "text": torch.randint(20, (2, _TOKENS)),
              "prompt": torch.randn(2, 5, 8)}
    model = model.to(device)
    losses = model.loss(targets.to(device), lengths.to(device), levels.to(device),
                        **{name: value.to(device) for name, value in inputs.items()}).losses
    losses.sum().backward()
    yield "NAR losses", losses
    yield "NAR gradient", _gradient(model)


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1).float() for p in model.parameters() if p.grad is not None])
