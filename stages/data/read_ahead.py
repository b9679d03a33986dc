"""Crops read by threads while the model computes: a batch is a pure function of its number, so none is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stages.config.stage_configs import CodecTrainingConfig
from stages.data.waveforms import WaveformCrops, own_items

MOST_THREADS = 16
BATCHES_AHEAD = 2

Place = tuple[int, int]  # step, micro-batch


class CropReader:
    """Give the micro-batches of a run, [items, 1, crop_samples] each, and read the next ones meanwhile.

    `items(micro, rank, world_size)` are the indices that a process takes of a micro-batch. Decoding leaves Python's
    lock, so threads do. An error of a crop is raised when its batch is asked for.
    """

    def __init__(self, crops: WaveformCrops, items: Callable[[int, int, int], range], accumulation: int,
                 workers: int = 0, rank: int = 0, world_size: int = 1):  # fmt: skip
        self._crops, self._items, self._accumulation = crops, items, accumulation
        self._rank, self._world_size = rank, world_size
        self._pool = ThreadPoolExecutor(workers or min(MOST_THREADS, os.cpu_count() or 1), "crops")
        self._pending: dict[Place, list[Future[np.ndarray]]] = {}

    @classmethod
    def of_run(cls, crops: WaveformCrops, training: CodecTrainingConfig, rank: int, world_size: int) -> CropReader:
        """Return the reader of one process of a training run."""
        items = partial(own_items, training.batch_size, training.accumulation)
        return cls(crops, items, training.accumulation, training.workers, rank, world_size)

    def batch(self, step: int, micro: int) -> Tensor:
        """Return one micro-batch, float32 [items, 1, crop_samples]."""
        places = [(step, micro)]
        while len(places) <= BATCHES_AHEAD:
            places.append(self._after(places[-1]))
        self._pending = {place: self._pending.get(place) or self._submit(place) for place in places}
        found = [future.result() for future in self._pending.pop(places[0])]
        return torch.from_numpy(np.stack(found)).unsqueeze(1)

    def items(self, micro: int) -> range:
        """Return which crops of a step are this process's in a micro-batch."""
        return self._items(micro, self._rank, self._world_size)

    def utterances(self, step: int, micro: int, rank: int, world_size: int) -> list[str]:
        """Return the ids of what a process takes of a micro-batch that was read."""
        return [self._crops.drawn(step, index) for index in self._items(micro, rank, world_size)]

    def _after(self, place: Place) -> Place:
        step, micro = place
        return (step, micro + 1) if micro + 1 < self._accumulation else (step + 1, 0)

    def _submit(self, place: Place) -> list[Future[np.ndarray]]:
        step, micro = place
        return [self._pool.submit(self._crops.crop, step, index) for index in self.items(micro)]
