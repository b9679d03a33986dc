"""What lies at a path: artifacts are told apart by the files that only they hold.

    folder:  model.json  ->  model          config.json + model.safetensors  ->  checkpoint
             store.json  ->  token store    scores.json                      ->  evaluation
             manifest.jsonl  ->  manifest   config.json of a trainer         ->  run
    file:    .pt  ->  codec export          .json that says what it is, or one of the files above
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.artifacts.checkpoint import CONFIG_FILE, MODEL_FILE, resolve_checkpoint
from stages.artifacts.manifest import FILE_NAME
from stages.artifacts.storage import is_complete, read_json
from stages.artifacts.token_store import STORE_FILE
from stages.errors import HalleError, UsageError

MANIFEST, STORE, RUN, CHECKPOINT = "manifest", "token store", "run", "checkpoint"
MODEL, EXPORT, EVALUATION = "model", "codec export", "evaluation"
SPEECH, TOKENIZER, SEVERAL = "speech report", "text tokenizer", "folder of artifacts"
_STAGES = {"curate": MANIFEST, "synth": MANIFEST, "tokenize": STORE, "eval": EVALUATION, "train-codec": RUN,
           "mreq": RUN, "train-ar": RUN, "train-nar": RUN}
_MAIN_FILES = {"model.json": MODEL, STORE_FILE: STORE, "scores.json": EVALUATION, FILE_NAME: MANIFEST}
_HINT = ("give a manifest, token store, run, checkpoint, model or evaluation folder, a .pt export, the report of "
         "speech, a text_tokenizer.json, or a folder of such")


@dataclass(frozen=True)
class Artifact:
    """A path and what it is. `complete` tells that nothing is missing: what is not may be a run that goes on."""

    kind: str
    path: Path
    complete: bool


def recognise(path: str | Path) -> Artifact:
    """Tell what is at `path` (`RUN@step-N` is a checkpoint); raise `UsageError` when it is nothing of halle's."""
    place = Path(path)
    if not place.exists():
        if "@" in place.name:
            return Artifact(CHECKPOINT, resolve_checkpoint(path), True)
        raise UsageError(f"`{path}` does not exist", _HINT)
    found = _of_folder(place) if place.is_dir() else _of_file(place)
    if found is None and place.is_dir() and artifacts_in(place):
        found = Artifact(SEVERAL, place, True)
    if found is None:
        raise UsageError(f"expected an artifact of halle, got `{path}`, which is none that is known here", _HINT)
    return found


def artifacts_in(folder: Path) -> list[Artifact]:
    """Return what is recognised directly in a folder, by name. Parts of what is known already are not."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    found = (_of_folder(entry) if entry.is_dir() else _of_file(entry, loose=True) for entry in entries)
    return [artifact for artifact in found if artifact is not None]


def _of_folder(folder: Path) -> Artifact | None:
    if (folder / MODEL_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        return Artifact(CHECKPOINT, folder, is_complete(folder))
    for name, kind in _MAIN_FILES.items():
        if (folder / name).is_file():
            # anyone may write a manifest without checksums
            ours = kind != MANIFEST or (folder / CONFIG_FILE).is_file()
            return Artifact(kind, folder, is_complete(folder) or not ours)
    stage = _field(folder / CONFIG_FILE, "stage")
    return Artifact(_STAGES[stage], folder, is_complete(folder)) if stage in _STAGES else None


def _of_file(file: Path, loose: bool = False) -> Artifact | None:
    """Return what a file is, or the folder that it is the chief file of; of a `loose` one only the former."""
    if file.suffix == ".pt":
        return Artifact(EXPORT, file, True)
    if _field(file, "kind") == TOKENIZER:
        return Artifact(TOKENIZER, file, True)
    report = file.with_suffix(".json")
    if _field(report, "synthetic") is True and (not loose or file == report):
        return Artifact(SPEECH, report, True)
    chief = file.name in (*_MAIN_FILES, CONFIG_FILE, MODEL_FILE)
    return _of_folder(file.parent) if chief and not loose else None


def _field(file: Path, name: str) -> object:
    """Return a field of a JSON file; None when there is none."""
    if file.suffix != ".json" or not file.is_file():
        return None
    try:
        content = read_json(file)
    except HalleError:
        return None
    return content.get(name) if isinstance(content, dict) else None
