"""Learning-rate schedules and gradient arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from stages.config.lm_training import LMTrainingConfig
from stages.config.stage_configs import TrainingConfig

MUON_ITERATIONS = 5  # of Newton and Schulz, Jordan's number


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the rate of step 1, 2, ...: linear warm-up, then constant or a cosine down to zero (section 7.1)."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    total = config.schedule_steps or config.steps
    share = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the L2 norm of all gradients as one number, 0 when there are none.

    Gradients that are divided among processes are counted whole; then all must ask.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    divided = [gradient for gradient in gradients if hasattr(gradient, "full_tensor")]
    if not divided:
        return _norm(gradients) if gradients else torch.zeros(())
    norms = [_norm(divided).full_tensor()]
    if others := [gradient for gradient in gradients if not hasattr(gradient, "full_tensor")]:
        norms.append(_norm(others))
    return torch.linalg.vector_norm(torch.stack(norms))


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))


def average_over_ranks(parameters: list[nn.Parameter], run: Any) -> None:
    """Average gradients with one sum over all processes; a gradient that one of them lacks counts as zero.

    What all lack stays without: given zeros, an optimizer would count the step and decay the weight, which it does
    not in a run of one process.
    """
    complete = all(parameter.grad is not None for parameter in parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    owned = torch.tensor([float(p.grad is not None) for p in parameters]).to(gradients[0])
    flat = torch.cat([owned, *(gradient.reshape(-1) for gradient in gradients)])
    owners, *parts = (run.sum_over_ranks(flat) / run.world_size).split([len(owned), *(p.numel() for p in parameters)])
    known = [1.0] * len(owned) if complete else owners.tolist()  # who has all need not wait for the device
    for parameter, gradient, part, owner in zip(parameters, gradients, parts, known, strict=True):
        if owner:
            parameter.grad = gradient.copy_(part.view_as(gradient))


def copy_into(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put tensors into the parameters of their names."""
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[name])


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float | Tensor) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


class MovingAverage:
    """Exponential moving average of floating-point tensors, by name; integers are copied."""

    def __init__(self, decay: float, tensors: dict[str, Tensor]):
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            average = self.tensors[name]
            if average.is_floating_point():
                average.lerp_(tensor.to(average.dtype), 1 - self.decay)
            else:
                average.copy_(tensor)


def language_model_optimizers(model: nn.Module, blocks: nn.Module, training: LMTrainingConfig) -> dict[str, Optimizer]:
    """Return what moves a language model: AdamW, or Muon for the linear layers of its `blocks` and AdamW for the rest.

    Muon (Jordan et al., 2024) steps along the nearest orthogonal matrix to a gradient's average; scaled as by Liu et
    al. (2025), its steps are as large as AdamW's, times `muon_rate`, and so is its weight decay. `rate` of a group is
    what the loop multiplies the learning rate with. torch before 2.9 has no Muon: see `require_torch`.
    """
    if training.optimizer == "adamw":
        groups = parameter_groups(model, training.weight_decay)
        return {"model": AdamW(groups, lr=training.learning_rate, betas=training.betas)}
    matrices = block_matrices(blocks)
    groups = parameter_groups(model, training.weight_decay, without=matrices)
    muon = torch.optim.Muon([{"params": matrices, "rate": training.muon_rate}], lr=training.learning_rate,
                            weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw",
                            ns_steps=MUON_ITERATIONS)
    return {"rest": AdamW(groups, lr=training.learning_rate, betas=training.betas), "matrices": muon}


def block_matrices(blocks: nn.Module) -> list[nn.Parameter]:
    """Return what Muon moves: the weights of the linear layers."""
    return [module.weight for module in blocks.modules() if isinstance(module, nn.Linear)]


def parameter_groups(module: nn.Module, weight_decay: float, without: Iterable[nn.Parameter] = ()) -> list[dict]:
    """Decay matrices only: biases, norms and other vectors keep their scale."""
    left_out = {id(parameter) for parameter in without}
    trained = [p for p in module.parameters() if p.requires_grad and id(p) not in left_out]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
