"""A loaded codec made ready to encode and decode many recordings: what training alone needs is taken out."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from stages.codec.base import Codec
from stages.codec.encodec import SEANetAutoencoder


def for_inference(codec: Codec) -> Codec:
    """Change `codec` so that it computes the same faster, and return it.

    Codes are the same bit for bit, waveforms up to rounding. Its state is no longer what a checkpoint holds: take its
    fingerprint before. A codec that has been here is left as it is.
    """
    fold_weight_norm(codec)
    for module in codec.modules():
        if isinstance(module, SEANetAutoencoder):
            module.for_inference()
    return codec.requires_grad_(False)


def fold_weight_norm(module: nn.Module) -> None:
    """Replace every normalised weight inside by its value, which a forward pass then need not compute.

    torch's `remove_parametrizations` would break deep copies: a module shares its class with them, and it changes it.
    """
    for child in [child for child in module.modules() if _only_weight_is_parametrized(child)]:
        weight = child.weight.detach()
        del child.parametrizations
        child.__class__ = type(child).__bases__[0]
        child.weight = nn.Parameter(weight, requires_grad=False)


def _only_weight_is_parametrized(module: nn.Module) -> bool:
    """Another project's module may have more, which would be lost with it."""
    return parametrize.is_parametrized(module) and [*module.parametrizations] == ["weight"]
