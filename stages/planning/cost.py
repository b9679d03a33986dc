"""The part of a trainer's plan that tells what the run will take: an estimate, and a probe when one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import TypeVar

from stages.config.stage_configs import RunConfig
from stages.planning.estimate import Workload, estimate, steps_left
from stages.training.loop import Run, Task
from stages.training.probe import probe_steps

Config = TypeVar("Config", bound=RunConfig)


def planned_cost(config: Config, work: Workload, make_task: Callable[[Config, Run], Task] | bool) -> dict:
    """Return the estimate; given `make_task`, of the settings and process of a run that keeps nothing, also a probe."""
    told = {"estimate": estimate(config, work)}
    if callable(make_task):
        with TemporaryDirectory() as folder:
            elsewhere = config.model_copy(update={"out": folder})
            process = Run(elsewhere)
            told["probe"] = probe_steps(make_task(elsewhere, process), process, folder, work.audio_seconds,
                                        steps_left(config))
    return told
