"""The model that a training starts from (`--init`): it must read the stores' text, and may give its architecture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from stages.artifacts.checkpoint import Checkpoint, describe_checkpoint, load_checkpoint, part_of_model
from stages.config.resolve import flatten
from stages.config.stage_configs import TrainARConfig, TrainNARConfig
from stages.data.tokens import TokenData
from stages.errors import UsageError
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel
from stages.lm.transformer import InitReport

log = logging.getLogger("halle.data")

Config = TypeVar("Config", TrainARConfig, TrainNARConfig)
WINDOWS = ("window_seconds", "prompt_seconds")  # of a NAR model: beside `model`, and part of what it has learned
DROPOUT = "model.transformer.dropout"  # the one setting of `model` that leaves the architecture as it is
FROM_SCRATCH = "none"  # in the place of a fingerprint: a run that began so goes on so


def keep_architecture(config: Config, kind: str) -> Config:
    """Return settings that fine-tune: sizes and windows are those of the `kind` (`ar` or `nar`) after `--init`.

    A model folder after `--init` also stands for its codec and its NAR model where none is given. Settings that do
    not fine-tune (`keep_architecture` is false) are returned as they are.
    """
    if not config.keep_architecture:
        return config
    if not config.init:
        raise UsageError("expected the model to fine-tune after --init, got none",
                         "give --init MODEL, or choose another --preset to train from scratch")
    _refuse_sizes(config)
    architecture = describe_checkpoint(config.init, kind)[1]["architecture"]
    theirs = type(config.model).model_validate(architecture["model"])
    transformer = theirs.transformer.model_copy(update={"dropout": config.model.transformer.dropout})
    kept = {"model": theirs.model_copy(update={"transformer": transformer})}
    kept |= {name: architecture[name] for name in WINDOWS if architecture.get(name) is not None}
    return config.model_copy(update=kept | _beside(config))


def _refuse_sizes(config: TrainARConfig | TrainNARConfig) -> None:
    ours, default = flatten(config), flatten(type(config)())
    given = [f"`{key}`" for key, value in ours.items() if (key.startswith("model.") or key in WINDOWS)
             and key != DROPOUT and value != default[key]]  # fmt: skip
    if given:
        raise UsageError(f"expected no sizes beside those of `{config.init}`, got {', '.join(given)}",
                         "leave them out, or set -O keep_architecture=false to start another size from this model")


def _beside(config: TrainARConfig | TrainNARConfig) -> dict[str, str]:
    """Return the model folder for each part that is not given and that it holds."""
    if part_of_model(config.init, "codec") == Path(config.init):
        return {}
    return {name: config.init for name in ("codec", "nar") if not getattr(config, name, config.init)}


def open_init(config: TrainARConfig | TrainNARConfig, kind: str, data: TokenData) -> Checkpoint | None:
    """Load the model after `--init`; refuse one that reads other text tokens, or to fine-tune one on other codes."""
    if not config.init:
        return None
    init = load_checkpoint(config.init, kind)
    store, same_codec = data.store, init.parents["codec"] == data.store.codec_fingerprint
    if init.parents["text_tokenizer"] != store.text_tokenizer_fingerprint:
        option = "--like" if same_codec else "--text-tokenizer"
        raise UsageError(
            f"`{config.init}` reads text tokenizer `{init.parents['text_tokenizer'][:12]}`, but the tokens in "
            f"`{store.ingredients[0].store.path}` are of `{store.text_tokenizer_fingerprint[:12]}`",
            f"make a store for it: halle tokenize {option} {config.init} --codec CODEC --data DIR --out STORE")
    if not same_codec and init.architecture["system"] == data.system:
        found = (f"`{config.init}` was trained on codec `{init.parents['codec'][:12]}`, the tokens are of "
                 f"`{store.codec_fingerprint[:12]}`")
        if config.keep_architecture:
            raise UsageError(found, f"make a store for it: halle tokenize --like {config.init} --data DIR --out STORE")
        log.warning("%s: its codes stand for other sounds", found)
    return init


def start_from(model: ARModel | NARModel, init: Checkpoint) -> InitReport:
    """Copy what fits into `model` and log what happened to every tensor; of a model of another width nothing does."""
    ours, theirs = model.config.transformer.dim, init.architecture["model"]["transformer"]["dim"]
    if ours != theirs:
        raise UsageError(f"nothing of `{init.folder}` fits: expected a model {ours} wide, got {theirs}",
                         f"take its sizes with --preset finetune, or set -O model.transformer.dim={theirs}")
    pointer = "text_pointer"  # with one, other streams have the same numbers
    here = getattr(model.config, pointer, False)
    if here != init.architecture["model"].get(pointer, False):
        raise UsageError(f"expected a model {'with' if here else 'without'} a text pointer, got `{init.folder}`",
                         f"set -O model.{pointer}=false -O model.text_prefix=true" if here else
                         f"set -O model.{pointer}=true")
    report = model.load_from(init.tensors)
    report.log(log, init.folder)
    return report


def longest_heard(data: TokenData, init: Checkpoint | None) -> dict[str, int]:
    """Return how long the utterances were that an AR model has heard, those of its first training included.

    One that has spoken for minutes does not unlearn it in a few steps on short clips.
    """
    longest = {"max_frames": data.longest(data.lowest.name), "max_text_tokens": data.longest("text")}
    frames = {"stream": data.lowest.name, "frame_rate": data.lowest.frame_rate}
    if init is None or any(init.architecture[name] != ours for name, ours in frames.items()):
        return longest
    return {name: max(ours, init.architecture[name]) for name, ours in longest.items()}
