"""`halle pack`: put codec, AR and NAR into the model folder that `synth` and `eval` take, or ship a codec alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from stages.artifacts.checkpoint import (
    CONFIG_FILE,
    Checkpoint,
    exported_tensors,
    in_half_precision,
    is_in_half_precision,
    load_checkpoint,
    model_fingerprint,
    resolve_checkpoint,
    save_checkpoint,
)
from stages.artifacts.checkpoint import MODEL_FILE as TENSORS_FILE
from stages.artifacts.storage import CHECKSUMS, FORMAT_VERSION, read_json, staged_folder, write_json
from stages.codec.base import Codec
from stages.codec.registry import load_codec
from stages.errors import UsageError
from stages.synthesis.model import MODEL_FILE, check_belonging

FULL_PRECISION = "full_precision"  # parent of what is in half precision: what it was rounded from


@dataclass(frozen=True)
class Shipment:
    """A codec as it is going to be written. `rounded_from` is its fingerprint in the precision that it was given in."""

    codec: Codec
    tensors: dict[str, Tensor]
    parents: dict[str, str]
    fingerprint: str
    rounded_from: str

    def save(self, folder: Path) -> None:
        save_checkpoint(folder, "codec", self.codec.export_config(), self.tensors, self.parents)

    def describe(self) -> dict:
        return {
            "sample_rate": self.codec.sample_rate,
            "bits_per_second": self.codec.bits_per_second,
            "frame_rates": {spec.name: spec.frame_rate for spec in self.codec.transmitted},
        }


def run(codec: str, ar: str | None, nar: str | None, out: str, half: bool = False) -> dict:
    """Copy the parts, without what only training needs, into `out`; refuse parts that do not belong together.

    Without language models `out` becomes a codec folder, for `tokenize` to read. `half` rounds all parts to half
    precision; a codec that is rounded already stays so.
    """
    if (ar is None) != (nar is None):
        raise UsageError(f"expected both language models, or none to ship a codec alone, got `{ar or nar}` only",
                         f"give {'--ar' if ar is None else '--nar'} too, or leave both out")
    target = Path(out)
    _refuse_to_replace(target, alone=ar is None)
    shipment = prepare_codec(codec, half)
    if ar is None:
        shipment.save(target)
        told = {"codec": str(target), "fingerprint": shipment.fingerprint, **shipment.describe()}
    else:
        models = load_checkpoint(ar, "ar"), load_checkpoint(nar, "nar")
        _check_precision(shipment, *models)
        described = _write_model(target, shipment, *(map(_rounded, models) if half else models))
        told = {"model": str(target), **{key: described[key] for key in ("system", "bits_per_second", "parameters")}}
    return told | {"megabytes": round(sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) / 1e6, 1)}


def prepare_codec(path: str, half: bool) -> Shipment:
    """Load a codec and bring its tensors to the precision that it ships in."""
    codec = load_codec(path)
    architecture, tensors, parents = codec.export_config(), exported_tensors(codec), _parents_of(path)
    fingerprint = given = model_fingerprint(architecture, tensors)
    if half or is_in_half_precision(tensors):
        tensors = in_half_precision(tensors)
        fingerprint = model_fingerprint(architecture, tensors)
    if fingerprint != given:
        parents = parents | {FULL_PRECISION: given}
    return Shipment(codec, tensors, parents, fingerprint, given)


def _parents_of(path: str) -> dict[str, str]:
    """Return what a codec's folder says it was made from; one-file exports and codecs of others say nothing."""
    folder = Path(path) / "codec" if (Path(path) / MODEL_FILE).is_file() else Path(path)
    try:
        return read_json(resolve_checkpoint(folder) / CONFIG_FILE).get("parents", {})
    except UsageError:
        return {}


def _refuse_to_replace(target: Path, alone: bool) -> None:
    """Let an earlier result of the same kind be replaced, and nothing else."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"expected a folder after --out, got the file `{target}`", "choose another --out")
    inside = {entry.name for entry in target.iterdir()} if target.exists() else set()
    ours = inside == {CONFIG_FILE, TENSORS_FILE, CHECKSUMS} if alone else MODEL_FILE in inside
    if inside and not ours:
        kind = "folder of a codec alone" if alone else "model folder"
        raise UsageError(f"`{target}` is not empty and is no {kind}", "choose another --out")


def _write_model(target: Path, shipment: Shipment, ar: Checkpoint, nar: Checkpoint) -> dict:
    """Write the model folder and return what its `model.json` says."""
    check_belonging(shipment.fingerprint, ar, nar)
    parts = {"ar": ar, "nar": nar}
    description = {
        "format_version": FORMAT_VERSION,
        "system": ar.architecture["system"],
        **shipment.describe(),
        "fingerprints": {"codec": shipment.fingerprint, **{name: part.fingerprint for name, part in parts.items()}},
        "parameters": {"codec": sum(p.numel() for p in shipment.codec.parameters()),
                       **{name: sum(t.numel() for t in part.tensors.values()) for name, part in parts.items()}},
    }
    with staged_folder(target) as temporary:
        shipment.save(temporary / "codec")
        for name, part in parts.items():
            save_checkpoint(temporary / name, part.kind, part.architecture, part.tensors, part.parents)
        write_json(temporary / MODEL_FILE, description)
    return description


def _rounded(model: Checkpoint) -> Checkpoint:
    """Return a language model in half precision, in which it also speaks: its numbers are read as float32 or less."""
    tensors = in_half_precision(model.tensors)
    fingerprint = model_fingerprint(model.architecture, tensors)
    parents = model.parents if fingerprint == model.fingerprint else {
        **model.parents, FULL_PRECISION: model.fingerprint}  # fmt: skip
    return replace(model, tensors=tensors, fingerprint=fingerprint, parents=parents)


def _check_precision(shipment: Shipment, *models: Checkpoint) -> None:
    """Refuse to round the codec whose full precision made the tokens that a language model was trained on."""
    readers = [model.kind.upper() for model in models if model.parents["codec"] == shipment.rounded_from]
    if readers and shipment.fingerprint != shipment.rounded_from:
        raise UsageError(
            f"expected the codec whose tokens {' and '.join(readers)} were trained on, "
            f"`{shipment.rounded_from[:12]}` in full precision, got `{shipment.fingerprint[:12]}`, its half precision",
            "leave --half out; or ship the codec first (halle pack --codec RUN --half --out DIR), then tokenize and "
            "train with DIR")
