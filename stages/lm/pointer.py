"""Where in its text an AR model reads: one more stream, before the codes, says by how many tokens each frame advances.

    advances         0  1  1  0  2 ...      of frame i, drawn or given like a code, a step before the frame's first code
    token reached    0  1  2  2  4 ...      their sum: the text around it is added to the input of the next step

Codebook q of a frame is written q - 1 steps after the first, when the pointer has gone on. So each step is also shown
the text that was reached 1, 2, ... steps ago: what every codebook that it writes is about.

The paper's model has to find its place in the text by attention alone. A model of a few million parameters did not
learn that in thousands of steps; given the place, it learns to read. It is ours: the idea that alignment is something
to be generated, as durations are, is RALL-E's (Xin et al., 2024) and ELLA-V's (Song et al., 2024), and that of a stream
of text in step with the speech Moshi's (Defossez et al., 2024).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.lm.transformer import init_linear, valid_positions

KERNEL, LAYERS = 5, 3
REACH = LAYERS * (KERNEL // 2)  # text tokens on either side of one, which what is read of it depends on


class TextPointer(nn.Module):
    """Read a text once with small convolutions, then show what was read at the places of the last steps."""

    def __init__(self, dim: int, num_places: int):
        super().__init__()
        self.num_places = num_places
        self.layers = nn.ModuleList(nn.Conv1d(dim, dim, KERNEL, padding=KERNEL // 2) for _ in range(LAYERS))
        self.project = nn.Linear(num_places * dim, dim)

    def reset_parameters(self) -> None:
        for layer in self.layers:
            layer.reset_parameters()
        init_linear(self.project)

    def read(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """Return [batch, tokens, dim] for embedded texts of `lengths` [batch], which 0 surrounds."""
        inside = valid_positions(lengths, embedded.shape[1]).unsqueeze(1)
        found = embedded.transpose(1, 2) * inside
        for layer in self.layers:
            found = (found + F.gelu(layer(found))) * inside
        return found.transpose(1, 2)

    def forward(self, text: Tensor, places: Tensor) -> Tensor:
        """Return what is added to inputs, [batch, steps, dim], for `read` text and `recent_places`."""
        index = places.flatten(1).unsqueeze(-1).expand(-1, -1, text.shape[-1])
        return self.project(text.gather(1, index).unflatten(1, places.shape[1:]).flatten(2))


def recent_places(places: Tensor, num_places: int) -> Tensor:
    """Return [batch, steps, num_places]: those of places [batch, steps] now, a step ago, ...; 0 before the first."""
    padded = F.pad(places, (num_places - 1, 0))
    return padded.unfold(-1, num_places, 1).flip(-1)


def places_after(advances: Tensor, fill: int, text_lengths: Tensor) -> Tensor:
    """Return the token reached after each of the advances [batch, steps], which start at the text's first token.

    The fill stands for no advance, and behind the last token there is nothing to go on to.
    """
    return torch.minimum(counted(advances, fill).cumsum(-1), text_lengths[:, None] - 1)


def counted(advances: Tensor, fill: int) -> Tensor:
    """Return advances with the fill as 0."""
    return advances.masked_fill(advances == fill, 0)


def even_advances(num_tokens: int, num_frames: int) -> Tensor:
    """Return advances [frames] that spread a text evenly: of a prompt, of which nobody knows when what is said."""
    last = max(num_tokens - 1, 0)
    reached = (torch.arange(num_frames) + 1) * last // max(num_frames, 1)
    return torch.diff(reached, prepend=reached.new_zeros(1))


def with_advances(codes: Tensor, num_tokens: int) -> Tensor:
    """Put the stream of a prompt that says `num_tokens` evenly before its codes [codebooks, frames]."""
    return torch.cat([even_advances(num_tokens, codes.shape[-1]).to(codes)[None], codes])
