"""Where the tables and heads of language models begin: at the codec's codebooks instead of at chance.

    entry of a code in a table     its latents, projected to the width of the model
    its weights in a head          the same, smaller
    its bias in a head             the logarithm of how often it occurs

Codes that sound alike are then alike from the first step, and what is learned of one is learned of its neighbours.
Ours; a small NAR model came to the same loss in less than half of its first 1500 steps (examples/mini/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.lm.ar import ARModel
from stages.lm.nar import NARModel

HEAD_SCALE = 0.5  # of logits at the start; at 1, what is far from the origin would be guessed too often


@torch.no_grad()
def start_ar(model: ARModel, codebooks: Sequence[Tensor], counts: Tensor) -> None:
    """Start the streams of codes at `codebooks` [codebook_size, latent_dim] and counts [codebooks, codebook_size].

    The fill, the end and the advances of a text pointer stay as they are.
    """
    size, dim = model.config.codebook_size, model.config.transformer.dim
    first = model.num_streams - len(codebooks)  # behind the stream of a text pointer
    tables, heads = model.audio_embeddings[first:], model.heads[first:]
    for table, head, codebook, counted in zip(tables, heads, codebooks, counts, strict=True):
        entries = project(codebook, dim).to(table.weight)
        table.weight[:size] = entries * model.num_streams**-0.5
        head.weight[:size] = entries * (HEAD_SCALE * dim**-0.5)
        head.bias[:size] = log_shares(counted).to(head.bias)


@torch.no_grad()
def start_nar(model: NARModel, codebooks: Sequence[Tensor], counts: Tensor) -> None:
    """Start the heads of the levels at `codebooks` [codebook_size, latent_dim] and counts [levels, codebook_size]."""
    dim = model.config.transformer.dim
    for level, (codebook, counted) in enumerate(zip(codebooks, counts, strict=True)):
        model.head_weight[level] = project(codebook, dim).to(model.head_weight) * (HEAD_SCALE * dim**-0.5)
        model.head_bias[level] = log_shares(counted).to(model.head_bias)


def project(codebook: Tensor, dim: int) -> Tensor:
    """Return [codebook_size, dim] of unit variance in which entries lie to each other as in `codebook`.

    All codebooks are projected alike, so that sums of their entries mean what they mean in the codec.
    """
    centred = codebook.detach().float().cpu()
    centred = centred - centred.mean(0)
    matrix = torch.empty(centred.shape[1], dim)
    torch.nn.init.orthogonal_(matrix, generator=torch.Generator().manual_seed(0))
    entries = centred @ matrix
    return entries / entries.std().clamp(min=1e-8)


def log_shares(counts: Tensor) -> Tensor:
    """Return the logarithm of each code's share, over that of an even one; unseen codes count as seen once."""
    shares = (counts + 1).double()
    return (shares / shares.mean()).log()
