"""The folder of a run: its settings, its provenance, its metrics, its log and its checkpoints.

`claim_output` is how every stage opens its output: it refuses another stage's folder and changed identity
fields, says whether the work is finished, and records the settings and parents beside the result.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.artifacts.lock import lock_output, refuse_locked
from stages.artifacts.storage import (
    CHECKSUMS,
    FORMAT_VERSION,
    append_jsonl,
    is_complete,
    read_journal,
    read_json,
    storage_errors,
    sweep_temporaries,
    write_checksums,
    write_json,
    write_jsonl,
)
from stages.config.resolve import did_you_mean, flatten, identity_differences
from stages.config.stage_configs import RunConfig
from stages.errors import UsageError

log = logging.getLogger("halle.output")

CONFIG = "config.json"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
LOG = "log.txt"
UNMIXED = ("tokenize",)  # stages whose result cannot be of two settings: --allow-change does not apply
_PACKAGES = ("halle", "torch", "torchaudio", "encodec", "numpy", "soundfile", "soxr", "tokenizers", "safetensors")


@dataclass
class Output:
    """A claimed output folder. `complete` tells that an earlier run of the same settings finished it.

    `record` writes the settings of this run beside the result.
    """

    path: Path
    complete: bool
    record: Callable[[], None] = lambda: None

    def reopen(self) -> None:
        """Take the completeness mark away and record the settings: the result is about to change."""
        (self.path / CHECKSUMS).unlink(missing_ok=True)
        self.complete = False
        self.record()

    def finish(self, exclude: tuple[str, ...] = ()) -> None:
        """Write the checksums: the folder is complete from now on."""
        write_checksums(self.path, exclude=(LOG, ".lock", *exclude))


@contextmanager
def claim_output(stage: str, config: RunConfig, parents: dict[str, str]) -> Iterator[Output]:
    """Lock `config.out` and yield it, its settings checked against what is there.

    They are recorded unless the folder is complete: a finished result keeps the settings that made it, and its
    checksums stay true, until `Output.reopen`. `parents` maps names of inputs to fingerprints; they are identity too.
    """
    path = Path(config.out)
    check_output(stage, config, parents)
    if config.restart:
        refuse_locked(path)
        move_aside(path)
    with lock_output(path), _log_file(path / LOG):
        sweep_temporaries(path, deep=not is_complete(path))
        output = Output(path, is_complete(path), partial(_record, path, stage, config, parents))
        if not output.complete:
            output.record()
        yield output
        if output.complete:
            log.info("`%s` is finished: nothing was done", path)


def check_output(stage: str, config: RunConfig, parents: dict[str, str]) -> None:
    """Refuse an output folder that another stage made or, unless it is moved aside, other settings or inputs."""
    path = Path(config.out)
    _refuse_unknown_fields(config, parents)
    if path.exists() and not path.is_dir():
        raise UsageError(f"expected a folder after --out, got the file `{path}`", "choose another --out")
    if not (path / CONFIG).is_file():
        _refuse_foreign(path)
        return
    old = read_json(path / CONFIG)
    if old.get("stage") != stage:
        made_by = f"`halle {old['stage']}`" if "stage" in old else "another program"
        raise UsageError(f"`{path}` was made by {made_by}, not by `halle {stage}`", "choose another --out")
    if config.restart:
        return
    differences = identity_differences(old["config"], config)
    for name, fingerprint in parents.items():
        if old["parents"].get(name, fingerprint) != fingerprint:
            differences[name] = (_short(old["parents"][name]), _short(fingerprint))
    differences = {key: values for key, values in differences.items() if key not in config.allow_change}
    if differences:
        shown = "; ".join(f"`{key}` was `{_told(was)}`, is `{_told(now)}`" for key, (was, now) in differences.items())
        allow = " ".join(f"--allow-change {key}" for key in differences)
        restart = "--restart (the old result is moved aside)"
        raise UsageError(f"`{path}` was begun with other settings: {shown}",
                         f"choose another --out, or {restart}" if stage in UNMIXED else
                         f"choose another --out, {restart}, or {allow}")


def _refuse_unknown_fields(config: RunConfig, parents: dict[str, str]) -> None:
    known = [*flatten(config), *parents]
    unknown = [f"`{key}`{did_you_mean(key, known)}" for key in config.allow_change if key not in known]
    if unknown:
        raise UsageError(f"expected settings of this stage after --allow-change, got {', '.join(unknown)}",
                         "--dry-run prints every setting")


def _refuse_foreign(path: Path) -> None:
    # A run killed before it recorded its settings leaves an empty log behind.
    if path.is_dir() and any(not file.name.startswith(".") and file.name != LOG for file in path.iterdir()):
        raise UsageError(f"`{path}` is not empty and no halle stage made it", "choose another --out")


def _told(value: Any) -> str:
    """Return a setting on one line: `stride=6 pre=1 quant=6 post=1, stride=1 ..` for blocks."""
    if isinstance(value, dict):
        return " ".join(f"{key}={_told(item)}" for key, item in value.items())
    return ", ".join(map(_told, value)) if isinstance(value, (list, tuple)) else str(value)


def _short(fingerprint: str) -> str:
    return fingerprint[:12]


def move_aside(path: Path) -> None:
    """Rename an old result to `NAME.old-1`, `NAME.old-2`, ... so that nothing is lost."""
    if not path.exists():
        return
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    with storage_errors(path, "move aside"):
        path.rename(target)


def _record(path: Path, stage: str, config: RunConfig, parents: dict[str, str]) -> None:
    write_json(path / CONFIG, {"format_version": FORMAT_VERSION, "stage": stage, "config": flatten(config),
                               "parents": parents})
    write_json(path / PROVENANCE, {"format_version": FORMAT_VERSION, "stage": stage, "parents": parents,
                                   "started": datetime.now(UTC).isoformat(timespec="seconds"),
                                   "command": sys.argv, **versions()})


def versions() -> dict:
    """Return the versions of Python, the platform and the packages that results depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "platform": platform.platform(), "packages": found}


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Append what the stages log to the run's own log while the body runs."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("halle")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


class MetricsLog:
    """`metrics.jsonl`: one row a logged step. Rows after the step that a run resumes from are dropped."""

    def __init__(self, path: Path, resumed_step: int):
        self._path = path / METRICS
        rows = read_journal(self._path)
        kept = [row for row in rows if row["step"] <= resumed_step]
        if len(kept) != len(rows):
            write_jsonl(self._path, kept)

    def add(self, step: int, values: dict[str, float]) -> None:
        append_jsonl(self._path, {"step": step, **{key: _json_number(value) for key, value in values.items()}})


def _json_number(value: float) -> float | None:
    """JSON has no NaN; six significant digits are enough for a curve."""
    value = float(value)
    return json.loads(f"{value:.6g}") if math.isfinite(value) else None
