"""Two processes of which one dies while the other waits for its part of a sum."""

from __future__ import annotations

import os

import torch

from halle_cli.console import Console
from stages.training.processes import Processes


def work() -> dict[str, float]:
    processes = Processes("cpu")
    processes.sum(torch.ones(()))
    if processes.rank == 1:
        os._exit(9)
    return {"sum": float(processes.sum(torch.ones(())))}


if __name__ == "__main__":
    Console().run(work)
