from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from stages.data.read_ahead import CropReader
from stages.errors import BadInputsError


class Crops:
    """Crops whose samples say which they are; they finish in any order."""

    def __init__(self, bad: tuple[int, int] | None = None):
        self.bad = bad
        self.threads: set[str] = set()

    def crop(self, step: int, index: int) -> np.ndarray:
        if (step, index) == self.bad:
            raise BadInputsError("cannot be read")
        self.threads.add(threading.current_thread().name)
        time.sleep(0.002 * (index % 3))
        return np.full(4, step * 100 + index, dtype=np.float32)


def reader(crops: Crops, accumulation: int = 2) -> CropReader:
    return CropReader(crops, lambda micro, rank, world_size: range(micro * 5, micro * 5 + 5), accumulation, workers=3)


def test_batches_are_those_of_their_numbers_whatever_the_order_of_reading() -> None:
    ours = reader(Crops())
    for step in (1, 2, 3):
        for micro in (0, 1):
            batch = ours.batch(step, micro)
            assert batch.shape == (5, 1, 4)
            assert batch[:, 0, 0].tolist() == [step * 100 + micro * 5 + index for index in range(5)]


def test_a_jump_to_another_step_reads_that_step() -> None:
    ours = reader(Crops())
    ours.batch(1, 0)
    assert torch.equal(ours.batch(7, 1), reader(Crops()).batch(7, 1))
    assert len(ours._pending) == 2  # what was read for the steps in between is forgotten


def test_crops_are_read_by_threads() -> None:
    crops = Crops()
    reader(crops).batch(1, 0)
    assert threading.current_thread().name not in crops.threads


def test_an_error_is_raised_with_the_batch_it_belongs_to() -> None:
    ours = reader(Crops(bad=(2, 1)))
    ours.batch(1, 0)
    ours.batch(1, 1)
    with pytest.raises(BadInputsError, match="cannot be read"):
        ours.batch(2, 0)
