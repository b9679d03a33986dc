"""What must hold of a checkpoint, and of the run that it is of, beyond checksums."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from stages.artifacts.checkpoint import (
    CONFIG_FILE,
    MODEL_FILE,
    STAGE_OF_KIND,
    TRAINER_STATE,
    Checkpoint,
    load_trainer_state,
    model_fingerprint,
    read_tensors,
)
from stages.artifacts.findings import Findings
from stages.artifacts.run_dir import METRICS, PROVENANCE
from stages.artifacts.storage import is_complete, read_journal, read_json, verify_checksums


def check_checkpoint(folder: Path, findings: Findings) -> Checkpoint | None:
    """Note every problem of a checkpoint folder and return what it holds, None when that cannot be read."""
    if is_complete(folder):
        check_sums(folder, findings)
    else:
        findings.damaged(f"`{folder}` is not finished: it has no checksums")
    found = None
    with findings.noting():
        config, tensors = read_json(folder / CONFIG_FILE), read_tensors(folder / MODEL_FILE)
        found = Checkpoint(folder, config["kind"], config["architecture"], tensors, config["parents"],
                           config["fingerprint"])
        if found.kind not in STAGE_OF_KIND:
            findings.damaged(f"`{folder / CONFIG_FILE}`: expected a kind of {', '.join(STAGE_OF_KIND)}, "
                             f"got `{found.kind}`")
        check_finite(folder / MODEL_FILE, tensors, findings)
        if model_fingerprint(found.architecture, tensors) != found.fingerprint:
            findings.damaged(f"`{folder}`: its fingerprint is not that of its tensors and architecture")
    if (folder / TRAINER_STATE).is_dir():
        with findings.noting():
            _check_trainer_state(folder, findings)
    findings.count("checkpoints")
    return found


def check_sums(folder: Path, findings: Findings) -> None:
    """Read every file of a finished folder again."""
    with findings.noting():
        verify_checksums(folder)


def check_finite(file: Path, tensors: dict[str, Tensor], findings: Findings) -> None:
    """Note every tensor that holds a NaN or an infinity."""
    for name, tensor in tensors.items():
        findings.count("numbers", tensor.numel())
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            findings.damaged(f"`{file}`: {int((~finite).sum())} of {tensor.numel()} numbers of `{name}` are not finite")


def _check_trainer_state(folder: Path, findings: Findings) -> None:
    tensors, values = load_trainer_state(folder)
    check_finite(folder / TRAINER_STATE / "state.safetensors", tensors, findings)
    if folder.name.startswith("step-") and int(folder.name.removeprefix("step-")) != values["step"]:
        findings.damaged(f"`{folder}`: its trainer state is of step {values['step']}")


def check_records(run: Path, findings: Findings) -> None:
    """Check a run's provenance and metrics: rows of rising steps whose values are finite numbers or missing."""
    with findings.noting():
        read_json(run / PROVENANCE)
    with findings.noting():
        last = 0
        for number, row in enumerate(read_journal(run / METRICS, mend=False), start=1):
            step = row["step"]
            if step < last:
                findings.damaged(f"`{run / METRICS}`: line {number} is of step {step}, after one of step {last}")
            last = max(last, step)
            findings.count("metrics")
            strange = [name for name, value in row.items() if value is not None and not _is_number(value)]
            if strange:
                findings.damaged(f"`{run / METRICS}`: line {number} has no number in {', '.join(strange)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
