"""How fast machines are: peaks of data sheets, or of a product measured here, and the share that a step gets of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
import torch

# dense bf16 TFLOP/s of data sheets; the first name that the card's holds
PEAKS = {
    "B200": 2250, "H200": 989, "GH200": 989, "H100 NVL": 835, "H100 PCIe": 756, "H100": 989, "H800": 989,
    "A100": 312, "A800": 312, "L40S": 362, "L40": 181, "L4": 121, "RTX 6000 Ada": 364, "A10": 125,
    "RTX 5090": 210, "RTX 4090": 165, "RTX 4080": 97, "RTX 3090": 71,
}  # fmt: skip
# How many times slower products in full fp32 are: 15 of what has HBM (H100: 67 of 989, A100: 19.5 of 312)
_FP32_SLOWER = {"L40S": 4, "L40": 4, "L4": 4, "RTX 6000 Ada": 4, "A10": 4,
                "RTX 5090": 2, "RTX 4090": 2, "RTX 4080": 2, "RTX 3090": 2}  # fmt: skip
_FP32_SLOWER_OF_HBM = 15
# Of the peak that a step reaches. On GPUs assumed, not measured: products of language models a third, the codecs' small
# convolutions a fifth of that. On a CPU measured with one thread, `python tests/benchmarks/shares.py`: AR 0.68 at mini
# size and 0.53 at smoke size, codec 0.86 at the paper's, 0.56 at mini and 0.18 at smoke size.
SHARES = {("gpu", "lm"): 0.35, ("gpu", "codec"): 0.07, ("cpu", "lm"): 0.6, ("cpu", "codec"): 0.5}
_LAUNCH_SECONDS = 8e-6  # assumed: of an operation on a GPU, below which a step of small tensors cannot be
_MATRIX = 1024  # rows of the product that is timed
_H100_GIB = 80.0
_NODE_CARDS = 8
_LINK_GB = 450.0  # GB/s each way of a card within a node (NVLink 4), and below from node to node (400 Gbit/s)
_NETWORK_GB = 50.0


@dataclass(frozen=True)
class Machine:
    """`cards` that share a batch, each with `peak` FLOP/s and `memory_gib`. `kind` is cpu or gpu."""

    name: str
    kind: str
    peak: float
    memory_gib: float
    cards: int = 1

    def seconds(self, flops: float, operations: int, family: str, parameters: int) -> float:
        """Return the time of a step: its arithmetic, divided, or the launches of its operations on a GPU where these
        take longer, and the sum of fp32 gradients over the cards."""
        computing = flops / (self.cards * self.peak * SHARES[self.kind, family])
        if self.kind == "gpu":
            computing = max(computing, operations * _LAUNCH_SECONDS)
        if self.cards == 1:
            return computing
        link = (_LINK_GB if self.cards <= _NODE_CARDS else _NETWORK_GB) * 1e9
        return computing + 2 * (self.cards - 1) / self.cards * 4 * parameters / link  # a ring


def h100s(cards: int, precision: str) -> Machine:
    return Machine(f"{cards} x H100", "gpu", _peak("H100", precision), _H100_GIB, cards)


def _peak(card: str, precision: str) -> float:
    return PEAKS[card] * 1e12 / (1 if precision == "bf16" else _FP32_SLOWER.get(card, _FP32_SLOWER_OF_HBM))


def this_machine(device: torch.device, precision: str) -> Machine | None:
    """Return the machine that runs this, None for a card whose speed is not known here."""
    if device.type == "cpu":
        memory = psutil.virtual_memory().total / 2**30
        return Machine(f"this CPU, threads: {torch.get_num_threads()}", "cpu", product_flops(device, precision), memory)
    if device.type != "cuda":
        return None
    card = torch.cuda.get_device_properties(device)
    known = next((name for name in PEAKS if name in card.name), None)
    if known is None:
        return None
    return Machine(f"{card.name}, here", "gpu", _peak(known, precision), card.total_memory / 2**30)


def product_flops(device: torch.device, precision: str = "fp32", turns: int = 5) -> float:
    """Return the FLOP/s of a product of two square matrices, the fastest of some."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.ones(_MATRIX, _MATRIX, device=device, dtype=dtype)
    times = []
    for _ in range(turns):
        begun = time.perf_counter()
        left @ left
        times.append(time.perf_counter() - begun)
    return 2.0 * _MATRIX**3 / min(times)
