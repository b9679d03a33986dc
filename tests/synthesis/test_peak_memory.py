from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.synthesis.peak_memory import MemoryMeter

MEGABYTE = 1 << 20


def test_the_peak_is_what_was_held_at_the_highest_moment_and_not_at_the_end():
    meter = MemoryMeter()
    with meter.watch() as peak:
        held = np.ones(200 * MEGABYTE, dtype=np.uint8)
        assert held.sum() == 200 * MEGABYTE
        del held
    assert 190 * MEGABYTE < peak.num_bytes < 400 * MEGABYTE


def test_what_was_held_before_the_meter_was_made_does_not_count():
    held = np.ones(100 * MEGABYTE, dtype=np.uint8)
    with MemoryMeter().watch() as peak:
        assert held[-1] == 1
    assert peak.num_bytes < 50 * MEGABYTE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_peak_is_known_to_the_byte():
    before = torch.ones(MEGABYTE, dtype=torch.uint8, device="cuda")
    meter = MemoryMeter(torch.device("cuda"))
    weights = torch.ones(2 * MEGABYTE, dtype=torch.uint8, device="cuda")
    with meter.watch() as peak:
        del weights
        torch.ones(8 * MEGABYTE, dtype=torch.uint8, device="cuda")
    assert peak.num_bytes == 8 * MEGABYTE and len(before) == MEGABYTE
