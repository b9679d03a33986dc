"""From token stores to what the language models train on: padded tensors, clips and prompts.

Utterances are tokenised whole and clipped here, on frames where all streams line up, so codes never see a
crop's edge. Which clip and prompt an utterance gives at a step is a pure function of (seed, step, id).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.artifacts.token_store import StreamInfo, TokenUtterance
from stages.data.mixture import TokenMixture, open_mixture
from stages.errors import UsageError
from stages.randomness import derive_seed
from stages.text.tokenizer import TextTokenizer

log = logging.getLogger("halle.data")

System = Literal["halle", "valle"]
LOWEST_STREAM = {"halle": "quant1", "valle": "rvq"}


@dataclass(frozen=True)
class TokenData:
    """Token stores as one system reads them: the AR's stream and which utterances are for what."""

    store: TokenMixture
    system: System
    lowest: StreamInfo
    train: np.ndarray  # indices into the mixture
    validation: np.ndarray  # likewise; of several stores in turn, so that its beginning is of all
    tokenizer: TextTokenizer

    @property
    def shares(self) -> np.ndarray:
        """Of each training utterance, the share of epochs that hear it."""
        return self.store.shares()[self.train]

    def ids(self, items: Sequence[int]) -> list[str]:
        """Return the ids of training utterances, given by their place among them."""
        return [self.store.utterance(index).id for index in self.train[items]]

    def longest(self, name: str) -> int:
        """Return the tokens (`text`) or frames (a stream's name) of the longest training utterance."""
        return int(self.store.lengths(name)[self.train].max())

    def train_seconds(self) -> float:
        """Return the seconds of speech that an epoch hears."""
        rows = self.store.rows
        return float(np.dot([rows[index]["duration"] for index in self.train], self.shares))

    def parents(self) -> dict[str, str]:
        """Return the fingerprints that a model trained on these stores records."""
        return {
            **self.store.parents(),
            "codec": self.store.codec_fingerprint,
            "text_tokenizer": self.store.text_tokenizer_fingerprint,
        }

    def describe(self) -> dict[str, str | int]:
        """Return what a result or a plan says of the data."""
        return {
            "tokens": ", ".join(ingredient.described() for ingredient in self.store.ingredients),
            "system": self.system,
            "train_utterances": int((self.store.origins()[1][self.train] == 1).sum()),
            "validation_utterances": len(self.validation),
        }


def open_tokens(tokens: str | Path | Sequence[str], system: System | None) -> TokenData:
    """Open stores for a system; None follows them (`quant1`: HALL-E, `rvq`: VALL-E, one codebook for the AR)."""
    store = open_mixture(tokens)
    names = [stream.name for stream in store.streams]
    found = next((name for name, stream in LOWEST_STREAM.items() if stream in names), None)
    system = system or found
    if system is None or LOWEST_STREAM[system] not in names:
        wanted = f"`{LOWEST_STREAM[system]}` for --system {system}" if system else "`quant1` or `rvq`"
        raise UsageError(
            f"expected a store with a stream {wanted}, got `{store.ingredients[0].store.path}` with {', '.join(names)}",
            "HALL-E reads tokens of a `halle mreq` codec, VALL-E of a `halle train-codec` codec",
        )
    lowest = store.stream(LOWEST_STREAM[system])
    if system == "valle":
        lowest = replace(lowest, num_codebooks=1)
    train, validation = _split(store, lowest.name)
    tokenizer = TextTokenizer.load(store.text_tokenizer_path)
    return TokenData(store, system, lowest, train, validation, tokenizer)


def _split(store: TokenMixture, lowest: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices to train on, copies included, and those to validate on, the stores' in turn."""
    splits = np.array([row["split"] for row in store.rows], dtype=object)
    usable = (store.lengths("text") > 0) & (store.lengths(lowest) > 0) if len(store) else np.zeros(0, bool)
    ingredient, copy = store.origins()
    if not usable[copy == 1].all():
        log.warning("%d utterances without text or frames are left out", int((~usable[copy == 1]).sum()))
    train = np.flatnonzero(usable & (splits == "train"))
    for place, item in enumerate(store.ingredients):
        if not (ingredient[train] == place).any():
            raise UsageError(
                f"expected utterances of split `train` in `{item.store.path}`, got none of {len(item.store)}",
                "tokenize a manifest with a train split",
            )
    held_out = [
        np.flatnonzero(usable & (splits == "validation") & (copy == 1) & (ingredient == place))
        for place in range(len(store.ingredients))
    ]
    validation = np.array([index for turn in zip_longest(*held_out) for index in turn if index is not None], dtype=int)
    silent = [f"`{item.store.path}`" for item, items in zip(store.ingredients, held_out, strict=True) if not len(items)]
    if len(validation) == 0:
        log.warning("no utterances of split `validation`: validating on training utterances")
        validation = train[copy[train] == 1]
    elif silent:
        log.warning("no utterances of split `validation` in %s: validating on the other stores", ", ".join(silent))
    return train, validation


@dataclass(frozen=True)
class ARBatch:
    """Text [batch, tokens] and codes [batch, streams, frames], zero-padded, with their lengths [batch]."""

    text: Tensor
    text_lengths: Tensor
    codes: Tensor
    frame_lengths: Tensor

    def to(self, device: torch.device) -> ARBatch:
        return ARBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def ar_lengths(data: TokenData, items: np.ndarray, text_prefix: bool = True) -> np.ndarray:
    """Return [items, 2]: text tokens in the sequence, and steps (frames and codebooks, see `stages.lm.ar`)."""
    steps = data.store.lengths(data.lowest.name)[items] + data.lowest.num_codebooks
    return np.stack([data.store.lengths("text")[items] * text_prefix, steps], axis=1)


def ar_batch(data: TokenData, items: Sequence[int], advances: Callable[[int, str], np.ndarray] | None = None
             ) -> ARBatch:  # fmt: skip
    """Return whole utterances, padded; `advances` (index, id), of a text pointer, are a stream before the codes."""
    utterances = [data.store[index] for index in items]
    text, text_lengths = _pad([utterance.text_tokens for utterance in utterances])
    codes = [utterance.codes[data.lowest.name].T[: data.lowest.num_codebooks] for utterance in utterances]
    if advances is not None:
        codes = [np.concatenate([advances(int(index), utterance.id)[None], own])
                 for index, utterance, own in zip(items, utterances, codes, strict=True)]  # fmt: skip
    return ARBatch(text, text_lengths, *_pad(codes))


@dataclass(frozen=True)
class Clip:
    """Frames start..stop at the latent rate are the target, prompt_start..prompt_stop (none if equal) the prompt."""

    start: int
    stop: int
    prompt_start: int = 0
    prompt_stop: int = 0


@dataclass(frozen=True)
class ClipRule:
    """How long clips and prompts are, in latent frames; both are multiples of `unit`, where all streams line up.

    `window` None takes the whole utterance, the prompt being its start (VALL-E).
    """

    unit: int
    window: int | None
    prompt: int
    no_prompt_probability: float
    no_text_probability: float = 0.0  # in training: validations see all texts

    @property
    def longest_prompt(self) -> int:
        return max(1, self.prompt // self.unit) * self.unit

    def with_prompts(self) -> ClipRule:
        """Return the rule that gives a prompt to every clip whose utterance is long enough."""
        return replace(self, no_prompt_probability=0.0)

    def choose(self, num_frames: int, random: Random) -> Clip:
        """Return a random clip of an utterance, and a random prompt outside it.

        There is no prompt with `no_prompt_probability`, or when it would be more than half of the utterance.
        """
        units = max(1, num_frames // self.unit)
        longest = max(1, self.prompt // self.unit)
        prompt = random.randint(-(-longest // 3), longest)
        if random.random() < self.no_prompt_probability or units < 2 * prompt:
            prompt = 0
        width = units - prompt if self.window is None else min(max(1, self.window // self.unit), units - prompt)
        if prompt == 0:
            start, prompt_start = random.randint(0, units - width), 0
        elif self.window is None or random.random() < 0.5:
            start = random.randint(prompt, units - width)
            prompt_start = random.randint(0, start - prompt)
        else:
            start = random.randint(0, units - width - prompt)
            prompt_start = random.randint(start + width, units - prompt)
        stop = num_frames if start + width == units else (start + width) * self.unit
        return Clip(start * self.unit, stop, prompt_start * self.unit, (prompt_start + prompt) * self.unit)


@dataclass(frozen=True)
class NARBatch:
    """Clips of codes and prompts, zero-padded: streams of [batch, codebooks, frames] at the latent rate."""

    text: Tensor
    text_lengths: Tensor
    clips: dict[str, Tensor]
    lengths: Tensor
    prompts: dict[str, Tensor]
    prompt_lengths: Tensor
    levels: tuple[int, ...]
    places: Tensor | None = None  # [batch, frames], for a text pointer

    def to(self, device: torch.device) -> NARBatch:
        def move(value):
            if isinstance(value, dict):
                return {name: tensor.to(device) for name, tensor in value.items()}
            return value.to(device) if isinstance(value, Tensor) else value

        return NARBatch(**{name: move(getattr(self, name)) for name in self.__dataclass_fields__})

    def at_level(self, level: int) -> NARBatch:
        return replace(self, levels=(level,) * len(self.levels))


AnyBatch = TypeVar("AnyBatch", ARBatch, NARBatch)


def hidden_texts(ids: Sequence[str], probability: float, seed: int, step: int | str) -> list[bool]:
    """Say of which utterances the text is hidden at a step, each a pure function of (seed, step, id)."""
    return [Random(derive_seed(seed, "text", step, name)).random() < probability for name in ids]


def without_text(batch: AnyBatch, hidden: Sequence[bool]) -> AnyBatch:
    """Return the batch with nothing but the end left of those texts that are `hidden`."""
    if not any(hidden):
        return batch
    rows = torch.tensor(hidden, device=batch.text.device)
    ends = batch.text.gather(1, batch.text_lengths.unsqueeze(1) - 1)
    text = torch.where(rows.unsqueeze(1), F.pad(ends, (0, batch.text.shape[1] - 1)), batch.text)
    found = replace(batch, text=text, text_lengths=batch.text_lengths.masked_fill(rows, 1))
    if isinstance(found, NARBatch) and found.places is not None:
        found = replace(found, places=found.places.masked_fill(rows.unsqueeze(1), 0))
    return found


def latent_streams(data: TokenData, hop_length: int) -> list[str]:
    """Return the streams at the latent rate: all that features and targets of levels are made of."""
    return [stream.name for stream in data.store.streams if stream.hop_length == hop_length]


def nar_lengths(
    data: TokenData, items: np.ndarray, hop_length: int, rule: ClipRule, attends_to_text: bool = True
) -> np.ndarray:
    """Return [items, 2]: text tokens that are attended to, and frames of the longest clip and prompt."""
    frames = data.store.lengths(latent_streams(data, hop_length)[0])[items]
    if rule.window is not None:
        frames = np.minimum(frames, rule.window + rule.longest_prompt)
    return np.stack([data.store.lengths("text")[items] * attends_to_text, frames], axis=1)


def nar_batch(
    data: TokenData, items: Sequence[int], hop_length: int, rule: ClipRule, level_weights: Sequence[float], seed: int,
    step: int | str, places: Callable[[int], np.ndarray] | None = None,
) -> NARBatch:  # fmt: skip
    """Return a clip, a prompt and a level of each utterance, each a pure function of (seed, step, id).

    A level is drawn as often as its weight says, among all `level_weights`.
    `places` (index), of a text pointer, says which token each frame of the lowest stream ends in.
    """
    names = latent_streams(data, hop_length)
    utterances = [data.store[index] for index in items]
    clips, levels = [], []
    for utterance in utterances:
        random = Random(derive_seed(seed, "clip", step, utterance.id))
        clips.append(rule.choose(len(utterance.codes[names[0]]), random))
        levels += random.choices(range(1, len(level_weights) + 1), level_weights)
    text, text_lengths = _pad([utterance.text_tokens for utterance in utterances])
    targets = {name: _cut(utterances, name, [(clip.start, clip.stop) for clip in clips]) for name in names}
    spans = [(clip.prompt_start, clip.prompt_stop) for clip in clips]
    read = None
    if places is not None:
        rate = data.lowest.hop_length // hop_length
        read, _ = _pad([places(int(index))[np.arange(clip.start, clip.stop) // rate]
                        for index, clip in zip(items, clips, strict=True)])  # fmt: skip
    prompts = {name: _cut(utterances, name, spans) for name in names}
    batch = NARBatch(
        text=text,
        text_lengths=text_lengths,
        clips={name: codes for name, (codes, _) in targets.items()},
        lengths=targets[names[0]][1],
        prompts={name: codes for name, (codes, _) in prompts.items()},
        prompt_lengths=prompts[names[0]][1],
        levels=tuple(levels),
        places=read,
    )
    if not isinstance(step, int):
        return batch
    return without_text(batch, hidden_texts([item.id for item in utterances], rule.no_text_probability, seed, step))


def _cut(utterances: list[TokenUtterance], name: str, spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    return _pad([item.codes[name][start:stop].T for item, (start, stop) in zip(utterances, spans, strict=True)])


def _pad(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Zero-pad arrays [..., length] at the end; return them stacked as int64 and their lengths [batch]."""
    lengths = torch.tensor([row.shape[-1] for row in rows])
    size = int(lengths.max())
    tensors = [torch.from_numpy(row.astype(np.int64)) for row in rows]
    return torch.stack([F.pad(tensor, (0, size - tensor.shape[-1])) for tensor in tensors]), lengths
