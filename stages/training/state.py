"""A trainer's state as flat named tensors, and back: networks, optimizers, averages. No pickle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.errors import StorageError, UsageError
from stages.training.optim import MovingAverage

ROOM = 1.2  # checkpoints beside those that are kept: the next one being written, and what else a run writes


def flatten_state(networks: dict[str, nn.Module], optimizers: dict[str, Optimizer], average: MovingAverage | None,
                  order: dict[str, list[nn.Parameter]], copy: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return a copy of every tensor under a name that says where it belongs.

    `order` holds the parameters of every optimizer as `parameters_of` gave them before anything was divided.
    """
    flat = {}
    for name, network in networks.items():
        flat.update({f"network/{name}/{key}": copy(tensor) for key, tensor in network.state_dict().items()})
    for name, optimizer in optimizers.items():
        for index, parameter in enumerate(order[name]):
            flat.update({f"optimizer/{name}/{index}/{key}": copy(torch.as_tensor(value))
                         for key, value in optimizer.state.get(parameter, {}).items()})
    if average is not None:
        flat.update({f"average/{key}": copy(tensor) for key, tensor in average.tensors.items()})
    return flat


def checkpoint_bytes(networks: dict[str, nn.Module], average: MovingAverage | None) -> int:
    """Return how large a checkpoint gets at most: networks, the exported model, Adam's two moments (Muon has one)."""
    def total(tensors: Iterable[Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    moments = 2 * sum(total(p for p in network.parameters() if p.requires_grad) for network in networks.values())
    held = sum(total(network.state_dict().values()) for network in networks.values())
    return held + moments + total(networks["model"].state_dict().values()) + total(average.tensors.values() if average
                                                                                   else ())


def require_room(folder: Path, size: int, kept: int) -> None:
    """Raise `StorageError` when checkpoints of `size` bytes, `kept` of them, will not fit: better now than in days."""
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needed = max((ROOM + kept) * size - there, ROOM * size)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(f"expected {needed / 1e9:.3g} GB of free space in `{folder}` for checkpoints of "
                           f"{size / 1e9:.3g} GB, got {free / 1e9:.3g} GB",
                           "free some space, or choose another --out" + (
                               f", or -O training.keep_checkpoints=1 (now {kept})" if kept > 1 else ""))


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return all parameters, in the order in which `Optimizer.state_dict` counts them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def copy_to_cpu(tensor: Tensor) -> Tensor:
    """Copy there: beside the weights, gradients and averages of a large model a device has no room for a second set."""
    return tensor.detach().to("cpu", copy=True)


def restore_state(flat: dict[str, Tensor], networks: dict[str, nn.Module], optimizers: dict[str, Optimizer],
                  average: MovingAverage | None) -> None:
    """Load what `flatten_state` gave into the same objects."""
    for name, network in networks.items():
        _load_network(network, _below(flat, f"network/{name}/"), name)
    held = {key.partition("/")[0] for key in _below(flat, "optimizer/")}
    if held - optimizers.keys():
        raise UsageError(f"the checkpoint holds averages of other optimizers: `{'`, `'.join(sorted(held))}` instead of "
                         f"`{'`, `'.join(sorted(optimizers))}`",
                         "go on with the optimizer of the run, or start another run from its model with --init")
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _below(flat, f"optimizer/{name}/").items():
            index, _, field = key.partition("/")
            state.setdefault(int(index), {})[field] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    if average is not None:  # one that a run did not have before begins with the weights that it has now
        held = _below(flat, "average/") or dict(networks["model"].named_parameters())
        for key, tensor in average.tensors.items():
            tensor.copy_(held[key].detach())


def _load_network(network: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the checkpoint does not fit network `{name}`: {reason}",
                         "choose another --out for another architecture") from error


def _below(flat: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix):]: tensor for key, tensor in flat.items() if key.startswith(prefix)}
