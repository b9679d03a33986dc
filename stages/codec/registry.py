"""Codecs by path or name: checkpoint folders of runs, one-file exports (`encodec.pt`, `mreq.pt`), Meta's weights, and
codecs of other projects (`package.module:make`, see foreign.py)."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from stages.artifacts.checkpoint import exported_tensors, load_checkpoint, load_tensors, part_of_model
from stages.artifacts.storage import FORMAT_VERSION, read_json, write_bytes
from stages.artifacts.tensors import CONFIG_FILE, MODEL_FILE, model_fingerprint
from stages.codec.base import Codec
from stages.codec.foreign import ForeignCodec, allow_maker, is_maker, plug_in
from stages.codec.meta_encodec import is_meta_encodec, load_meta_encodec
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.quantizer import VectorQuantizer
from stages.codec.residual import ResidualCodec
from stages.config.models import CodecConfig
from stages.errors import StorageError, UsageError

PlainCodec = ResidualCodec | ForeignCodec  # what can teach
CODEC_STAGES = ("train-codec", "mreq")
EXPORTED = {"format_version", "architecture", "tensors", "fingerprint"}  # beside the kind, in a one-file export
MAKE_ONE = "make a codec with `halle train-codec --data MANIFEST_DIR --out RUN`, then give RUN"


def build_codec(architecture: dict) -> Codec:
    """Return an untrained codec of what `Codec.export_config` gave."""
    try:
        config = CodecConfig.model_validate(architecture)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}" for item in error.errors())
        raise UsageError(f"this codec's architecture is not known here: {problems}", "upgrade halle") from error
    if config.mrvq is not None:
        return MultiResolutionCodec(config)
    return ForeignCodec(config) if config.arch == "foreign" else ResidualCodec(config)


def load_codec(path: str | Path) -> Codec:
    """Load a codec in eval mode, on the CPU, from a run folder, `RUN@step-50000`, a checkpoint folder or our `.pt`.

    A run folder stands for its newest verified checkpoint, a model folder or a model of the hub for its codec. Also
    reads Meta's EnCodec (meta_encodec.py), and plugs in `package.module:make` when the user has allowed it. Raises
    UsageError when the path is missing, another stage's or of a run that has no codebooks yet, StorageError when it is
    damaged, MissingModelError when weights or foreign code are not here.
    """
    if is_maker(path):
        return plug_in(str(path))
    if is_meta_encodec(path):
        return load_meta_encodec(path)
    file = Path(path)
    if file.is_file():
        architecture, tensors = _read_export(file)
    else:
        folder = part_of_model(path, "codec")
        _refuse_other_stage(folder, path)
        checkpoint = load_checkpoint(folder, "codec")
        architecture, tensors = checkpoint.architecture, checkpoint.tensors
    codec = build_codec(architecture)
    load_tensors(codec, tensors, path)
    if not all(module.initialised for module in codec.modules() if isinstance(module, VectorQuantizer)):
        raise UsageError(f"the codebooks of `{path}` have not started: its training was stopped before the end of "
                         "`quantizer_start_step`", "run the same `halle train-codec` command again to go on")
    return codec.eval()


def load_teacher(path: str | Path) -> PlainCodec:
    """Load a plain residual-VQ codec, frozen, to teach a multi-resolution one.

    `path` is what the user gave for it, so a maker's name is also the permission to import it.
    """
    if is_maker(path):
        allow_maker(str(path))
    codec = load_codec(path)
    if not isinstance(codec, PlainCodec):
        raise UsageError(f"expected a plain codec as the teacher, got `{path}`, which `halle mreq` already made "
                         "multi-resolution", "give the codec that `halle train-codec` made")
    return codec.requires_grad_(False)


def codec_fingerprint(codec: Codec) -> str:
    """Return the fingerprint of a codec: the same for a checkpoint and for an export of it."""
    return model_fingerprint(codec.export_config(), exported_tensors(codec))


def export_codec(codec: Codec, path: str | Path) -> str:
    """Write a codec as one `.pt` file that holds no code, and return its fingerprint."""
    architecture = codec.export_config()
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in exported_tensors(codec).items()}
    fingerprint = model_fingerprint(architecture, tensors)
    content = {"format_version": FORMAT_VERSION, "kind": "codec", "fingerprint": fingerprint,
               "architecture": json.dumps(architecture), "tensors": tensors}
    buffer = io.BytesIO()  # given a path, torch's own errors hide that a disk is full
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())
    return fingerprint


def _read_export(file: Path) -> tuple[dict, dict[str, Tensor]]:
    if file.suffix != ".pt":
        raise UsageError(f"expected a codec (a run or checkpoint folder, or a .pt file), got `{file}`",
                         MAKE_ONE)
    _refuse_compressed(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: what is read is a small program that makes tensors
        if "unsupported" in str(error).lower():  # what torch says of everything but plain tensors
            raise StorageError(f"`{file}` holds Python code, not only weights, and was not read",
                               "give a codec that halle exported, or a run folder") from error
        raise StorageError(f"`{file}` is damaged or not a .pt file of tensors", "export it again, or copy it again") \
            from error
    if not isinstance(content, dict) or content.get("kind") != "codec" or not content.keys() >= EXPORTED:
        raise UsageError(f"expected a codec that halle exported, got `{file}`, another program's .pt file", MAKE_ONE)
    if content["format_version"] > FORMAT_VERSION:
        raise UsageError(f"expected format_version at most {FORMAT_VERSION} in `{file}`, "
                         f"got `{content['format_version']}`", "upgrade halle")
    architecture, tensors = json.loads(content["architecture"]), content["tensors"]
    if model_fingerprint(architecture, tensors) != content["fingerprint"]:
        raise StorageError(f"`{file}` is damaged: its tensors differ from their fingerprint", "copy it again")
    return architecture, tensors


def _refuse_compressed(file: Path) -> None:
    """Refuse an archive that grows when it is read: torch compresses nothing, and a small file could fill memory."""
    try:
        with zipfile.ZipFile(file) as archive:
            packed = [item.filename for item in archive.infolist() if item.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, NotImplementedError):  # of no kind that torch writes today: `torch.load` judges it
        return
    if packed:
        raise StorageError(f"expected a .pt file as torch writes them, got `{file}` with compressed parts: "
                           f"`{packed[0]}`", "export it again")


def _refuse_other_stage(folder: Path, path: str | Path) -> None:
    """Say which stage made a folder that is no codec; `RUN@step-N` and missing paths are left to `load_checkpoint`."""
    if (folder / MODEL_FILE).is_file():
        return
    if folder.is_dir():
        described = folder / CONFIG_FILE
        stage = read_json(described).get("stage") if described.is_file() else None
        if stage is not None and stage not in CODEC_STAGES:
            raise UsageError(f"expected a codec, got `{path}`, which `halle {stage}` made", MAKE_ONE)
        if stage is not None and not (folder / "checkpoints").is_dir():
            raise UsageError(f"`{path}` holds no checkpoint yet: its training was stopped before the first",
                             f"run the same `halle {stage}` command again to go on")
        if (folder / "manifest.jsonl").is_file():
            raise UsageError(f"expected a codec, got `{path}`, which `halle curate` made", MAKE_ONE)
        if (folder / "store.json").is_file():
            raise UsageError(f"expected a codec, got `{path}`, which `halle tokenize` made", MAKE_ONE)
    elif "@" not in folder.name:
        raise UsageError(f"codec `{path}` does not exist", MAKE_ONE)
