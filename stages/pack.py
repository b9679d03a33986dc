"""`halle pack`: put codec, AR and NAR into the model folder that `synth` and `eval` take, or ship a codec alone.

A model folder is whole with its card and licence, so it can be pushed to the Hugging Face hub as it is.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from stages.artifacts.checkpoint import (
    Checkpoint,
    exported_tensors,
    in_half_precision,
    is_in_half_precision,
    load_checkpoint,
    part_of_model,
    resolve_checkpoint,
    save_checkpoint,
)
from stages.artifacts.model_folder import (
    CARD_FILES,
    LICENSE_FILE,
    MODEL_FILE,
    MODEL_FILES,
    TEXTS,
    in_short,
    refuse_to_lose,
    verify_model,
)
from stages.artifacts.model_hub import HubName, name_to_push, push_model
from stages.artifacts.storage import (
    CHECKSUMS,
    FORMAT_VERSION,
    read_json,
    staged_folder,
    write_json,
)
from stages.artifacts.tensors import CONFIG_FILE, model_fingerprint
from stages.artifacts.tensors import MODEL_FILE as TENSORS_FILE
from stages.codec.base import Codec
from stages.codec.registry import load_codec
from stages.config.resolve import resolve
from stages.config.sampling import SamplingConfig
from stages.errors import UsageError
from stages.reports.model_card import (
    About,
    card_in,
    given_texts,
    licence_of,
    license_text,
    model_card,
    with_front_matter,
    write_texts,
)
from stages.synthesis.model import check_belonging

log = logging.getLogger("halle.pack")

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


def run(codec: str | None, ar: str | None, nar: str | None, out: str, half: bool = False, about: About = About(),
        push: str | None = None, sampling: tuple[str, ...] = ()) -> dict:
    """Copy the parts, without what only training needs, into `out`; refuse parts that do not belong together.

    Without language models `out` becomes a codec folder, for `tokenize` to read. `half` rounds all parts to half
    precision; a codec that is rounded already stays so. `sampling`, of texts KEY=VALUE, is how the model is sampled
    when `synth` and `eval` are told nothing else. `push` also commits the model folder to the hub under that
    name, and without any parts does only that.
    """
    _check_options(codec, ar, nar, half, about, push, sampling)
    target, name = Path(out), name_to_push(push) if push else None
    own = resolve("synth", overrides=tuple(f"sampling.{text}" for text in sampling)).sampling
    told = pack(codec, ar, nar, target, half, about, own) if codec else {"model": out}
    if name is None:
        return told
    if codec:
        log.info("wrote `%s`", target)  # it is there, whatever becomes of the rest
    return told | push_folder(target, name, about)


def _check_options(codec: str | None, ar: str | None, nar: str | None, half: bool, about: About,
                   push: str | None, sampling: tuple[str, ...]) -> None:
    if (ar is None) != (nar is None):
        raise UsageError(f"expected both language models, or none to ship a codec alone, got `{ar or nar}` only",
                         f"give {'--ar' if ar is None else '--nar'} too, or leave both out")
    if codec is None and (ar or half or not push):
        raise UsageError("expected a codec after --codec, got none",
                         "with --push alone, the model folder after --out is pushed as it is")
    if codec is None and sampling:
        raise UsageError("expected a model to pack with --sampling, got none", "give --codec, --ar and --nar too")
    if codec and ar is None and (push or sampling or about != About()):
        raise UsageError("expected a whole model to push, to sample or to write a card for, got a codec alone",
                         "give --ar and --nar too")


def pack(codec: str, ar: str | None, nar: str | None, target: Path, half: bool, about: About,
         sampling: SamplingConfig) -> dict:
    """Write the model folder, or the codec's, and return what was written."""
    _refuse_to_replace(target, alone=ar is None)
    shipment = prepare_codec(codec, half)
    if ar is None:
        shipment.save(target)
        told = {"codec": target.as_posix(), "fingerprint": shipment.fingerprint, **shipment.describe()}
    else:
        models = [_apart_from(target, load_checkpoint(path, kind)) for path, kind in ((ar, "ar"), (nar, "nar"))]
        _check_precision(shipment, *models)
        described = _write_model(target, shipment, *(map(_rounded, models) if half else models), about, sampling)
        told = {"model": target.as_posix(),
                **{key: described[key] for key in ("system", "bits_per_second", "parameters")},
                "license": described.get("license", "unknown; --license names it"),
                "card": (target / next(file for file in CARD_FILES if (target / file).is_file())).as_posix()}
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


def _apart_from(target: Path, part: Checkpoint) -> Checkpoint:
    """Copy tensors that are mapped from a file below `target`, which is going to be replaced: Windows refuses to."""
    if target.resolve() not in part.folder.resolve().parents:
        return part
    return replace(part, tensors={name: tensor.clone() for name, tensor in part.tensors.items()})


def _parents_of(path: str) -> dict[str, str]:
    """Return what a codec's folder says it was made from; one-file exports and codecs of others say nothing."""
    try:
        return read_json(resolve_checkpoint(part_of_model(path, "codec")) / CONFIG_FILE).get("parents", {})
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
    if inside and not alone:
        refuse_to_lose(inside, target)


def _write_model(target: Path, shipment: Shipment, ar: Checkpoint, nar: Checkpoint, about: About,
                 sampling: SamplingConfig) -> dict:
    """Write the model folder and return what its `model.json` says."""
    check_belonging(shipment.fingerprint, ar, nar)
    parts, texts = {"ar": ar, "nar": nar}, given_texts(target, about)
    licence = about.license or licence_of(card_in(texts) or "")
    description = {
        "format_version": FORMAT_VERSION,
        "system": ar.architecture["system"],
        **shipment.describe(),
        "fingerprints": {"codec": shipment.fingerprint, **{name: part.fingerprint for name, part in parts.items()}},
        "parameters": {"codec": sum(p.numel() for p in shipment.codec.parameters()),
                       **{name: sum(t.numel() for t in part.tensors.values()) for name, part in parts.items()}},
        "language": about.language or "en",
        **({"sampling": sampling.given} if sampling.given else {}),
        **({"license": licence} if licence else {}),
    }
    with staged_folder(target, unlisted=TEXTS) as temporary:
        shipment.save(temporary / "codec")
        for name, part in parts.items():
            save_checkpoint(temporary / name, part.kind, part.architecture, part.tensors, part.parents)
        write_json(temporary / MODEL_FILE, description)
        description["written"] = write_texts(temporary, target.name, texts, licence)
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


# ---- to the hub


def push_folder(folder: Path, name: HubName, about: About) -> dict[str, str]:
    """Commit a model folder to the hub: safetensors, JSON, a card with the hub's metadata, and the licence's text."""
    said = verify_model(folder) | ({"language": about.language} if about.language else {})
    strangers = sorted({file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}
                       - {*MODEL_FILES, *TEXTS})
    if strangers := [file for file in strangers if not file.startswith(".")]:  # such as the hub's own .gitattributes
        raise UsageError(f"expected a model folder alone to push, got {in_short(strangers)} in `{folder}` too",
                         "move away what is not part of the model")
    texts = given_texts(folder, about)
    card = with_front_matter(card_in(texts) or model_card(folder, name.repo.partition("/")[2], name.repo), said,
                             about.license)
    licence = texts.get(LICENSE_FILE) or (license_text(licence_of(card)) or "").encode()
    if not licence:
        raise UsageError(f"expected the text of licence `{licence_of(card)}` in `{folder / LICENSE_FILE}`, got none",
                         "write it there, and run the same command again")
    files = {file: folder / file for file in MODEL_FILES} | {"README.md": card.encode(), LICENSE_FILE: licence}
    return push_model(name, files, f"{said['system']} model, codec {said['fingerprints']['codec'][:12]}",
                      f"halle pack --out {shlex.quote(str(folder))} --push {name}")
