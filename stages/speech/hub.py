"""Where models of the Hugging Face hub lie on this machine; nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path

from stages.artifacts.storage import sha256_file

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_REVISION_DIGITS = 12


def local_folder(model: str) -> Path | None:
    """Return the folder of a model given as a folder, or by its name in the hub's cache; None when it is not here.

    A folder counts when it holds a `config.json`.
    """
    if (Path(model) / "config.json").is_file():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(model, "config.json")
    except ValueError:  # a path cannot be a name
        return None
    return Path(config).parent if isinstance(config, str) else None


def weights_of(folder: Path) -> list[Path]:
    """Return the files of weights in a model's folder, in order; of one kind when there are several."""
    return next((files for pattern in _WEIGHTS if (files := sorted(folder.glob(pattern)))), [])


def revision(folder: Path) -> str:
    """Return what tells a model from others of its name: the commit in the hub's cache, else a hash of its weights."""
    if folder.parent.name == "snapshots":
        return folder.name[:_REVISION_DIGITS]
    hashes = "".join(sha256_file(file) for file in weights_of(folder))
    return hashes[:_REVISION_DIGITS]
