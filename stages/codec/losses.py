"""Losses of codec training: pure functions of waveforms, logits, feature maps and latents.

Values marked inferred are Audiocraft's EnCodec recipe (config/solver/compression/default.yaml).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stages.audio.stft import MelSpectrogram, log_mel
from stages.codec.quantizer import Ranks

MEL_WINDOWS = (64, 128, 256, 512, 1024)  # samples; inferred, Audiocraft's
Maps = Sequence[Sequence[Tensor]]  # of each discriminator, of each of its layers


def waveform_l1(estimate: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of two waveforms [batch, 1, samples]."""
    return nn.functional.l1_loss(estimate, target)


class MultiScaleMelLoss(nn.Module):
    """L1 on linear and MSE on log10 mel spectrograms, averaged over both terms and all windows (inferred)."""

    def __init__(self, sample_rate: int, windows: Sequence[int] = MEL_WINDOWS, num_mels: int = 64,
                 min_frequency: float = 64.0):  # fmt: skip
        super().__init__()
        self.scales = nn.ModuleList(MelSpectrogram(sample_rate, size, num_mels, min_frequency) for size in windows)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        total = estimate.new_zeros(())
        for scale in self.scales:
            ours, theirs = scale(estimate), scale(target)
            total = total + nn.functional.l1_loss(ours, theirs)
            total = total + nn.functional.mse_loss(log_mel(ours), log_mel(theirs))
        return total / (2 * len(self.scales))


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def hinge_discriminator_loss(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Return relu(1 - real) + relu(1 + fake), each a mean over logits, averaged over discriminators."""
    pairs = zip(real_logits, fake_logits, strict=True)
    return _mean([torch.relu(1 - real).mean() + torch.relu(1 + fake).mean() for real, fake in pairs])


def hinge_generator_loss(fake_logits: Sequence[Tensor]) -> Tensor:
    """Return minus the mean logit of generated audio, averaged over discriminators."""
    return _mean([-fake.mean() for fake in fake_logits])


def feature_matching_loss(real_maps: Maps, fake_maps: Maps) -> Tensor:
    """Return the L1 distance of feature maps, averaged over maps, then discriminators; real maps are detached."""
    scales = zip(real_maps, fake_maps, strict=True)
    return _mean(
        [
            _mean([nn.functional.l1_loss(fake, real.detach()) for real, fake in zip(reals, fakes, strict=True)])
            for reals, fakes in scales
        ]
    )


def fld_loss(pairs: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> Tensor:
    """Return the feature-level distillation loss of (student h_s, teacher h_t) pairs (equation 14).

    The norm is a mean over elements, so a weight means the same at every clip length; teachers are detached.
    """
    terms = [
        weight * nn.functional.l1_loss(student, teacher.detach())
        for (student, teacher), weight in zip(pairs, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def hsr_loss(pairs: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> Tensor:
    """Return the hidden-state reconstruction loss of (a~_k, D_k(b~_k)) pairs (equation 17).

    A mean over elements; the target a~_k is detached, or the encoder could make it easy instead of right.
    """
    terms = [
        weight * nn.functional.l1_loss(reconstruction, target.detach())
        for (target, reconstruction), weight in zip(pairs, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def gradient_norms(terms: Mapping[str, tuple[Tensor, Sequence[Tensor]]], ranks: Ranks) -> dict[str, Tensor]:
    """Return the norm of each loss's gradient at the tensors beside it: with it, weights can be set from a ratio.

    A loss is a mean over a process's items; the norm is that of the mean over everyone's.
    """
    norms = {}
    for name, (loss, places) in terms.items():
        gradients = torch.autograd.grad(loss, places, retain_graph=True)
        squares = torch.stack([gradient.float().square().sum() for gradient in gradients]).sum()
        norms[name] = ranks.sum(squares).sqrt() / ranks.world_size
    return norms


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio in dB, [batch], of waveforms [batch, 1, samples]."""
    estimate, target = (signal - signal.mean(dim=-1, keepdim=True) for signal in (estimate, target))
    tiny = torch.finfo(target.dtype).tiny
    scale = (estimate * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp_min(tiny)
    wanted = scale * target
    noise = (estimate - wanted).square().sum(-1).clamp_min(tiny)
    return 10 * torch.log10(wanted.square().sum(-1).clamp_min(tiny) / noise).squeeze(1)
