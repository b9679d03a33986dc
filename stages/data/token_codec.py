"""The codec behind a token store: opened and compared, and what its hierarchy makes of codes for language models."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.token_store import TokenUtterance
from stages.codec.base import Codec, Streams, TokenHierarchy
from stages.codec.registry import codec_fingerprint, load_codec
from stages.data.tokens import NARBatch, TokenData
from stages.errors import UsageError
from stages.lm.transformer import valid_positions

COUNTED_UTTERANCES = 2000


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


def streams_of(utterance: TokenUtterance, device: torch.device) -> Streams:
    """Return all codes of an utterance as a batch of one."""
    return {name: torch.from_numpy(codes.T.astype(np.int64))[None].to(device)
            for name, codes in utterance.codes.items()}  # fmt: skip


def count_codes(
    data: TokenData, pick: Callable[[Streams], Tensor], num_streams: int, codebook_size: int
) -> Tensor:
    """Return how often each code occurs, [num_streams, codebook_size], in up to COUNTED_UTTERANCES of those trained on.

    `pick` takes an utterance's streams [1, codebooks, frames] and returns the codes to count, [num_streams, frames].
    """
    counts = torch.zeros(num_streams, codebook_size, dtype=torch.long)
    chosen = np.linspace(0, len(data.train) - 1, min(COUNTED_UTTERANCES, len(data.train))).round().astype(int)
    for index in data.train[chosen]:
        for stream, codes in enumerate(pick(streams_of(data.store[int(index)], torch.device("cpu")))):
            counts[stream] += torch.bincount(codes, minlength=codebook_size)
    return counts


def lowest_counts(data: TokenData) -> Tensor:
    """Return how often each code of each codebook of the lowest stream occurs, [codebooks, codebook_size]."""
    lowest = data.lowest
    return count_codes(data, lambda streams: streams[lowest.name][0, : lowest.num_codebooks],
                       lowest.num_codebooks, lowest.codebook_size)  # fmt: skip


def level_counts(data: TokenData, hierarchy: TokenHierarchy) -> Tensor:
    """Return how often each code of each level occurs, [levels, codebook_size]."""
    levels = range(1, hierarchy.num_levels + 1)
    return count_codes(data, lambda streams: torch.cat([hierarchy.level_codes(streams, level) for level in levels]),
                       hierarchy.num_levels, hierarchy.codebook_size)  # fmt: skip


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
