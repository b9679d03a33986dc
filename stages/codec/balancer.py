"""Give each loss of the waveform a fixed share of the gradient, whatever its scale (EnCodec, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.codec.quantizer import Ranks, current_ranks


class Balancer(nn.Module):
    """Rescale the gradients of losses at the output waveform so that each has its weight's share of `total_norm`.

    The averages of gradient norms are buffers, so that a resumed run goes on exactly. Losses of anything but the
    waveform (commitment, FLD, HSR) cannot be balanced: they bypass the waveform.
    """

    norm_sum: Tensor
    norm_weight: Tensor

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999, total_norm: float = 1.0):
        super().__init__()
        self.weights = {name: float(weight) for name, weight in weights.items() if weight > 0}
        self.decay = decay
        self.total_norm = total_norm
        self.register_buffer("norm_sum", torch.zeros(len(self.weights)))
        self.register_buffer("norm_weight", torch.zeros(len(self.weights)))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor, ranks: Ranks | None = None) -> Tensor:
        """Return the balanced gradient, shaped as `output` [batch, 1, samples], which the losses are functions of.

        `(output * gradient).sum()` back-propagates it once. The losses' graph is kept. Losses that are not given
        (an adversary that has not joined yet) have no share. The norm is the mean over batch items of each item's,
        and the sum is divided by the batch, so a batch split over processes or micro-batches gives the same
        gradient as a whole one.
        """
        given = [index for index, name in enumerate(self.weights) if name in losses]
        names = [name for name in self.weights if name in losses]
        ranks = ranks or current_ranks()
        # of the mean over everyone's items, so that the averages mean the same to any number of processes
        gradients = [torch.autograd.grad(losses[name], [output], retain_graph=True)[0].detach() / ranks.world_size
                     for name in names]
        norms = torch.stack([gradient.flatten(1).norm(dim=1).mean() for gradient in gradients])
        averages = self._averages(norms, torch.tensor(given, device=output.device), ranks)
        shares = torch.tensor([self.weights[name] for name in names], device=output.device, dtype=averages.dtype)
        scales = self.total_norm * shares / shares.sum() / averages.clamp_min(1e-12)
        return sum(scale * gradient for scale, gradient in zip(scales, gradients, strict=True)) / len(output)

    @torch.no_grad()
    def _averages(self, norms: Tensor, given: Tensor, ranks: Ranks) -> Tensor:
        """Update and return the bias-corrected moving averages of `norms`, the losses at indices `given`.

        A norm that is not finite leaves its average as it was: the loop skips such a step, and must not inherit it.
        """
        mean = ranks.sum(norms.to(self.norm_sum.dtype)) / ranks.world_size
        share = torch.where(mean.isfinite(), 1 - self.decay, 0.0)
        self.norm_sum[given] = self.norm_sum[given].lerp(mean.nan_to_num(0.0, 0.0, 0.0), share)
        self.norm_weight[given] = self.norm_weight[given].lerp(torch.ones_like(mean), share)
        return self.norm_sum[given] / self.norm_weight[given]
