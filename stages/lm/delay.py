"""The delay pattern: stream q runs q steps behind stream 0, so one step emits one code of every stream.

    frames     0 1 2          steps   0 1 2 3 4
    stream 0   a b c    ->            a b c . .
    stream 1   d e f                  . d e f .
    stream 2   g h i                  . . g h i        "." is the fill

Unlike MusicGen's pattern (Copet et al., 2023) nothing is dropped: the last frames stay.
"""

from __future__ import annotations

import torch
from torch import Tensor


def delay(codes: Tensor, fill: int | float) -> Tensor:
    """Shift stream q right by q steps: [batch, codebooks, frames] -> [batch, codebooks, frames + codebooks - 1]."""
    batch, num_codebooks, num_frames = codes.shape
    late = codes.new_full((batch, num_codebooks, num_frames + num_codebooks - 1), fill)
    for index in range(num_codebooks):
        late[:, index, index : index + num_frames] = codes[:, index]
    return late


def undelay(late: Tensor) -> Tensor:
    """Invert `delay` exactly: [batch, codebooks, steps] -> [batch, codebooks, steps - codebooks + 1]."""
    num_codebooks, num_steps = late.shape[1:]
    num_frames = num_steps - num_codebooks + 1
    if num_frames < 0:
        raise ValueError(f"{num_codebooks} delayed streams take at least {num_codebooks - 1} steps, got {num_steps}")
    return torch.stack([late[:, index, index : index + num_frames] for index in range(num_codebooks)], dim=1)
