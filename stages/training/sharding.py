"""A model divided among processes (FSDP2): each keeps a part of every block's weights, gradients and averages.

A block's weights are brought together while it computes and divided again. What lies outside the blocks (embeddings,
heads) is small, stays whole everywhere, and its gradients are averaged as without sharding. On disk nothing tells that
a run was divided: checkpoints are gathered, tensor by tensor, into the same files, and may be continued undivided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from stages.training.optim import MovingAverage
from stages.training.state import copy_to_cpu


class ShardedModel:
    """Divide `blocks` of `model` among `world_size` processes, and with them what optimizers and the average know.

    All processes hold the same before; whatever a method does, all do together.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], optimizers: Sequence[Optimizer],
                 average: MovingAverage | None, device: torch.device, world_size: int):
        self._blocks = list(blocks)
        names = {parameter: name for name, parameter in model.named_parameters()}
        mesh = init_device_mesh(device.type, (world_size,))
        for block in self._blocks:
            fully_shard(block, mesh=mesh)
        parameters = dict(model.named_parameters())
        self._new = {old: parameters[name] for old, name in names.items()}
        for optimizer in optimizers:
            _replace(optimizer, self._new)
        if average is not None:
            average.tensors = {name: _like(tensor, parameters[name]) for name, tensor in average.tensors.items()}

    def pass_on(self, known: dict[str, list[nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
        """Return lists of parameters with what has become of each, and let go of the undivided ones."""
        new, self._new = self._new, {}
        return {name: [new.get(parameter, parameter) for parameter in parameters]
                for name, parameters in known.items()}

    @staticmethod
    def undivided(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Return those of the parameters that every process holds whole."""
        return [parameter for parameter in parameters if not isinstance(parameter, DTensor)]

    @staticmethod
    def copier(keeps: bool) -> Callable[[Tensor], Tensor]:
        """Return how tensors are copied to the CPU: whole, and only where they are kept; all must call it alike."""
        def copy(tensor: Tensor) -> Tensor:
            tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            return copy_to_cpu(tensor) if keeps else torch.empty(0)

        return copy

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Bring all weights together while the body runs: then one process may compute alone, such as speak."""
        try:
            for block in self._fsdp():
                block.set_reshard_after_forward(False)
                block.unshard()
            yield
        finally:
            for block in self._fsdp():
                block.reshard()
                block.set_reshard_after_forward(True)

    def _fsdp(self) -> Iterator[FSDPModule]:
        return (block for block in self._blocks if isinstance(block, FSDPModule))


def _replace(optimizer: Optimizer, new: dict[nn.Parameter, nn.Parameter]) -> None:
    """Let an optimizer go on with the divided parameters; those that are whole get a group beside them.

    Its kernels take many tensors at once, all divided or all whole.
    """
    groups = []
    for group in optimizer.param_groups:
        parameters = [new.get(parameter, parameter) for parameter in group["params"]]
        parts = ([p for p in parameters if isinstance(p, DTensor) == wanted] for wanted in (True, False))
        groups += [{**group, "params": part} for part in parts if part]
    optimizer.param_groups = groups
    for old in [parameter for parameter in optimizer.state if parameter in new]:
        values = optimizer.state.pop(old)
        optimizer.state[new[old]] = {name: _like(value, new[old]) for name, value in values.items()}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Divide a value as its parameter is, if it is one of as many numbers."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
