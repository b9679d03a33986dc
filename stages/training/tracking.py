"""`--tracker`: the rows of metrics.jsonl to TensorBoard, W&B or MLflow too, through Accelerate.

What they write lies in `RUN/tracker`, where a continued run goes on. Only the main process comes here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stages.artifacts.run_dir import CONFIG
from stages.artifacts.storage import read_json, write_json
from stages.errors import MissingModelError, UsageError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

log = logging.getLogger("halle.training")

TRACKER = "tracker"  # folder in a run
PROJECT = "halle"
Tell = Callable[[int, dict[str, float]], None]


def require_tracker(name: str) -> None:
    """Raise `MissingModelError` unless the package of a tracker is installed."""
    if name != "none" and find_spec(name) is None:
        raise MissingModelError(f"expected the package `{name}` for --tracker {name}, it is not installed",
                                f"pip install 'halle[{name}]'")


@contextmanager
def open_tracker(name: str, run_dir: Path, step: int) -> Iterator[Tell]:
    """Yield a function that tells the tracker a step's values, going on after `step`; it closes with the body."""
    if name == "none":
        yield lambda step, values: None
        return
    tracker = _start(name, run_dir / TRACKER, step)
    try:
        yield partial(_tell, tracker)
    finally:
        tracker.finish()


def _start(name: str, folder: Path, step: int) -> GeneralTracker:
    """Begin a tracker's run or take it up again: its id is kept in the folder."""
    require_tracker(name)
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / f"{name}.json"
    run_id = read_json(known)["run_id"] if known.is_file() else None
    try:
        tracker, given_id = _STARTERS[name](folder, run_id, step)
    except Exception as error:  # each tracker has its own; most are about a login or a server
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"the tracker `{name}` did not start: {reason}",
                         "mend that, or leave --tracker out") from error
    if not known.is_file():
        settings = read_json(folder.parent / CONFIG)["config"]
        tracker.store_init_configuration({key: str(value) for key, value in settings.items()})
        write_json(known, {"run_id": given_id})
    return tracker


def _start_tensorboard(folder: Path, run_id: str | None, step: int) -> tuple[GeneralTracker, str | None]:
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker(folder.name, folder.parent, purge_step=step + 1)  # hides what a killed run told after
    tracker.start()
    return tracker, run_id


def _start_wandb(folder: Path, run_id: str | None, step: int) -> tuple[GeneralTracker, str | None]:
    from accelerate.tracking import WandBTracker

    tracker = WandBTracker(PROJECT, name=folder.parent.name, dir=folder, id=run_id, resume="allow")
    tracker.start()
    return tracker, tracker.run.id


def _start_mlflow(folder: Path, run_id: str | None, step: int) -> tuple[GeneralTracker, str | None]:
    import mlflow
    from accelerate.tracking import MLflowTracker

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve().as_posix()}")
    tracker = MLflowTracker(PROJECT, run_name=folder.parent.name, run_id=run_id)
    tracker.start()
    return tracker, tracker.active_run.info.run_id


_STARTERS = {"tensorboard": _start_tensorboard, "wandb": _start_wandb, "mlflow": _start_mlflow}


def _tell(tracker: GeneralTracker, step: int, values: dict[str, float]) -> None:
    """Log values under names that trackers group by a slash; a server that is away does not end the training."""
    try:
        tracker.log({name.replace(".", "/", 1): float(value) for name, value in values.items()}, step=step)
    except Exception as error:
        log.warning("the tracker `%s` did not take step %d: %s", tracker.name, step, error)
