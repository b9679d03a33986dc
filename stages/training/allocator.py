"""The memory allocator of this process, and whether this machine has one with which training on a CPU is faster.

Batches of ever other lengths leave gaps of all sizes, and glibc's allocator looks through them anew whenever a matrix
product asks for working space. Of VALL-E's models in examples/mini that was 30 % of a step; how much here says
tests/benchmarks/allocators.py.
"""

from __future__ import annotations

from ctypes.util import find_library
from pathlib import Path

FASTER = ("jemalloc", "tcmalloc_minimal")
LOADED = Path("/proc/self/maps")


def allocator_in_use() -> str | None:
    """Return which of the faster ones this process has loaded, None when it has none of them, or nobody can tell."""
    loaded = LOADED.read_text(encoding="utf-8", errors="replace") if LOADED.is_file() else ""
    return next((name for name in FASTER if f"lib{name}" in loaded), None)


def faster_allocator() -> str | None:
    """Return the library of this machine that `LD_PRELOAD` takes, None when there is none."""
    return next((found for name in FASTER if (found := find_library(name))), None)


def describe_allocator() -> str:
    """Say in words what is in use, and what to do for a faster one."""
    if (name := allocator_in_use()) is not None:
        return name
    if not LOADED.is_file():  # what was measured was measured on Linux
        return "the system's"
    library = faster_allocator()
    if library is None:
        return "the system's; training on a CPU is faster with jemalloc (on Debian: apt install libjemalloc2)"
    return f"the system's; training on a CPU is faster with LD_PRELOAD={library}"
