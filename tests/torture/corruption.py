"""R7 and R8: no damage goes unseen, and nothing that lies in a file is ever run."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from children import in_child

from stages.artifacts.checkpoint import load_checkpoint, newest_checkpoint
from stages.artifacts.storage import CHECKSUMS, write_checksums
from stages.artifacts.token_store import open_store
from stages.codec.registry import load_codec
from stages.errors import StorageError


@dataclass
class Damage:
    """How much was damaged, and what went unseen."""

    flips: int = 0
    cuts: int = 0
    problems: list[str] = field(default_factory=list)


def damage(run: Path, store: Path, flips: int, cuts: int, seed: int, work: Path) -> Damage:
    """Flip a bit of a file, or cut one short, in copies of a run with two checkpoints and of a store."""
    shutil.rmtree(work, ignore_errors=True)
    chance, done = random.Random(seed), Damage()
    newest = newest_checkpoint(shutil.copytree(run, work / "run"))
    store = shutil.copytree(store, work / "store")
    files = [file for folder in (newest, store) for file in sorted(folder.rglob("*"))
             if file.is_file() and file.name not in (CHECKSUMS, "log.txt", "config.json", "provenance.json")]
    files.append(newest / "config.json")
    for _ in range(flips):
        file = chance.choice(files)
        _damaged(file, lambda data: _flip(data, chance.randrange(8 * len(data))), newest, work / "run", store, done)
        done.flips += 1
    for _ in range(cuts):
        file = chance.choice(files)
        _damaged(file, lambda data: data[: chance.randrange(len(data))], newest, work / "run", store, done)
        done.cuts += 1
    return done


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _damaged(file: Path, change: Callable[[bytes], bytes], newest: Path, run: Path, store: Path, done: Damage) -> None:
    whole = file.read_bytes()
    if not whole:
        return
    file.write_bytes(change(whole))
    try:
        if newest in file.parents:
            found = newest_checkpoint(run)
            if found == newest or found is None:
                done.problems.append(f"{file}: the run still stands for this checkpoint, or for none")
            load_checkpoint(newest)
        else:
            open_store(store)
        done.problems.append(f"{file}: nothing was noticed")
    except StorageError as error:
        if file.name not in error.message:
            done.problems.append(f"{file}: not named in: {error.message}")
    except Exception as error:
        done.problems.append(f"{file}: {type(error).__name__}: {error}")
    finally:
        file.write_bytes(whole)


# ---- files that mean harm


class Canary:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def harmful(run: Path, store: Path, codec_file: Path, work: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what the file is and how it is read; reading is to refuse it. `work / "canary"` is never to appear."""
    canary = Canary(work / "canary")
    pickled, torch_pickled = pickle.dumps(canary), _torch_bytes({"kind": "codec", "x": canary})
    bomb, bloat = _zip_bomb(), struct.pack("<Q", 2**40) + b"{}"
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31 - 1) + b"{" + b" " * 1000
    wide = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    wide += b"{'descr': '<u2', 'fortran_order': False, 'shape': (999999999999, 6), }".ljust(117) + b"\n"
    for name, content in (("pickle", pickled), ("torch pickle", torch_pickled), ("zip bomb", bomb), ("bloat", bloat),
                          ("long header", b"{" + b" " * 10_000_000)):
        yield f"{name} as model.safetensors", lambda content=content: _read_model(run, content, work)
        yield f"{name} as .pt", lambda content=content: _read_pt(codec_file, content, work)
        yield f"{name} as .npy", lambda content=content: _read_array(store, content, work)
    yield "huge header as .npy", lambda: _read_array(store, header, work)
    yield "shape of terabytes as .npy", lambda: _read_array(store, wide, work)
    yield "objects as .npy", lambda: _read_array(store, _objects(canary), work)
    yield "pickles beside a checkpoint", lambda: _read_beside(run, pickled, work)


def refuse_all(run: Path, store: Path, codec_file: Path, work: Path) -> tuple[int, float, int, list[str]]:
    """Return how many were refused, the longest time in seconds, the largest memory in bytes, and problems."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    problems, longest, largest, count = [], 0.0, 0, 0
    for name, read in harmful(run, store, codec_file, work):
        ended = in_child(read, work / "log.txt", timeout=60)
        accepted = 0 if name.startswith("pickles beside") else None
        if accepted is None and ended.code not in (2, 4):
            problems.append(f"{name}: exit {ended.code}, signal {ended.signal}: {ended.said[-300:]}")
        if (work / "canary").exists():
            problems.append(f"{name}: its code was run")
        count += 1
        longest, largest = max(longest, ended.cpu_seconds), max(largest, ended.peak_bytes)
    return count, longest, largest, problems


def _torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _zip_bomb() -> bytes:
    """An archive of 1 GB of zeros in a few MB, laid out as torch's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as file:
            for _ in range(64):
                file.write(bytes(2**24))
    return buffer.getvalue()


def _objects(canary: Canary) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([canary], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _read_model(run: Path, content: bytes, work: Path) -> None:
    folder = shutil.copytree(newest_checkpoint(run), work / "checkpoint", dirs_exist_ok=True)
    (folder / "model.safetensors").write_bytes(content)
    write_checksums(folder)
    load_checkpoint(folder)


def _read_pt(codec_file: Path, content: bytes, work: Path) -> None:
    (work / "codec.pt").write_bytes(content)
    load_codec(work / "codec.pt")


def _read_array(store: Path, content: bytes, work: Path) -> None:
    copy = shutil.copytree(store, work / "store", dirs_exist_ok=True)
    (copy / "shard-00000" / "quant1.npy").write_bytes(content)
    write_checksums(copy / "shard-00000")
    write_checksums(copy)
    open_store(copy)


def _read_beside(run: Path, content: bytes, work: Path) -> None:
    """Files that other trainers would load: nothing here reads them."""
    folder = shutil.copytree(newest_checkpoint(run), work / "beside", dirs_exist_ok=True)
    for name in (".metadata", "custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "training_args.bin"):
        (folder / name).write_bytes(content)
    load_checkpoint(folder)
