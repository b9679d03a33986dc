"""A model folder: codec, AR and NAR that belong together, described by `model.json`. What it holds, and whether it is
whole."""

from __future__ import annotations

from pathlib import Path

from stages.artifacts.storage import CHECKSUMS, read_json, verify_checksums
from stages.artifacts.tensors import CONFIG_FILE, model_fingerprint, read_tensors
from stages.artifacts.tensors import MODEL_FILE as TENSORS_FILE
from stages.errors import StorageError, UsageError

MODEL_FILE = "model.json"
PARTS = ("codec", "ar", "nar")
LISTED_FILES = (MODEL_FILE, *(f"{part}/{name}" for part in PARTS for name in (CONFIG_FILE, TENSORS_FILE)))
MODEL_FILES = (*LISTED_FILES, CHECKSUMS, *(f"{part}/{CHECKSUMS}" for part in PARTS))
CARD_FILES = ("MODEL_CARD.md", "README.md")  # the first that is there is the model's card
LICENSE_FILE = "LICENSE"
TEXTS = (*CARD_FILES, LICENSE_FILE)  # for people, who may change them: no checksums
_OF_DOWNLOADS = {".cache", ".gitattributes", ".DS_Store"}  # of no worth: `hf download` and a Mac make them anew


def verify_model(folder: Path) -> dict:
    """Read every file of a model folder and return its description.

    Raises `UsageError` when it lacks some, `StorageError` when checksums or fingerprints differ from what it states.
    """
    if lacking := [name for name in MODEL_FILES if not (folder / name).is_file()]:
        raise UsageError(f"expected a model folder, got `{folder}`, which lacks {in_short(lacking)}",
                         "make one with: halle pack --codec RUN --ar RUN --nar RUN --out MODEL")
    try:
        return _verify_contents(folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"`{folder}` is not described as a model folder is: {error!r}",
                           "pack it again from its parts") from error


def _verify_contents(folder: Path) -> dict:
    listed = read_json(folder / CHECKSUMS)["files"].keys()
    if differing := sorted(listed ^ set(LISTED_FILES)):
        raise StorageError(f"`{folder / CHECKSUMS}` lists other files than a model has: {in_short(differing)}")
    verify_checksums(folder)
    description = read_json(folder / MODEL_FILE)
    if wrong := [part for part in PARTS if not _is_what_it_says(folder / part, description["fingerprints"][part])]:
        raise StorageError(f"`{folder}` is not the model that its `{MODEL_FILE}` describes: the fingerprint differs of "
                           f"{in_short(wrong)}", "pack it again from its parts")
    return description


def _is_what_it_says(part: Path, fingerprint: str) -> bool:
    config = read_json(part / CONFIG_FILE)
    made = model_fingerprint(config["architecture"], read_tensors(part / TENSORS_FILE))
    return config["kind"] == part.name and config["fingerprint"] == fingerprint == made


def refuse_to_lose(names: set[str], folder: Path) -> None:
    """Refuse to replace a model folder with these entries when some are of somebody else, such as `.git`."""
    if strangers := sorted(names - {Path(name).parts[0] for name in (*MODEL_FILES, *TEXTS)} - _OF_DOWNLOADS):
        raise UsageError(f"expected a model folder alone to replace, got {in_short(strangers)} in `{folder}` too",
                         "move away what is not part of the model, or choose another --out")


def in_short(names: list[str]) -> str:
    """Return the first three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + more
