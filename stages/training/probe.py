"""`--probe`: a few real steps, timed, of a run that keeps nothing."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from stages.artifacts.run_dir import Output
from stages.training.largest_batch import Measured, memory_told, try_largest_batch
from stages.training.loop import Run, _Trainer

STEPS = 5


def probe_steps(task: Any, run: Run, folder: str, audio_seconds: float, steps_left: int, steps: int = STEPS) -> dict:
    """Try the largest batch, then time `steps` of the last steps of the plan, in which everything takes part.

    `audio_seconds` are those that a step brings. `folder` is a temporary one.
    """
    trainer = _Trainer(task, run, Output(Path(folder), False), None)
    first = max(1, run.settings.steps - steps)
    with memory_told(task, run):
        run.begin_step(0)
        task.prepare(run)
        _forget_peak(run.device)
        tried = _timed(run.device, lambda: try_largest_batch(task, run))
        times = [_timed(run.device, lambda step=step: trainer._step(step)) for step in range(first, first + steps + 1)]
    seconds = statistics.median(times[1:])  # the first one compiles, allocates, and starts codebooks
    return {"largest_batch": task.largest_batch(run).size if isinstance(task, Measured) else None,
            "largest_batch_seconds": round(tried, 4), "steps": steps, "seconds_a_step": round(seconds, 4),
            "slowest_seconds": round(max(times[1:]), 4), "memory_gib": round(_peak(run.device), 3),
            "processes": run.world_size, "audio_hours_a_day": float(f"{audio_seconds / seconds * 24:.3g}"),
            "days_to_finish": float(f"{seconds * steps_left / 86_400:.3g}")}


def _timed(device: torch.device, work) -> float:
    _wait(device)
    begun = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float:
    """Return GiB: the most that tensors took on a GPU; on a CPU what the process takes after the steps."""
    taken = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return taken / 2**30
