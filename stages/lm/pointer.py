"""Where in its text an AR model reads: one more stream, before the codes, says by how many tokens each frame advances.

    advances         0  1  1  0  2 ...      of frame i, drawn or given like a code, a step before the frame's first code
    token reached    0  1  2  2  4 ...      their sum: the text around it is added to the input of the next step

The paper's model has to find its place in the text by attention alone. A model of a few million parameters did not
learn that in thousands of steps; given the place, it learns to read. It is ours: the idea that alignment is something
to be generated, as durations are, is RALL-E's (Xin et al., 2024) and ELLA-V's (Song et al., 2024), and that of a stream
of text in step with the speech Moshi's (Defossez et al., 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.lm.transformer import init_linear

BEFORE, AFTER = 2, 3  # text tokens shown on either side of the one that is being said


class TextPointer(nn.Module):
    """Read the text around a place: token embeddings [batch, tokens, dim] to what is added to inputs of that width."""

    def __init__(self, dim: int):
        super().__init__()
        self.project = nn.Linear((BEFORE + 1 + AFTER) * dim, dim)

    def reset_parameters(self) -> None:
        init_linear(self.project)

    def forward(self, embedded: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
        """Return [batch, steps, dim] for places [batch, steps] in texts of `lengths` [batch], which 0 surrounds."""
        around = places.unsqueeze(-1) + torch.arange(-BEFORE, AFTER + 1, device=places.device)
        inside = (around >= 0) & (around < lengths[:, None, None])
        index = around.clamp(0, embedded.shape[1] - 1).flatten(1).unsqueeze(-1)
        tokens = embedded.gather(1, index.expand(-1, -1, embedded.shape[-1])).unflatten(1, around.shape[1:])
        return self.project((tokens * inside.unsqueeze(-1)).flatten(2))


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
