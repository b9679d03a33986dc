"""How much memory speaking takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

_INTERVAL = 0.005  # seconds between looks at the process


@dataclass
class Peak:
    """The most bytes while something was watched; 0 until then."""

    num_bytes: int = 0


class MemoryMeter:
    """Watch how much memory is taken on `device` beyond what was when the meter was made, such as before a model.

    On a GPU that is what torch has allocated there, to the byte. On a CPU it is the process's resident memory, looked
    at every 5 ms; what the allocator keeps for later counts, so a short text after a long one seems to need as much.
    """

    def __init__(self, device: torch.device | None = None):
        self._device = device or torch.device("cpu")
        self._before = torch.cuda.memory_allocated(self._device) if self._on_gpu else _resident()

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    @contextmanager
    def watch(self) -> Iterator[Peak]:
        """Yield a peak that is known when the body is done."""
        peak = Peak()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
            yield peak
            highest = torch.cuda.max_memory_allocated(self._device)
        else:
            with _watched_process() as seen:
                yield peak
            highest = max(seen)
        peak.num_bytes = max(0, highest - self._before)


@contextmanager
def _watched_process() -> Iterator[list[int]]:
    """Yield what the process held: one value now, the highest of meanwhile, and one at the end."""
    seen, done = [_resident(), 0], threading.Event()

    def look() -> None:
        while not done.wait(_INTERVAL):
            seen[1] = max(seen[1], _resident())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield seen
    finally:
        done.set()
        looking.join()
        seen.append(_resident())


def _resident() -> int:
    return psutil.Process().memory_info().rss
