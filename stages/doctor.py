"""`halle doctor`: what this machine has and lacks, and whether its GPU computes what the CPU does."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import psutil
import torch

from stages.artifacts.run_dir import versions
from stages.errors import HalleError
from stages.metrics.needed_models import NEEDED_MODELS
from stages.synthesis.device_comparison import compare_with_cpu
from stages.synthesis.model import PACKAGED_MODEL
from stages.training.allocator import describe_allocator
from stages.training.processes import pick_device

_LEAST_FREE_GB = 10  # a checkpoint of the paper's AR model with Adam is 8.7 GB
_VARIABLES = ("HALLE_MODEL", "HALLE_DATA", "HALLE_CODECS", "HF_HOME", "HF_HUB_OFFLINE", "TORCH_HOME",
              "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES")


def run(device: str | None = None) -> dict:
    """Describe this machine; given a device, compute on it and on the CPU too, and raise when they differ."""
    told = {**versions(), "machine": _machine(), "devices": _devices(), "extras": extras(), "tools": _tools(),
            "disk": _disk(), "caches": _caches(), "models": _models(),
            "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ}}
    if device is not None:
        told["comparison"] = _compare(device)
    return told | {"warnings": _warnings(told)}


def _machine() -> dict:
    memory = psutil.virtual_memory()
    return {"processors": os.cpu_count(), "torch_threads": torch.get_num_threads(),
            "memory_gb": round(memory.total / 1e9, 1), "free_memory_gb": round(memory.available / 1e9, 1),
            "processor": torch.backends.cpu.get_cpu_capability(), "encoding": sys.getfilesystemencoding(),
            "memory_allocator": describe_allocator()}


def _devices() -> dict[str, str]:
    found = {"cpu": f"{os.cpu_count()} processors"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            found[f"cuda:{index}"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {bf16}"
    else:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        found["cuda"] = f"none ({built})"
    found["mps"] = "available" if torch.backends.mps.is_available() else "none"
    return found


def extras() -> dict[str, str]:
    """Return for each optional part of halle whether its packages are there, else what to install."""
    parts: dict[str, list[str]] = {}
    for requirement in metadata.requires("halle") or ():
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra:
            parts.setdefault(extra[1], []).append(name[0])
    found = {}
    for extra, packages in sorted(parts.items()):
        missing = [package for package in packages if not _is_installed(package)]
        found[extra] = f"lacks {', '.join(missing)}: pip install 'halle[{extra}]'" if missing else "installed"
    return found


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _tools() -> dict[str, str]:
    wanted = {"make": ("make",), "C++ compiler, for training.compile": ("g++", "clang++", "cl")}
    return {name: next((found for word in words if (found := shutil.which(word))), "none")
            for name, words in wanted.items()}


def _disk() -> dict[str, str]:
    places = {"here": Path.cwd(), "home": Path.home()}
    return {name: f"{shutil.disk_usage(place).free / 1e9:.1f} GB free in {place.as_posix()}"
            for name, place in places.items() if place.exists()}


def _caches() -> dict[str, str]:
    from huggingface_hub import constants

    folders = {"hub": Path(constants.HF_HUB_CACHE), "torch": Path(torch.hub.get_dir()), "shipped": PACKAGED_MODEL}
    return {name: f"{folder.as_posix()}, {_size(folder) / 1e6:.1f} MB" if folder.is_dir() else
            f"{folder.as_posix()}, not there" for name, folder in folders.items()}


def _size(folder: Path) -> int:
    # the hub's snapshots are links to its blobs
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _models() -> list[dict]:
    found = []
    for model in NEEDED_MODELS:
        missing = model.missing()
        found.append({"name": model.name, "here": not missing, "serves": model.serves, "size": model.size,
                      "licence": model.licence, "needs": missing})
    return found


def _compare(name: str) -> dict:
    device = pick_device(name)
    comparisons = compare_with_cpu(device)
    differing = [each for each in comparisons if not each.agrees]
    if differing:
        told = "; ".join(f"`{each.what}` by {each.difference:.2g} of the largest, {each.allowed:g} are allowed"
                         for each in differing)
        raise HalleError(f"`{device}` does not compute what the CPU does: {told}",
                         "another version of torch, or of the driver, may; till then use --device cpu")
    return {"device": str(device), "agrees": True,
            "differences": {each.what: f"{each.difference:.2g} (at most {each.allowed:g})" for each in comparisons}}


def _warnings(told: dict) -> list[str]:
    found = []
    if shutil.disk_usage(Path.cwd()).free / 1e9 < _LEAST_FREE_GB:
        found.append(f"less than {_LEAST_FREE_GB} GB are free here: two checkpoints of a large model take more")
    if told["machine"]["encoding"].lower() != "utf-8":
        found.append(f"file names are {told['machine']['encoding']}, not UTF-8: set PYTHONUTF8=1")
    return found
