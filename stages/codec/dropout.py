"""Dropout of quantizers: crops that are decoded from the first quantizers alone (Zeghidour et al. 2021, section III-D).

So a decoder learns to be understood whatever is missing, or guessed badly, of the upper ones. How deep a crop is
decoded is a function of seed, step and crop: the same for any number of processes, and after an interruption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.errors import UsageError
from stages.randomness import derive_seed

ROUNDING = 1e-9  # 0.1 ten times are more than 1


class Crops(NamedTuple):
    """Waveforms [items, 1, samples], and from how many quantizers (or blocks) each is decoded, int64 [items]."""

    waveforms: Tensor
    depths: Tensor

    @classmethod
    def whole(cls, waveforms: Tensor, number: int) -> Crops:
        """Return crops that are all decoded from everything."""
        return cls(waveforms, torch.full((len(waveforms),), number, device=waveforms.device))


def depth_shares(dropout: Sequence[float], number: int, key: str, what: str) -> tuple[float, ...]:
    """Return the shares of crops for depths 1 .. `number`, which sum up to 1: `dropout`, the rest with all.

    Raises UsageError, which names the setting `key` and what is counted, for shares that are none.
    """
    if len(dropout) >= number:
        raise UsageError(f"expected at most {number - 1} shares in `{key}`, one for each number of {what} but all, "
                         f"got `{len(dropout)}`", "the rest of the crops are decoded from all of them")
    rest = 1 - sum(dropout)
    if any(share < 0 for share in dropout) or rest < -ROUNDING:
        raise UsageError(f"expected shares of at least 0 and at most 1 together in `{key}`, "
                         f"got `{', '.join(map(str, dropout))}`", "[0.5, 0.1, 0.1] leaves 0.3 for all of them")
    return (*dropout, *[0.0] * (number - 1 - len(dropout)), max(0.0, rest))


def draw_depths(shares: Sequence[float], seed: int, step: int, crops: Iterable[int]) -> Tensor:
    """Return how deep each crop of a step is decoded, int64 [crops]."""
    ends = np.cumsum(shares[:-1])
    drawn = [np.random.default_rng(derive_seed(seed, "depth", step, crop)).random() for crop in crops]
    return torch.from_numpy(np.searchsorted(ends, drawn, side="right") + 1)


def sums_at(partial_sums: Sequence[Tensor], depths: Tensor) -> Tensor:
    """Return for each item the sum of as many parts as `depths` [batch] says, out of sums [batch, dim, frames] each."""
    return torch.stack(list(partial_sums))[depths - 1, torch.arange(len(depths), device=depths.device)]
