"""A loaded language model made ready to speak: weights as the processor reads them fastest, steps as CUDA graphs.

A step of the AR model reads every weight once, and nothing else in it takes long: its time is that of the bytes.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.lm.ar import ARModel, Decoding, visible_columns

log = logging.getLogger("halle.synth")

Precision = Literal["fp32", "bf16", "int8"]
GRAPH_COLUMNS = 256  # a graph attends to a multiple of this many columns: a new one is captured every so often


def weight_dtype(precision: Precision) -> torch.dtype:
    """Return the type of the tensors that are not repacked."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def load_for_speaking(
    model: nn.Module, read: Callable[[str], Tensor], device: torch.device, precision: Precision
) -> nn.Module:
    """Load a model on the meta device so that it computes the same faster, and return it.

    `read` returns the tensor of a name. On a CPU linear layers are repacked for oneDNN, up to rounding the same, or
    replaced by 8-bit ones, whose inputs are rounded to 8 bits too: its state is no longer a checkpoint's. Each layer is
    replaced before the next is read, so that little more than the result is ever in memory. Raises `UsageError` for
    int8 elsewhere than on a CPU.
    """
    kind = _layer_kind(device.type, precision)
    for path, module in list(model.named_modules()):
        own = [name for name, tensor in module.state_dict().items() if "." not in name and tensor.is_meta]
        full = {name: f"{path}.{name}".lstrip(".") for name in own}
        tensors = {name: read(full[name]).to(device, weight_dtype(precision)) for name in own}
        module.load_state_dict(tensors, strict=False, assign=True)
        del tensors
        _replace(model, path, module, kind)
    _give_back_freed_memory()
    return model.requires_grad_(False).eval()


def _layer_kind(device: str, precision: Precision) -> type[nn.Module] | None:
    """Return what is to stand in the place of linear layers; None leaves them."""
    if precision == "int8" and device != "cpu":
        raise UsageError(f"8-bit weights are for a CPU, got device `{device}`", "-O precision=bf16")
    if precision == "int8":
        return Int8Linear
    return PackedLinear if device == "cpu" and can_pack(precision) else None


def _give_back_freed_memory() -> None:
    """Return to the system what glibc keeps in gaps, after loading the paper's AR model 450 MB."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries lack it
        if trim is not None:
            trim(0)


@torch.no_grad()
def _replace(model: nn.Module, path: str, module: nn.Module, kind: type[nn.Module] | None) -> None:
    if kind is None or type(module) is not nn.Linear:
        return
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, kind(module))
    module.weight = None  # whoever holds the layer still holds nothing large


def can_pack(precision: Precision) -> bool:
    """Whether this processor is of those for which packing was measured, and computes in that precision."""
    if "AVX" not in torch.backends.cpu.get_cpu_capability() or not torch.backends.mkldnn.is_available():
        return False
    return precision == "fp32" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in oneDNN's own blocks.

    Measured on one AMD core with AVX-512, at the paper's widths: matrix-vector products 1.1 to 1.5 times as fast as
    torch's own in float32 and 2 times in bfloat16, products with 300 rows 2.1 and 1.1 times.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.bias = linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class Int8Linear(nn.Module):
    """A linear layer of 8-bit weights, one scale for each output; its input is rounded to 8 bits as it comes."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        scales = (linear.weight.abs().amax(dim=1) / 127).clamp(min=1e-12)
        zeros = torch.zeros(len(scales), dtype=torch.long)
        weight = torch.quantize_per_channel(linear.weight.detach(), scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(weight, linear.bias)
        # without VNNI instructions sums of products of 8 bits overflow; inputs of 7 bits do not
        self.reduce_range = not torch.cpu._is_vnni_supported()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)


class GraphedSteps:
    """Do what `ARModel.advance` does by replaying CUDA graphs of `ARModel.step`.

    A step of 36 layers is some five hundred kernels, and starting each takes longer than running it. When a graph
    cannot be captured, steps are taken as they are.
    """

    def __init__(self, ar: ARModel, state: Decoding):
        self.ar, self.state = ar, state
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}  # by visible columns
        self.works = True
        self.column: Tensor | None = None  # where graphs read the codes

    def __call__(self, column: Tensor, state: Decoding) -> Tensor:
        if state is not self.state:
            raise ValueError("graphs are of one state: they read and write its tensors")
        visible = visible_columns(state.width + 1, state.cache.capacity, GRAPH_COLUMNS)
        self.column = column.clone() if self.column is None else self.column.copy_(column)
        if self.works and visible not in self.graphs:
            self._capture(visible)
        if not self.works:
            return self.ar.advance(column, state)
        graph, logits = self.graphs[visible]
        graph.replay()
        state.width += 1
        return logits.clone()

    def _capture(self, visible: int) -> None:
        """Record a graph and put the state's tensors back, which the step before it, to warm up, has changed."""
        tensors = self.state.column, self.state.steps, self.state.readable, self.state.places
        before = [tensor.clone() for tensor in tensors]
        try:
            self.graphs[visible] = self._record(visible)
        except RuntimeError as error:
            log.warning("steps are taken without CUDA graphs: %s", str(error).splitlines()[0])
            self.works = False
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(old)

    def _record(self, visible: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Return a graph of a step and where it leaves the logits; what is recorded is not run."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.ar.step(self.column, self.state, visible)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self.ar.step(self.column, self.state, visible)
        return graph, logits
