"""A model that speaks: codec, AR and NAR that belong together, found and loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from torch import nn

import stages
from stages.artifacts.checkpoint import Checkpoint, load_checkpoint, part_of_model
from stages.artifacts.model_folder import MODEL_FILE, PARTS
from stages.artifacts.model_hub import local_copy
from stages.artifacts.storage import is_complete, read_json
from stages.artifacts.tensors import MODEL_FILE as TENSORS_FILE
from stages.artifacts.tensors import TensorFile
from stages.codec.base import Codec
from stages.codec.inference import for_inference
from stages.codec.registry import codec_fingerprint, load_codec
from stages.config.models import ARConfig, NARConfig
from stages.config.stage_configs import SpeechConfig
from stages.errors import MissingModelError, StorageError, UsageError
from stages.lm.ar import ARModel
from stages.lm.inference import Precision, load_for_speaking
from stages.lm.nar import NARModel
from stages.text.tokenizer import TextTokenizer

Spoken = TypeVar("Spoken", bound=SpeechConfig)
PACKAGED_MODEL = Path(stages.__file__).parent / "pretrained" / "halle-mini"


@dataclass(frozen=True)
class SpeechModel:
    """Loaded parts on one device, in evaluation mode, and the facts that synthesis needs of them."""

    codec: Codec
    ar: ARModel
    nar: NARModel
    text_tokenizer: TextTokenizer
    system: str
    max_frames: int  # longest utterance the AR saw, in frames of its stream
    max_text_tokens: int
    window_seconds: float | None  # the NAR's own; None reads whole utterances
    nar_prompt_seconds: float  # longest prompt that the NAR was trained with
    loudness_db: float | None  # RMS of the speech it was trained on; None when it was left as it is
    fingerprints: dict[str, str]
    guided: tuple[str, ...] = ()  # `ar`, `nar`: those that have learned to do without their text, as guidance takes

    @property
    def device(self) -> torch.device:
        return next(self.ar.parameters()).device


def find_parts(config: SpeechConfig) -> dict[str, str]:
    """Return the paths of codec, AR and NAR: those given one by one, the rest from the model folder."""
    given = {part: getattr(config, part) for part in PARTS if getattr(config, part)}
    if len(given) == len(PARTS) and not config.model:
        return given
    folder = find_model(config.model)
    return {part: given.get(part, str(folder / part)) for part in PARTS}


def with_own_sampling(config: Spoken, ar: str) -> Spoken:
    """Return the settings with `sampling` complete: what is not given is as the model folder around `ar` says.

    Raises `StorageError` when that says what cannot be.
    """
    file = part_of_model(ar, "ar").parent / MODEL_FILE
    own = read_json(file).get("sampling", {}) if file.is_file() else {}
    try:
        return config.model_copy(update={"sampling": config.sampling.over(own)})
    except (ValidationError, TypeError) as error:
        raise StorageError(f"`{file}` gives settings of sampling that there are not: {own}",
                           "pack the model again, with --sampling KEY=VALUE") from error


def find_codec(config: SpeechConfig) -> str:
    """Return the path of the codec: the given one, the model folder's, or the one that ships with the package."""
    shipped = PACKAGED_MODEL / "codec"  # by itself, too
    if not (config.codec or named_model(config)) and is_complete(shipped):
        return str(shipped)
    return config.codec or find_parts(config)["codec"]


def named_model(config: SpeechConfig) -> str | None:
    """Return the model that is given, by option or environment, as it was written."""
    return config.model or os.environ.get("HALLE_MODEL")


def is_there_a_model(config: SpeechConfig) -> bool:
    """Tell whether a model is given or one that speaks ships with the package."""
    return bool(named_model(config)) or (PACKAGED_MODEL / MODEL_FILE).is_file()


def find_model(model: str | None) -> Path:
    """Return the folder of the given model, of $HALLE_MODEL, or of the one that ships with the package.

    The first two may be names of the Hugging Face hub.
    """
    chosen = model or os.environ.get("HALLE_MODEL")
    folder = local_copy(chosen) if chosen else PACKAGED_MODEL
    if (folder / MODEL_FILE).is_file():
        return folder
    if model:
        raise UsageError(f"expected a model folder (with `{MODEL_FILE}`), got `{folder}`",
                         "make one with: halle pack --codec RUN --ar RUN --nar RUN --out MODEL; a model of the Hugging "
                         "Face hub is org/name, or hf://org/name where there is a folder org")
    if chosen:
        raise MissingModelError(f"$HALLE_MODEL names `{folder}`, which is not a model folder",
                                "make one with: halle pack --codec RUN --ar RUN --nar RUN --out MODEL")
    raise MissingModelError("no model was given and none that speaks ships with this installation",
                            "give --model DIR, set HALLE_MODEL, or make a small one with: make demo "
                            "(halle eval --reconstruct needs none)")


def load_speech_model(config: SpeechConfig, device: torch.device) -> SpeechModel:
    """Load what `find_parts` finds; parts that were not made for each other are refused."""
    parts = find_parts(config)
    ar, nar = load_checkpoint(parts["ar"], "ar"), load_checkpoint(parts["nar"], "nar")
    codec = load_codec(parts["codec"])
    fingerprints = {"codec": codec_fingerprint(codec), "ar": ar.fingerprint, "nar": nar.fingerprint}
    check_belonging(fingerprints["codec"], ar, nar)
    nar_config = NARConfig.model_validate(nar.architecture["model"])
    codec.refine_by(nar_config.block_codes)
    return SpeechModel(
        codec=for_inference(codec.to(device)),
        ar=_build(ARModel, ARConfig.model_validate(ar.architecture["model"]), ar, device, config.precision),
        nar=_build(NARModel, nar_config, nar, device, config.precision),
        text_tokenizer=TextTokenizer.from_json(ar.architecture["text_tokenizer_json"]),
        system=ar.architecture["system"],
        max_frames=ar.architecture["max_frames"],
        max_text_tokens=ar.architecture["max_text_tokens"],
        window_seconds=nar.architecture["window_seconds"],
        nar_prompt_seconds=nar.architecture["prompt_seconds"],
        loudness_db=ar.architecture["loudness_db"],
        fingerprints=fingerprints,
        guided=tuple(part.kind for part in (ar, nar) if part.architecture.get("guided")),
    )


def check_belonging(codec: str, ar: Checkpoint, nar: Checkpoint) -> None:
    """Raise `UsageError` unless both language models were trained on tokens of this codec and one tokenizer."""
    problems = []
    for part in (ar, nar):
        if part.parents["codec"] != codec:
            problems.append(f"the {part.kind.upper()} model was trained on tokens of codec "
                            f"`{part.parents['codec'][:12]}`, this codec is `{codec[:12]}`")
    if ar.parents["text_tokenizer"] != nar.parents["text_tokenizer"]:
        problems.append(f"the AR model reads text tokenizer `{ar.parents['text_tokenizer'][:12]}`, "
                        f"the NAR model `{nar.parents['text_tokenizer'][:12]}`")
    pointer = {"text_mode": "pointer"}.items() <= nar.architecture.get("model", {}).items()
    if pointer and not ar.architecture.get("model", {}).get("text_pointer"):
        problems.append("the NAR model reads the text at a pointer, which this AR model does not write")
    if ar.architecture["system"] != nar.architecture["system"]:
        problems.append(f"the AR model is of system `{ar.architecture['system']}`, "
                        f"the NAR model of `{nar.architecture['system']}`")
    if problems:
        raise UsageError("; ".join(problems), "train both on one token store, and give the codec that made it")


def _build(kind: type[nn.Module], config: ARConfig | NARConfig, checkpoint: Checkpoint, device: torch.device,
           precision: Precision) -> nn.Module:
    """Make a model of a checkpoint, tensor by tensor: at no time are there two copies of it in memory."""
    with torch.device("meta"):
        model = kind(config)
    file = TensorFile(checkpoint.folder / TENSORS_FILE)
    if differing := file.names ^ model.state_dict().keys():
        raise StorageError(f"`{file.path}` lacks or has more than the tensors of its own settings: "
                           f"{', '.join(f'`{name}`' for name in sorted(differing)[:3])}")
    return load_for_speaking(model, file.read, device, precision)

