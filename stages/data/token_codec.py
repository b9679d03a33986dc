"""The codec behind a token store: opened and compared, and what its hierarchy makes of codes for the NAR model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from stages.codec.base import Codec, TokenHierarchy
from stages.codec.registry import codec_fingerprint, load_codec
from stages.data.tokens import NARBatch, TokenData
from stages.errors import UsageError
from stages.lm.transformer import valid_positions


def open_codec(path: str, data: TokenData) -> Codec:
    """Load the codec at `path`, which is not trained. Raises `UsageError` when it did not make the tokens."""
    codec = load_codec(path).requires_grad_(False)
    found, expected = codec_fingerprint(codec), data.store.codec_fingerprint
    if found != expected:
        raise UsageError(
            f"`{data.describe()['tokens']}` holds tokens of codec `{expected[:12]}`, "
            f"but `{path}` is codec `{found[:12]}`",
            f"give the codec that made the tokens, or make new ones: halle tokenize --codec {path}",
        )
    return codec


def feature_statistics(batches: Iterable[NARBatch], hierarchy: TokenHierarchy) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [latent_dim] of the features of all real frames, each at its item's level."""
    values = []
    for batch in batches:
        feature = level_inputs(batch, hierarchy)["feature"]
        values.append(feature.transpose(1, 2)[valid_positions(batch.lengths, feature.shape[-1])])
    std, mean = torch.std_mean(torch.cat(values).double(), dim=0)
    return mean, std


def level_inputs(batch: NARBatch, hierarchy: TokenHierarchy) -> dict[str, Tensor | None]:
    """Return features and targets of each item's level, and the complete features of the prompts.

    `feature` and `prompt` are [batch, latent_dim, frames] (`prompt` None when no item has one), `targets` [batch,
    frames], `levels` [batch]; `places` [batch, frames] are there for a text pointer.
    """
    levels = torch.tensor(batch.levels, device=batch.lengths.device)
    feature = targets = None
    for level in sorted(set(batch.levels)):
        rows = levels == level
        streams = {name: codes[rows] for name, codes in batch.clips.items()}
        found, codes = hierarchy.teacher_feature(streams, level), hierarchy.level_codes(streams, level)
        if feature is None:
            feature = found.new_zeros(len(rows), *found.shape[1:])
            targets = codes.new_zeros(len(rows), codes.shape[-1])
        feature[rows], targets[rows] = found, codes
    prompt = None
    if batch.prompt_lengths.max() > 0:
        prompt = hierarchy.teacher_feature(batch.prompts, hierarchy.num_levels + 1)
    inputs = {"feature": feature, "targets": targets, "levels": levels, "prompt": prompt}
    return inputs if batch.places is None else inputs | {"places": batch.places}
