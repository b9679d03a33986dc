"""The cost of a step of both codec trainers: codec, quantizers, discriminator and losses. A HuBERT that teaches is not
in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from stages.codec.losses import fld_loss, hsr_loss
from stages.codec.mrvq import MRVQOutput, MultiResolutionCodec
from stages.codec.quantizer import Ranks
from stages.codec.reconstruction import Recipe, adversarial_recipe
from stages.codec.registry import PlainCodec
from stages.codec.residual import ResidualCodec
from stages.config.stage_configs import CodecTrainingConfig, MReQConfig, TrainCodecConfig
from stages.planning.estimate import Workload
from stages.planning.step_cost import Losses, StepCost, count_step
from stages.training.largest_batch import crops_in_words

_CPU = torch.device("cpu")


def codec_workload(config: TrainCodecConfig, samples: int) -> Workload:
    """Return what a step of `halle train-codec` is, with crops of so many samples."""
    items = _items(config.training)
    return _workload(codec_cost(config, items, samples), config.training, items,
                     samples / config.codec.autoencoder.sample_rate)


def mreq_workload(config: MReQConfig, student: MultiResolutionCodec, teacher: PlainCodec | None,
                  samples: int) -> Workload:
    """Return what a step of `halle mreq` is, with crops of so many samples."""
    items = _items(config.training)
    try:
        cost = mreq_cost(config, student, teacher, items, samples)
    except Exception:  # a teacher of another project need not compute on tensors without data
        cost = None
    return _workload(cost, config.training, items, samples / student.sample_rate)


def _items(training: CodecTrainingConfig) -> int:
    return max(1, training.batch_size // training.accumulation)


def _workload(cost: StepCost | None, training: CodecTrainingConfig, items: int, seconds: float) -> Workload:
    return Workload(cost, items, crops_in_words(items, seconds), 1.0, training.batch_size * seconds, "codec")


def codec_cost(config: TrainCodecConfig, items: int, samples: int) -> StepCost:
    """Count a batch of `items` crops, once codebooks and discriminator take part."""
    codec = ResidualCodec(config.codec).eval()  # codebooks rest: how they move depends on numbers

    def forward(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        output = codec.quantizer(codec.encode_latents(batch), Ranks())
        return output.quantized, [output.commitment.mean()]

    recipe = adversarial_recipe(codec, config.losses, config.discriminator, config.training, _CPU)
    return _count(codec, recipe, config.training, forward, items, samples)


def mreq_cost(config: MReQConfig, student: MultiResolutionCodec, teacher: PlainCodec | None, items: int,
              samples: int) -> StepCost:
    """Count a batch of `items` crops, once encoder, decoder and discriminator take part."""
    student = student.eval()

    def distillation(batch: Tensor, output: MRVQOutput) -> list[Tensor]:
        if teacher is None:
            return []
        with torch.no_grad():
            taught = teacher.quantize(teacher.encode_latents(batch)).partial_sums
        pairs = [(output.partial_sums[s - 1], taught[t - 1]) for s, t in config.mrvq.fld_pairs]
        return [fld_loss(pairs, [1.0] * len(pairs))]

    def forward(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        output = student.mrvq(student.encode_latents(batch), Ranks())
        return output.quantized, [*distillation(batch, output),
                                  hsr_loss(output.hsr_pairs, [1.0] * len(output.hsr_pairs)),
                                  torch.cat(list(output.commitments.values())).mean()]

    recipe = adversarial_recipe(student, config.losses, config.discriminator, config.training, _CPU)
    return _count(student, recipe, config.training, forward, items, samples)


def _count(codec: nn.Module, recipe: Recipe, training: CodecTrainingConfig, forward, items: int,
           samples: int) -> StepCost:
    trained = [network for network in recipe.networks.values() if any(p.requires_grad for p in network.parameters())]

    def build() -> tuple[Sequence[nn.Module], Losses]:
        batch = torch.zeros(items, 1, samples)

        def losses() -> Iterator[Tensor]:
            with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16"):
                quantized, others = forward(batch)
                estimate = codec.decode_latents(quantized)
            judged = recipe.objective(estimate.float(), batch, Ranks(), training.steps)
            if judged.discriminator is not None:
                yield judged.discriminator
            yield judged.balanced + sum(others)

        return trained, losses

    return count_step(build, training.ema_decay is not None)
