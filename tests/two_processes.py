"""Two training processes played one after the other in one."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.loop import Run, Task


class Process:
    """One of two processes. What `sum_over_ranks` gives was summed beforehand; without it, its own part is kept."""

    def __init__(self, run: Run, rank: int, totals: Tensor | None = None):
        self._run, self.rank, self.world_size, self.totals, self.part = run, rank, 2, totals, None

    def __getattr__(self, name: str):
        return getattr(self._run, name)

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        self.part = tensor
        return tensor if self.totals is None else self.totals


def check_two_processes(task: Task, run: Run) -> None:
    """Assert that the mean gradient of two processes is that of one on the same global batch."""
    model = task.networks["model"]
    logged = task.train_step(task.batch(1, 0, run), run)
    alone = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert any(gradient.any() for gradient in alone.values())
    pair = [Process(run, rank) for rank in range(2)]
    for process in pair:
        task.train_step(task.batch(1, 0, process), process)
    totals = pair[0].part + pair[1].part
    model.zero_grad()
    for rank in range(2):
        process = Process(run, rank, totals)
        again = task.train_step(task.batch(1, 0, process), process)
        assert all(torch.allclose(again[name], value, atol=1e-5) for name, value in logged.items())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad / 2, alone[name], atol=1e-5), name
