"""What must hold of models and of what they spoke: tensors fit their architecture, parts belong together, and audio is
what its report says."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from stages.artifacts.checkpoint import Checkpoint, exported_tensors
from stages.artifacts.checkpoint_checks import check_checkpoint, check_finite, check_sums
from stages.artifacts.findings import Findings
from stages.artifacts.storage import is_complete, read_json
from stages.audio.io import audio_info
from stages.codec.registry import build_codec, load_codec
from stages.config.models import ARConfig, NARConfig
from stages.errors import MissingModelError
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel
from stages.synthesis.model import MODEL_FILE, PARTS, check_belonging
from stages.text.tokenizer import TextTokenizer

SLACK_SECONDS = 0.01


def check_model_checkpoint(folder: Path, findings: Findings) -> Checkpoint | None:
    """Note every problem of a checkpoint, and whether its tensors are those of its architecture."""
    checkpoint = check_checkpoint(folder, findings)
    if checkpoint is not None:
        with findings.noting():
            _check_fit(checkpoint, findings)
        if "text_tokenizer_json" in checkpoint.architecture:
            with findings.noting():
                TextTokenizer.from_json(checkpoint.architecture["text_tokenizer_json"], folder)
    return checkpoint


def _check_fit(checkpoint: Checkpoint, findings: Findings) -> None:
    try:
        with torch.device("meta"):
            model = _build(checkpoint)
    except MissingModelError:  # a codec of somebody's code, which nothing here allows to run
        findings.count("architectures not checked")
        return
    expected = {name: tuple(tensor.shape) for name, tensor in exported_tensors(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    differing = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    for name in differing:
        findings.damaged(f"`{checkpoint.folder}`: expected tensor `{name}` {_shape(expected.get(name))}, got "
                         f"{_shape(found.get(name))}")


def _build(checkpoint: Checkpoint) -> nn.Module:
    if checkpoint.kind == "codec":
        return build_codec(checkpoint.architecture)
    kind, config = {"ar": (ARModel, ARConfig), "nar": (NARModel, NARConfig)}[checkpoint.kind]
    return kind(config.model_validate(checkpoint.architecture["model"]))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else f"of shape {list(shape)}"


def check_export(file: Path, findings: Findings) -> None:
    """Note every problem of a one-file codec; its fingerprint is compared when it is loaded."""
    codec = load_codec(file)
    check_finite(file, codec.state_dict(), findings)


def check_model(folder: Path, findings: Findings) -> None:
    """Note every problem of a model folder and its parts."""
    if not is_complete(folder):
        findings.damaged(f"`{folder}` is not finished: it has no checksums")
    else:
        check_sums(folder, findings)
    said, parts = read_json(folder / MODEL_FILE)["fingerprints"], {}
    for name in PARTS:
        parts[name] = check_model_checkpoint(folder / name, findings)
        if parts[name] is not None and parts[name].fingerprint != said[name]:
            findings.damaged(f"`{folder / MODEL_FILE}`: expected {name} `{said[name][:12]}`, got "
                             f"`{parts[name].fingerprint[:12]}`")
    if None not in parts.values():
        with findings.noting():
            check_belonging(parts["codec"].fingerprint, parts["ar"], parts["nar"])


def check_speech(report: Path, findings: Findings) -> None:
    """Note where the audio and captions of a speech report are not what it says."""
    said = read_json(report)
    with findings.noting():
        audio = report.parent / said["audio"]
        seconds = audio_info(audio).duration
        if abs(seconds - said["duration"]) > SLACK_SECONDS:
            findings.damaged(f"`{audio}`: expected {said['duration']:.3f} s, as `{report.name}` says, "
                             f"got {seconds:.3f} s")
        findings.count("recordings")
    for name in said.get("captions", ()):
        if not (report.parent / name).is_file():
            findings.damaged(f"`{report.parent / name}` is missing")
