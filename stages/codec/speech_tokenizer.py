"""What makes a SpeechTokenizer of an EnCodec: its first codebook is taught what a self-supervised model hears.

(Zhang et al. 2023, section 3.4; appendix A.1 here.) The other difference, a bi-directional LSTM, is in encodec.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from stages.codec.losses import gradient_norms
from stages.codec.quantizer import Ranks


def d_axis_loss(projected: Tensor, features: Tensor) -> Tensor:
    """Return -1/D sum_d log sigmoid cos(projected[:, d], features[:, d]), the mean over a batch [batch, D, frames].

    The cosine is of a channel's course over time: 0.31 when all agree, 0.69 for no relation, 1.31 for the opposite.
    """
    return -nn.functional.logsigmoid(nn.functional.cosine_similarity(projected, features, dim=2)).mean()


class SemanticDistillation(nn.Module):
    """The linear projection A from the first codebook's output to the teacher's features, and its loss.

    It belongs to training, not to the codec.
    """

    def __init__(self, latent_dim: int, feature_dim: int):
        super().__init__()
        self.projection = nn.Linear(latent_dim, feature_dim)

    def forward(self, first: Tensor, features: Tensor) -> Tensor:
        """Return the loss of `first` [batch, latent_dim, frames] against `features` [batch, feature_dim, frames]."""
        return d_axis_loss(self.projection(first.transpose(1, 2)).transpose(1, 2), features)


def gradients_at_latents(latents: Tensor, losses: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return the norm of each loss's gradient at the encoder's output: with it, weights can be set from a ratio."""
    norms = gradient_norms({name: (loss, [latents]) for name, loss in losses.items()}, ranks)
    return {f"gradient_at_latents.{name}": norm for name, norm in norms.items()}
