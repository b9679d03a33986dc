"""How well a codec gives waveforms back: the waveform part of L_NAC, and the measures of validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stages.codec.adversary import Adversary
from stages.codec.balancer import Balancer
from stages.codec.base import Codec, pad_to_multiple
from stages.codec.health import code_histogram, usage
from stages.codec.losses import (
    MultiScaleMelLoss,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    si_sdr,
    waveform_l1,
)
from stages.codec.quantizer import Ranks
from stages.config.stage_configs import CodecLossWeights, CodecTrainingConfig, DiscriminatorConfig

CROPS_AT_ONCE = 8


@dataclass(frozen=True)
class ReconstructionLosses:
    """`values` are unweighted, by name. `balanced` is what the codec back-propagates, `discriminator` the adversary,
    None while there is no adversary."""

    values: dict[str, Tensor]
    balanced: Tensor
    discriminator: Tensor | None


class ReconstructionObjective:
    """L1, mel, adversarial and feature losses of a decoded waveform, balanced at the waveform (section 4.2, L_NAC)."""

    def __init__(self, mel: MultiScaleMelLoss, adversary: Adversary, balancer: Balancer, plan: DiscriminatorConfig):
        self.mel, self.adversary, self.balancer, self.plan = mel, adversary, balancer, plan

    def __call__(self, estimate: Tensor, target: Tensor, ranks: Ranks, step: int) -> ReconstructionLosses:
        """Return the losses of waveforms [batch, 1, samples] at a step.

        Both sides see the same adversary: it and the codec step together, so it judges each waveform once.
        Back-propagating `discriminator` does not reach the codec, nor `balanced` the adversary.
        """
        heard = estimate.detach().requires_grad_()
        values = {"l1": waveform_l1(heard, target), "mel": self.mel(heard, target)}
        discriminator = None
        if self.plan.judges(step):
            real, fake = self.adversary(target), self.adversary(heard)
            discriminator = hinge_discriminator_loss(real.logits, fake.logits)
            if self.plan.teaches(step):
                values["adversarial"] = hinge_generator_loss(fake.logits)
                values["feature"] = feature_matching_loss(real.maps, fake.maps)
        balanced = (estimate * self.balancer(values, heard, ranks)).sum()
        return ReconstructionLosses(values, balanced, discriminator)


@dataclass(frozen=True)
class Recipe:
    """What training a codec against an adversary takes; `networks` and `optimizers` are the training loop's."""

    objective: ReconstructionObjective
    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]


def adversarial_recipe(codec: Codec, losses: CodecLossWeights, discriminator: DiscriminatorConfig,
                       training: CodecTrainingConfig, device: torch.device) -> Recipe:
    """Return EnCodec's recipe for `codec`: an adversary with an Adam of its own, and the balancer's averages."""
    adversary = Adversary(discriminator.filters, discriminator.fft_sizes)
    balancer = Balancer(losses.model_dump(include={"l1", "mel", "adversarial", "feature"}))
    mel = MultiScaleMelLoss(codec.sample_rate, losses.mel_windows).to(device)
    trained = {"model": codec, "discriminator": adversary}
    return Recipe(
        objective=ReconstructionObjective(mel, adversary, balancer, discriminator),
        networks={**trained, "balancer": balancer},
        optimizers={name: codec_optimizer(network, training) for name, network in trained.items()},
    )


def codec_optimizer(network: nn.Module, training: CodecTrainingConfig) -> Optimizer:
    """Return the Adam of every network that takes part (section 7.1)."""
    return Adam(network.parameters(), lr=training.learning_rate, betas=training.betas,
                weight_decay=training.weight_decay)


@torch.no_grad()
def measure_reconstruction(codec: Codec, waveforms: Tensor, mel: MultiScaleMelLoss,
                           quantized: bool = True) -> dict[str, float]:
    """Encode and decode waveforms [items, 1, samples] and return distances, SI-SDR (dB) and every codebook's use.

    With `quantized` false the latents go to the decoder as they are, and no codebook is measured.

    `perplexity.quant1.1` is that of the first codebook of stream `quant1`, between 1 and the codebook size (and never
    above the number of frames measured).
    """
    sums = dict.fromkeys(("l1", "mel", "si_sdr"), 0.0)
    histograms: dict[str, Tensor] = {}
    for part in waveforms.split(CROPS_AT_ONCE):
        codes = codec.encode_all(part) if quantized else {}
        estimate = codec.decode(codes, part.shape[-1]) if quantized else _through_latents(codec, part)
        sums["l1"] += float(waveform_l1(estimate, part)) * len(part)
        sums["mel"] += float(mel(estimate, part)) * len(part)
        sums["si_sdr"] += float(si_sdr(estimate, part).sum())
        for name, found in codes.items():
            histograms[name] = histograms.get(name, 0) + code_histogram(found, codec.streams[0].codebook_size).cpu()
    measures = {name: total / len(waveforms) for name, total in sums.items()}
    for name, histogram in histograms.items():
        found = usage(histogram)
        for index in range(len(histogram)):
            measures[f"usage.{name}.{index + 1}"] = float(found.share[index])
            measures[f"perplexity.{name}.{index + 1}"] = float(found.perplexity[index])
    return measures


@torch.no_grad()
def reconstruct_whole(codec: Codec, waveform: np.ndarray, quantized: bool = True) -> np.ndarray:
    """Return a waveform [samples] at the codec's rate, encoded and decoded: float32 [samples], within full scale."""
    batch = torch.from_numpy(waveform)[None, None].to(next(codec.parameters()).device)
    decoded = codec.decode(codec.encode(batch), batch.shape[-1]) if quantized else _through_latents(codec, batch)
    return decoded[0, 0].float().clamp(-1, 1).cpu().numpy()


def _through_latents(codec: Codec, waveforms: Tensor) -> Tensor:
    latents = codec.encode_latents(pad_to_multiple(waveforms, codec.hop_length))
    return codec.decode_latents(latents)[..., : waveforms.shape[-1]]
