"""What a run tells on its way: rows of metrics.jsonl, the same to a tracker, and a page to look at."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.artifacts.run_dir import MetricsLog, Output
from stages.artifacts.samples import Sample
from stages.errors import HalleError
from stages.training.tracking import Tell, open_tracker

log = logging.getLogger("halle.training")

# Keeps a step's samples in a run folder and writes the folder's page.
Report = Callable[[Path, int, Sequence[Sample]], None]


class LossWindow:
    """Mean of every logged value since the last log; adding to it does not wait for the device."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.started = time.monotonic()

    def add(self, losses: dict[str, Any]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + torch.as_tensor(value, dtype=torch.float32)
            self.counts[name] = self.counts.get(name, 0) + 1

    def mean(self, run: Any) -> dict[str, float]:
        steps = max(self.counts.values(), default=1)
        means = torch.stack([total.to(run.device) / self.counts[name] for name, total in self.sums.items()])
        means = run.sum_over_ranks(means).cpu() / run.world_size
        values = dict(zip(self.sums, means.tolist(), strict=True))
        values["seconds_per_step"] = (time.monotonic() - self.started) / steps
        self._clear()
        return values


class Records:
    """The main process's side of a run that goes on after `step`."""

    def __init__(self, run_dir: Path, step: int, tell: Tell, report: Report | None):
        self._run_dir, self._step, self._tell, self._report = run_dir, step, tell, report
        self._metrics = MetricsLog(run_dir, step)

    def add(self, step: int, values: dict[str, float]) -> None:
        self._step = step
        self._metrics.add(step, values)
        self._tell(step, values)

    def report(self, samples: Sequence[Sample] = ()) -> None:
        """Write the page as of the last step told; one that cannot be written does not end the training."""
        if self._report is None:
            return
        try:
            self._report(self._run_dir, self._step, samples)
        except Exception as error:
            log.warning("the report of step %d could not be written: %s", self._step, error, exc_info=True)


@contextmanager
def open_records(output: Output, step: int, tracker: str, report: Report | None) -> Iterator[Records]:
    """Yield the records of a run that goes on after `step`. One that is stopped leaves a last page."""
    with open_tracker(tracker, output.path, step) as tell:
        records = Records(output.path, step, tell, report)
        try:
            yield records
        except HalleError:
            records.report()
            raise


def in_short(measures: dict[str, float]) -> str:
    """Return the measures of the whole model; those of its parts, `loss.level3`, are for metrics.jsonl."""
    return ", ".join(f"{name} {value:.4g}" for name, value in measures.items() if "." not in name)


def in_one_line(logged: dict[str, float]) -> str:
    """Return a few of the logged values, for a progress bar."""
    silent = ("learning_rate", "seconds_per_step", "tokens")
    shown = [f"{name} {value:.3g}" for name, value in logged.items()
             if "." not in name and name not in silent and math.isfinite(value)]
    return "  ".join(shown[:4])
