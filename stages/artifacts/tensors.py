"""Tensors of a model on disk, `model.safetensors`, and the fingerprint of what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.artifacts.storage import fingerprint_of
from stages.errors import StorageError

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise StorageError(f"`{path}` is damaged or not a safetensors file: {error}") from error


class TensorFile:
    """Tensors of a file, read one by one: of what the caller lets go, nothing stays in memory.

    Every reading maps the file anew, for what was read through a map stays as long as it is open.
    """

    def __init__(self, path: Path):
        self.path = path
        with safetensors.safe_open(path, "pt") as file:
            self.names = frozenset(file.keys())

    def read(self, name: str) -> Tensor:
        with safetensors.safe_open(self.path, "pt") as file:
            return file.get_tensor(name)


def model_fingerprint(architecture: dict, tensors: dict[str, Tensor]) -> str:
    """Return a sha256 of the architecture and of every tensor's name, type, shape and values.

    Half-precision numbers count as the float32 numbers that they become when they are loaded into a model: a codec
    has one fingerprint in its file, in memory and in any export.
    """
    digest = hashlib.sha256(fingerprint_of(architecture).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
