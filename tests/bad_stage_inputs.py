"""Inputs of the stages after `curate` that cannot be used: how each is made, and what is to be said of it.

A case changes copies of what the tiny chain made. `told` are parts of the one message, in order, `hint` a part of the
hint. Numbers are those of the list of bad inputs that the project holds itself to.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stages.artifacts.checkpoint import newest_checkpoint
from stages.artifacts.storage import CHECKSUMS, write_checksums

READS_MANIFEST = ("tokenize", "train-codec", "mreq")
READS_TOKENS = ("train-ar", "train-nar")
TRAINERS = ("train-codec", "mreq", "train-ar", "train-nar")


@dataclass(frozen=True)
class Case:
    """`spoil` gets the folder of copied inputs and returns further command line arguments, or None."""

    number: str
    name: str
    stages: tuple[str, ...]
    spoil: Callable[[Path], list[str] | None]
    code: int
    told: tuple[str, ...]
    hint: str = ""


def cases() -> list[tuple[str, Case]]:
    """Return every case with each stage that it can reach."""
    return [(stage, case) for case in CASES for stage in case.stages]


# ---- manifests


def rows(change: Callable[[list[dict]], object]) -> Callable[[Path], None]:
    def spoil(inputs: Path) -> None:
        file = inputs / "data" / "manifest.jsonl"
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        change(found)
        file.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")

    return spoil


def field(**values: object) -> Callable[[Path], None]:
    """Set fields of the third row; `None` takes one away."""
    def change(found: list[dict]) -> None:
        for name, value in values.items():
            found[2][name] = value
            if value is None:
                del found[2][name]

    return rows(change)


def line(number: int, content: bytes) -> Callable[[Path], None]:
    def spoil(inputs: Path) -> None:
        file = inputs / "data" / "manifest.jsonl"
        lines = file.read_bytes().splitlines()
        lines[number - 1] = content
        file.write_bytes(b"\n".join(lines) + b"\n")

    return spoil


# ---- token stores


def array(name: str, make: Callable[[Path, np.ndarray], object], checksums: bool = True) -> Callable[[Path], None]:
    """Replace an array of the first shard; with new checksums, as somebody who means harm would."""
    def spoil(inputs: Path) -> None:
        shard = inputs / "tokens" / "shard-00000"
        make(shard / f"{name}.npy", np.load(shard / f"{name}.npy"))
        if checksums:
            for folder in (shard, inputs / "tokens"):
                write_checksums(folder)

    return spoil


def saved(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, np.ndarray], None]:
    return lambda path, found: np.save(path, change(found))


def with_code(value: int) -> Callable[[Path, np.ndarray], None]:
    def change(found: np.ndarray) -> np.ndarray:
        found = found.copy()
        found[:, 0] = value
        return found

    return saved(change)


def huge_header(path: Path, found: np.ndarray) -> None:
    text = b"{'descr': '<u2', 'fortran_order': False, 'shape': (1, 1), }" + b" " * 60_000 + b"\n"
    path.write_bytes(b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text)


def archive(path: Path, found: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, found)


def cut(path: Path, found: np.ndarray) -> None:
    os.truncate(path, path.stat().st_size // 2)


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def objects(path: Path, found: np.ndarray) -> None:
    np.save(path, np.array([Canary(path.parent / "canary")], dtype=object), allow_pickle=True)


def offsets(change: Callable[[np.ndarray], None]) -> Callable[[Path], None]:
    def changed(found: np.ndarray) -> np.ndarray:
        found = found.copy()
        change(found)
        return found

    return array("offsets", saved(changed))


def falling(found: np.ndarray) -> None:
    found[1, 0], found[2, 0] = found[2, 0], found[1, 0]


def beyond(found: np.ndarray) -> None:
    found[-1] += 7


def not_from_zero(found: np.ndarray) -> None:
    found[0] += 1


# ---- checkpoints


def tensors(part: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(inputs: Path) -> None:
        folder = newest_checkpoint(inputs / part)
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")
        write_checksums(folder)

    return spoil


def drop_and_reshape(found: dict) -> None:
    names = sorted(name for name, tensor in found.items() if tensor.dim() == 2)
    del found[names[0]]
    found[names[1]] = found[names[1]][:-1].clone()
    found["another"] = torch.zeros(2)


def damage_all(part: str) -> Callable[[Path], None]:
    def spoil(inputs: Path) -> None:
        for file in (inputs / part).glob("checkpoints/*/model.safetensors"):
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)

    return spoil


def pickled(name: str, whole: bool) -> Callable[[Path], list[str]]:
    """Give a file that runs code when it is unpickled, by itself or as torch's archive, for a codec."""
    def spoil(inputs: Path) -> list[str]:
        file = inputs / name
        if whole:
            torch.save({"kind": "codec", "model": Canary(inputs / "canary")}, file)
        else:
            file.write_bytes(pickle.dumps(Canary(inputs / "canary")))
        return [f"codec={file}"]

    return spoil


def arguments(*given: str) -> Callable[[Path], list[str]]:
    return lambda inputs: [text.replace("INPUTS", str(inputs)) for text in given]


def folder_as_file(inputs: Path) -> list[str]:
    (inputs / "file").write_text("mine", encoding="utf-8")
    return [f"out={inputs / 'file' / 'below'}"]


def unmark(inputs: Path) -> None:
    (inputs / "tokens" / CHECKSUMS).unlink()


def of_another_seed(inputs: Path) -> None:
    """Say that the tokens are of another codec."""
    file = inputs / "tokens" / "store.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**facts, "codec_fingerprint": "3fa2" * 16}), encoding="utf-8")
    write_checksums(inputs / "tokens")


def newer(inputs: Path) -> None:
    file = inputs / "tokens" / "store.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "format_version": 99}),
                    encoding="utf-8")
    write_checksums(inputs / "tokens")


def empty_run(inputs: Path) -> None:
    shutil.rmtree(inputs / "mreq" / "checkpoints")


MANIFEST = READS_MANIFEST
TOKENS = READS_TOKENS
AGAIN = "run halle tokenize again"
CASES = (
    Case("33", "not-json", MANIFEST, line(4, b"oops"), 2, ("manifest.jsonl:4: not a JSON object",), "mend these lines"),
    Case("35", "latin-1", MANIFEST, line(3, b'{"id": "caf\xe9"}'), 2, ("manifest.jsonl:3: byte 0xE9 is not UTF-8",),
         "again as UTF-8"),
    Case("36", "absolute", MANIFEST, field(audio="/etc/passwd"), 2, ("row 3", "`/etc/passwd` leaves the data root"),
         "halle curate"),
    Case("36", "outside", MANIFEST, field(audio="../x.wav"), 2, ("row 3", "leaves the data root"), "halle curate"),
    Case("37", "missing-field", MANIFEST, field(text=None), 2, ("row 3: field `text` is missing",), "halle curate"),
    Case("37", "mistyped", MANIFEST, field(duration="long"), 2, ("row 3: field `duration` should be seconds",
         "got `long`"), "halle curate"),
    Case("38", "duplicate", MANIFEST, rows(lambda found: found[4].update(id=found[1]["id"])), 2,
         ("row 5: id `", "` was seen before"), "halle curate"),
    Case("39", "negative", MANIFEST, field(duration=-1.5), 2, ("row 3: field `duration`", "got `-1.5`"),
         "halle curate"),
    Case("39", "nan", MANIFEST, field(start=float("nan")), 2, ("row 3: field `start`", "got `nan`"), "halle curate"),
    Case("46", "truncated", TOKENS, array("quant1", cut, checksums=False), 4, ("quant1.npy", "bytes"), "make it again"),
    Case("46", "truncated-signed", TOKENS, array("quant1", cut), 4, ("quant1.npy",), AGAIN),
    Case("46", "zero-bytes", TOKENS, array("text", lambda path, found: path.write_bytes(b"")), 4, ("text.npy",), AGAIN),
    Case("46", "pickle", TOKENS, array("quant1", objects), 4, ("quant1.npy",), AGAIN),
    Case("46", "archive", TOKENS, array("quant1", archive), 4, ("quant1.npy", "got an archive"), AGAIN),
    Case("46", "floats", TOKENS, array("quant1", saved(lambda found: found.astype(np.float32))), 4,
         ("quant1.npy", "expected uint16", "got float32"), AGAIN),
    Case("46", "one-dimension", TOKENS, array("quant1", saved(lambda found: found[:, 0])), 4,
         ("quant1.npy", "expected uint16"), AGAIN),
    Case("46", "code-out-of-range", TOKENS, array("quant1", with_code(999)), 4,
         ("quant1.npy", "expected codes below 16, got 999 in utterance `"), AGAIN),
    Case("46", "huge-header", TOKENS, array("quant1", huge_header), 4, ("quant1.npy",), AGAIN),
    Case("47", "other-codec", ("train-nar",), of_another_seed, 2, ("codec", "3fa2"), ""),
    Case("48", "falling-offsets", TOKENS, offsets(falling), 4, ("offsets.npy", "never fall"), AGAIN),
    Case("48", "beyond-data", TOKENS, offsets(beyond), 4, (".npy", "expected uint16"), AGAIN),
    Case("48", "late-offsets", TOKENS, offsets(not_from_zero), 4, ("offsets.npy", "begin at 0"), AGAIN),
    Case("48", "unfinished-store", TOKENS, unmark, 2, ("expected a finished token store",), "halle tokenize"),
    Case("48", "newer-store", TOKENS, newer, 2, ("format_version at most 1", "got 99"), "upgrade halle"),
    Case("50", "damaged", ("tokenize", "train-nar"), damage_all("mreq"), 4,
         ("no checkpoint", "is whole", "sha256 differs"), "--restart"),
    Case("51", "pt-with-code", ("tokenize",), pickled("codec.pt", whole=True), 4,
         ("holds Python code, not only weights",), "halle exported"),
    Case("51", "pickle-as-pt", ("tokenize",), pickled("codec.pt", whole=False), 4, ("codec.pt",), ""),
    Case("51", "bin", ("tokenize",), pickled("codec.bin", whole=True), 2, ("expected a codec", "codec.bin"), ""),
    Case("52", "shapes", ("tokenize", "train-nar"), tensors("mreq", drop_and_reshape), 4,
         ("`another` is not of this model", "is missing", "should be"), "make it again"),
    Case("53", "ar-as-nar", ("train-nar",), arguments("init=INPUTS/ar"), 2,
         ("expected a checkpoint of halle train-nar", "which halle train-ar made"), "the run folder of that stage"),
    Case("53", "ar-as-codec", ("tokenize",), arguments("codec=INPUTS/ar"), 2,
         ("expected a codec", "`halle train-ar` made"), "halle train-codec"),
    Case("53", "no-checkpoint", ("tokenize",), empty_run, 2, ("holds no checkpoint yet",), "run the same"),
    Case("54", "unknown-key", ("train-ar",), arguments("-O", "training.learing_rate=1"), 2,
         ("training.learing_rate", "did you mean", "learning_rate"), ""),
    Case("54", "wrong-type", ("train-ar",), arguments("-O", "training.steps=many"), 2, ("training.steps",), ""),
    Case("54", "strides", ("mreq",), arguments("--rates", "7,48"), 2, ("7",), ""),
    Case("54", "out-of-range", ("train-codec",), arguments("-O", "codec.seanet.base_filters=0"), 2,
         ("codec.seanet.base_filters",), ""),
    Case("plus", "no-gpu", ("tokenize", *TRAINERS), arguments("--device", "cuda:7"), 2,
         ("device `cuda:7` is not available",), "--device cpu"),
    Case("plus", "output-below-a-file", ("tokenize", "train-ar"), folder_as_file, 4,
         ("could not write", "not a directory"), "check that the folder"),
)
