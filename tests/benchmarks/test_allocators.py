"""The comparison of allocators trains: what it prints is of real steps."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("resource")
import allocators


@pytest.mark.skipif(sys.platform != "linux", reason="units of the peak memory")
def test_a_process_trains_and_tells_its_time_and_memory() -> None:
    told = allocators.in_a_process(None, ["--steps=2", "--batch-tokens=100", "--dim=64"])
    assert told["seconds"] > 0 and 50 < told["megabytes"] < 10_000
