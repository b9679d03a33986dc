"""What one training step takes, counted without doing it: bytes that live at the same time, and FLOPs.

A real step runs on fake tensors, which have shapes and no data, while every storage is counted from its making to its
end and every product by torch's own formulas. So activations, bf16 copies of weights, gradients, moments and averages
are in it; the device's context, the allocator's slack and the products of LSTMs are not. Attention is counted as the
fused kernels compute it: in memory linear in the length.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

MOMENTS = 2  # of Adam, for each parameter
NUMBER_BYTES = 4  # parameters, gradients, moments and averages are fp32
GIB = 2**30

# losses, one after the other, as a step back-propagates them
Losses = Callable[[], Iterator[Tensor]]


class Counter(TorchDispatchMode):
    """Count FLOPs, operations, the bytes of storages that are made within and still alive, and the most of these."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.flops, self.operations = 0.0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self.operations += 1
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class StepCost:
    """Of one micro-batch: `working` bytes at the peak of forward and backward, gradients made so far among them.

    It takes `flops` in so many `operations`. `parameters` are those of all networks that are trained, `averaged` of
    them also have a moving average, `by_muon` of them one moment instead of two, for `muon_flops` a step.
    """

    working: int
    flops: float
    operations: int
    parameters: int
    averaged: int = 0
    by_muon: int = 0
    muon_flops: float = 0.0

    @property
    def resident(self) -> int:
        """Bytes between steps: weights, moments and averages."""
        return NUMBER_BYTES * ((1 + MOMENTS) * self.parameters - self.by_muon + self.averaged)

    def peak(self, share: float = 1.0, accumulated: bool = False) -> int:
        """Return the bytes at the peak of a step on a share of the batch, in backward or as the optimizer steps.

        From the second micro-batch of a step on there are gradients from the beginning.
        """
        gradients = NUMBER_BYTES * self.parameters
        return self.resident + max(round(share * self.working) + gradients * accumulated, 2 * gradients)


def count_step(build: Callable[[], tuple[Sequence[nn.Module], Losses]], averaged: bool = False) -> StepCost:
    """Count a step of what `build` returns: the networks, and their losses.

    Networks that are built before become fake as they are used; large ones are better built in `build`, where they
    take no memory. The first of them is the one that is averaged.
    """
    _start_autograd()
    with FakeTensorMode(allow_non_fake_inputs=True), Counter() as counter:
        networks, losses = build()
        trained = [[p for p in network.parameters() if p.requires_grad] for network in networks]
        everything = [parameter for parameters in trained for parameter in parameters]
        before = counter.peak = counter.live
        counter.flops, counter.operations = 0.0, 0
        kept = [torch.autograd.grad(loss, everything, allow_unused=True) for loss in losses()]
        working = counter.peak - before
        del kept
    sizes = [sum(parameter.numel() for parameter in parameters) for parameters in trained]
    return StepCost(working, counter.flops, counter.operations, sum(sizes), sizes[0] if averaged else 0)


def _start_autograd() -> None:
    """Let autograd look for devices now: on a machine without CUDA, fake tensors pretend eight, and a process with a
    thread for each could not be forked."""
    torch.ones(1, requires_grad=True).sum().backward()
