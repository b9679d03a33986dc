"""The memory allocator of this process, and whether this machine has one with which training on a CPU is faster.

Batches of ever other lengths leave gaps of all sizes, and glibc's allocator looks through them anew whenever a matrix
product asks for working space: a fifth to a third of a step of a small model (tests/benchmarks/allocators.py).
"""

from __future__ import annotations

import os
from ctypes.util import find_library
from pathlib import Path

FASTER = ("jemalloc", "tcmalloc_minimal")


def allocator_in_use() -> str | None:
    """Return which of the faster ones was loaded before all else, None when it is the system's."""
    loaded = os.environ.get("LD_PRELOAD", "")
    return next((name for name in FASTER if name in loaded), None)


def faster_allocator() -> str | None:
    """Return the library of this machine that `LD_PRELOAD` takes, None when there is none."""
    return next((found for name in FASTER if (found := find_library(name))), None)


def describe_allocator() -> str:
    """Say in words what is in use, and what to do for a faster one."""
    if (name := allocator_in_use()) is not None:
        return name
    if not Path("/proc").is_dir():  # what was measured was measured on Linux
        return "the system's"
    library = faster_allocator()
    if library is None:
        return "the system's; training on a CPU is faster with jemalloc (on Debian: apt install libjemalloc2)"
    return f"the system's; training on a CPU is faster with LD_PRELOAD={library}"
