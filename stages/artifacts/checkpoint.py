"""Checkpoints: `model.safetensors` and `config.json` are all that another stage needs; no pickle.

A checkpoint folder of a run also holds `trainer_state/`, which only the trainer that wrote it reads.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.artifacts.model_folder import MODEL_FILE as DESCRIPTION
from stages.artifacts.model_hub import local_copy
from stages.artifacts.storage import (
    FORMAT_VERSION,
    is_complete,
    read_json,
    remove_folder,
    staged_folder,
    verify_checksums,
    write_json,
)
from stages.artifacts.tensors import CONFIG_FILE, MODEL_FILE, model_fingerprint, read_tensors
from stages.errors import StorageError, UsageError

log = logging.getLogger("halle.checkpoint")

TRAINER_STATE = "trainer_state"
CHECKPOINTS = "checkpoints"  # folder of a run
# kind of a checkpoint -> the stages that write it, for messages
STAGE_OF_KIND = {"codec": "halle train-codec or halle mreq", "ar": "halle train-ar", "nar": "halle train-nar"}


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: what it is (`kind`, `architecture`), its tensors and what it was made from."""

    folder: Path
    kind: str
    architecture: dict
    tensors: dict[str, Tensor]
    parents: dict
    fingerprint: str


def exported_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what another stage needs of a model: all but what its modules name in `training_only`."""
    left_out = _training_only(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}


def _training_only(model: nn.Module) -> set[str]:
    return {f"{path}.{name}".lstrip(".") for path, module in model.named_modules()
            for name in getattr(module, "training_only", ())}


def in_half_precision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with numbers rounded to float16; integers and booleans stay as they are.

    Raises UsageError for numbers beyond its range (65504), naming each tensor that holds some.
    """
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    beyond = [f"`{tensors[name].abs().max():.6g}` in `{name}`" for name, half in halves.items()
              if not half.isfinite().all()]
    if beyond:
        more = f" and {len(beyond) - 3} more tensors" if len(beyond) > 3 else ""
        raise UsageError(f"expected numbers that half precision can hold, at most 65504, got {', '.join(beyond[:3])}"
                         f"{more}", "ship it in full precision, without --half")
    return halves


def is_in_half_precision(tensors: dict[str, Tensor]) -> bool:
    """Tell whether rounding to float16 would change no number."""
    return all(torch.equal(tensor, tensor.half().to(tensor.dtype)) for tensor in tensors.values()
               if tensor.is_floating_point())


def save_checkpoint(folder: str | Path, kind: str, architecture: dict, tensors: dict[str, Tensor], parents: dict,
                    trainer_state: tuple[dict[str, Tensor], dict] | None = None) -> str:
    """Write a checkpoint folder in one rename and return its fingerprint.

    `trainer_state` is (tensors, JSON-ready values) that only the trainer reads again.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    fingerprint = model_fingerprint(architecture, tensors)
    with staged_folder(folder) as temporary:
        _write_tensors(temporary / MODEL_FILE, tensors)
        write_json(temporary / CONFIG_FILE, {
            "format_version": FORMAT_VERSION, "kind": kind, "fingerprint": fingerprint,
            "architecture": architecture, "parents": parents,
        })
        if trainer_state is not None:
            (temporary / TRAINER_STATE).mkdir()
            state_tensors, values = trainer_state
            _write_tensors(temporary / TRAINER_STATE / "state.safetensors",
                           {name: tensor.detach().cpu().contiguous() for name, tensor in state_tensors.items()})
            write_json(temporary / TRAINER_STATE / "state.json", values)
    return fingerprint


def _write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors with the permissions of any other file, raising the system's errors as any other writer.

    The library's own files are for their owner alone, and its errors hold the system's number in words only.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(tensors, file)
    except safetensors.SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else 0
        raise OSError(number, os.strerror(number) if found else str(error)) from error
    file.chmod(mode)


def load_checkpoint(path: str | Path, kind: str | None = None) -> Checkpoint:
    """Load what `describe_checkpoint` finds at `path`, verifying every file; refuse another kind than asked for."""
    folder, config = describe_checkpoint(path, kind)
    verify_checksums(folder)
    return Checkpoint(folder, config["kind"], config["architecture"], read_tensors(folder / MODEL_FILE),
                      config["parents"], config["fingerprint"])


def describe_checkpoint(path: str | Path, kind: str | None = None) -> tuple[Path, dict]:
    """Return the folder that `resolve_checkpoint` finds and its `config.json`, without its tensors.

    Asked for a kind, a model folder gives its part of that kind, and another kind is refused.
    """
    folder = resolve_checkpoint(path if kind is None else part_of_model(path, kind))
    config = read_json(folder / CONFIG_FILE)
    if kind is not None and config.get("kind") != kind:
        made_by = STAGE_OF_KIND.get(config.get("kind"), "another program")
        raise UsageError(f"expected a checkpoint of {STAGE_OF_KIND[kind]}, got `{path}`, which {made_by} made",
                         "give the run folder of that stage")
    return folder, config


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Put the tensors of a checkpoint into a model; raise `StorageError` with the first that do not fit."""
    own = module.state_dict()
    problems = [f"`{name}` is missing" for name in own.keys() - tensors.keys() if name not in _training_only(module)]
    problems += [f"`{name}` is not of this model" for name in tensors.keys() - own.keys()]
    problems += [f"`{name}` should be {tuple(own[name].shape)}, is {tuple(tensor.shape)}"
                 for name, tensor in tensors.items() if name in own and own[name].shape != tensor.shape]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        told = "; ".join(sorted(problems)[:5]) + more
        raise StorageError(f"the tensors in `{path}` do not fit its architecture: {told}",
                           "make it again with the stage that wrote it")
    module.load_state_dict(tensors)


def load_trainer_state(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """Return what was given to `save_checkpoint` as `trainer_state`."""
    state = folder / TRAINER_STATE
    return read_tensors(state / "state.safetensors"), read_json(state / "state.json")


def part_of_model(path: str | Path, kind: str) -> Path:
    """Return the part of a model folder, or of a model of the hub, that is of a kind; else the path as it is."""
    folder = local_copy(path)
    return folder / kind if (folder / DESCRIPTION).is_file() else folder


def resolve_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint folder that a path stands for.

    A checkpoint folder stands for itself, a run folder for its newest verified checkpoint, and
    `RUN@step-50000` for that step of the run.
    """
    text = str(path)
    match = re.fullmatch(r"(.+)@(?:step-)?(\d+)", text)
    if match and not Path(text).exists():
        return _checkpoint_at(Path(match[1]), int(match[2]))
    folder = Path(text)
    if (folder / MODEL_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        return folder
    newest = newest_checkpoint(folder)
    if newest is None:
        raise UsageError(f"expected a run or checkpoint folder, got `{path}`" +
                         ("" if folder.exists() else ", which does not exist"),
                         "give a run folder, RUN@step-N, or a folder with config.json and model.safetensors")
    return newest


def _checkpoint_at(run: Path, step: int) -> Path:
    for found, folder in list_checkpoints(run):
        if found == step:
            return folder
    steps = ", ".join(str(found) for found, _ in list_checkpoints(run)) or "none"
    raise UsageError(f"`{run}` has no checkpoint of step {step}; it has: {steps}")


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of every complete checkpoint of a run, oldest first."""
    found = []
    for folder in (run / CHECKPOINTS).glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", folder.name)
        if match and is_complete(folder):
            found.append((int(match[1]), folder))
    return sorted(found)


def prune_checkpoints(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of a run."""
    for _, folder in list_checkpoints(run)[:-keep]:
        remove_folder(folder)


def _tell_unfinished(run: Path, used: Path) -> None:
    """Warn of newer checkpoints without checksums: copied in part, or written by something else."""
    for folder in sorted((run / CHECKPOINTS).glob("step-*")):
        if folder.name > used.name and not is_complete(folder):
            log.warning("unfinished checkpoint `%s` ignored; using `%s`", folder.name, used.name)


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint whose files verify, warning about each damaged one that is passed over.

    Returns None for a run that has none yet; raises `StorageError` when all it has are damaged.
    """
    damaged = []
    for _, folder in reversed(list_checkpoints(run)):
        try:
            verify_checksums(folder)
        except StorageError as error:
            damaged.append(error.message)
            continue
        for message in damaged:
            log.warning("%s; using the checkpoint before it", message)
        _tell_unfinished(run, folder)
        return folder
    if damaged:
        raise StorageError(f"no checkpoint of `{run}` is whole: {'; '.join(damaged)}",
                           "restore one from a copy, or train again with --restart")
    return None
