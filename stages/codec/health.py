"""How well codebooks are used: on given audio, and in the steps of a training run so far.

Perplexity, exp of the codes' entropy, lies between 1 (always the same code) and the codebook size (all alike).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.codec.quantizer import ResidualQuantizer


@dataclass(frozen=True)
class Usage:
    """Per codebook [codebooks]: the share of its entries that occur, and its perplexity."""

    share: Tensor
    perplexity: Tensor


def code_histogram(codes: Tensor, codebook_size: int) -> Tensor:
    """Return how often each code occurs, [codebooks, codebook_size], in codes [batch, codebooks, frames]."""
    per_codebook = codes.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(row, minlength=codebook_size) for row in per_codebook])


def usage(histogram: Tensor) -> Usage:
    """Return the usage of codebooks with `histogram` [codebooks, codebook_size]: counts, or averages of counts."""
    total = histogram.double().sum(dim=1, keepdim=True)
    probability = histogram.double() / total.clamp_min(torch.finfo(total.dtype).tiny)
    entropy = -torch.special.xlogy(probability, probability).sum(dim=1)
    return Usage((histogram > 0).double().mean(dim=1), entropy.exp())


def recent_usage(quantizer: ResidualQuantizer) -> Usage:
    """Return the usage over about the last 1 / (1 - decay) training steps of all processes.

    Counts only what vectors chose: a dead code that is revived again and again does not look used.
    """
    use = torch.stack([codebook.recent_use for codebook in quantizer.codebooks])
    one_use_then = (1 - quantizer.codebooks[0].config.decay) / math.e  # what a single use so long ago has left
    return usage(torch.where(use > one_use_then, use, 0))


def revived_codes(quantizers: Mapping[str, ResidualQuantizer]) -> dict[str, Tensor]:
    """Return `revived.NAME.N`: how many codes of codebook N (1, 2, ..) were revived since the run began."""
    return {f"revived.{name}.{index}": codebook.num_revived for name, quantizer in quantizers.items()
            for index, codebook in enumerate(quantizer.codebooks, start=1)}


def training_health(quantizers: Mapping[str, ResidualQuantizer]) -> dict[str, Tensor]:
    """Return `usage.NAME.N` and `perplexity.NAME.N` of the steps just done, and `revived.NAME.N`; waits for nothing."""
    values = {}
    for name, quantizer in quantizers.items():
        found = recent_usage(quantizer)
        for index in range(quantizer.num_codebooks):
            values[f"usage.{name}.{index + 1}"] = found.share[index]
            values[f"perplexity.{name}.{index + 1}"] = found.perplexity[index]
    return {**values, **revived_codes(quantizers)}
