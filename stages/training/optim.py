"""Learning-rate schedules and gradient arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stages.config.stage_configs import TrainingConfig


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
    """Return the L2 norm of all gradients as one number, 0 when there are none."""
    norms = [torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


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


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Decay matrices only: biases, norms and other vectors keep their scale."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
