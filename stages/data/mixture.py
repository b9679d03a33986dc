"""Token stores read as one: `--tokens STORE:weight`, as often as there are stores.

A weight says how often an epoch hears each utterance of a store. `STORE:3` is the store three times, `STORE:0.25` a
quarter of it, the next epoch the next quarter. So a store's share of what is trained on is its weight times its size.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stages.artifacts.storage import fingerprint_of
from stages.artifacts.token_store import StreamInfo, TokenStore, TokenUtterance, open_store
from stages.errors import UsageError

log = logging.getLogger("halle.data")


@dataclass(frozen=True)
class Ingredient:
    """A store and how often an epoch hears each of its utterances."""

    store: TokenStore
    weight: float = 1.0

    @property
    def shares(self) -> tuple[float, ...]:
        """What an epoch hears of each copy of the store: 1, 1 and 0.5 for a weight of 2.5."""
        whole = math.floor(self.weight)
        return (1.0,) * whole + ((self.weight - whole,) if self.weight > whole else ())

    def described(self) -> str:
        return f"{self.store.path.as_posix()}:{self.weight:g}" if self.weight != 1 else self.store.path.as_posix()


@dataclass(frozen=True)
class _Copy:
    """One reading of a store. The copies of an utterance have ids of their own, so that their clips differ."""

    ingredient: int
    store: TokenStore
    share: float
    number: int  # 1 for the store itself

    def utterance(self, index: int) -> TokenUtterance:
        found = self.store.utterance(index)
        return found if self.number == 1 else replace(found, id=f"{found.id}#{self.number}")


class TokenMixture:
    """Read access like a `TokenStore`'s to all copies of all stores, one after the other."""

    def __init__(self, ingredients: list[Ingredient]):
        self.ingredients = tuple(ingredients)
        refuse_different(self.ingredients)
        self._copies = [_Copy(place, ingredient.store, share, number)
                        for place, ingredient in enumerate(self.ingredients)
                        for number, share in enumerate(ingredient.shares, start=1)]  # fmt: skip
        self._starts = np.cumsum([0, *(len(copy.store) for copy in self._copies)])

    @property
    def _first(self) -> TokenStore:
        return self.ingredients[0].store

    @property
    def streams(self) -> tuple[StreamInfo, ...]:
        return self._first.streams

    @property
    def codec_fingerprint(self) -> str:
        return self._first.codec_fingerprint

    @property
    def text_tokenizer_fingerprint(self) -> str:
        return self._first.text_tokenizer_fingerprint

    @property
    def text_tokenizer_path(self) -> Path:
        return self._first.text_tokenizer_path

    @property
    def loudness_db(self) -> float | None:
        """RMS of the recordings in dB, None when it is unknown or differs from store to store."""
        found = {ingredient.store.facts.get("loudness_target") for ingredient in self.ingredients}
        return found.pop() if len(found) == 1 else None

    def parents(self) -> dict[str, str]:
        """Return what a model trained on this records of it: every store's fingerprint and weight."""
        fingerprints = [(item.store.fingerprint, f"{item.weight:g}") for item in self.ingredients]
        if len(fingerprints) == 1 and self.ingredients[0].weight == 1:
            return {"tokens": fingerprints[0][0]}
        parents = {"tokens": fingerprint_of(fingerprints)}
        for number, (fingerprint, weight) in enumerate(fingerprints, start=1):
            parents |= {f"tokens.{number}": fingerprint, f"tokens.{number}.weight": weight}
        return parents

    def stream(self, name: str) -> StreamInfo | None:
        return self._first.stream(name)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> TokenUtterance:
        return self.utterance(index)

    def utterance(self, index: int) -> TokenUtterance:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._copies[place].utterance(int(index - self._starts[place]))

    @property
    def rows(self) -> list[dict]:
        """Facts of every utterance, in order; copies have the same."""
        return [row for copy in self._copies for row in copy.store.rows]

    def lengths(self, name: str) -> np.ndarray:
        """Return the number of tokens (`text`) or frames (a stream's name) of every utterance, int64."""
        return np.concatenate([copy.store.lengths(name) for copy in self._copies])

    def shares(self) -> np.ndarray:
        """Return for every utterance the share of epochs that hear it, above 0 and at most 1."""
        return np.concatenate([np.full(len(copy.store), copy.share) for copy in self._copies])

    def origins(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for every utterance the place of its store among the ingredients, and which copy it is of."""
        sizes = [len(copy.store) for copy in self._copies]
        return (np.repeat([copy.ingredient for copy in self._copies], sizes),
                np.repeat([copy.number for copy in self._copies], sizes))  # fmt: skip


def open_mixture(tokens: str | Path | Sequence[str]) -> TokenMixture:
    """Open the stores after `--tokens`, each with its weight; they must agree in codec, streams and text tokenizer."""
    given = [tokens] if isinstance(tokens, (str, Path)) else tokens
    texts = [str(text) for text in given if text]
    if not texts:
        raise UsageError("expected a token store after --tokens, got none", "make one with: halle tokenize")
    mixture = TokenMixture([Ingredient(open_store(path), weight) for path, weight in map(parse_tokens, texts)])
    loudness = {item.described(): item.store.facts.get("loudness_target") for item in mixture.ingredients}
    if len(set(loudness.values())) > 1:
        log.warning("the stores are not equally loud, so prompts stay as they are: %s", ", ".join(
            f"`{name}` {'unknown' if decibels is None else f'{decibels:g} dB'}" for name, decibels in loudness.items()))
    return mixture


def parse_tokens(text: str) -> tuple[str, float]:
    """Split `STORE:weight` into both; the colon of `C:\\store` and of a folder that exists belongs to the path."""
    path, _, weight = text.rpartition(":")
    is_number = re.fullmatch(r"\d+(\.\d*)?|\.\d+", weight)
    on_a_drive = len(path) == 1 and not is_number
    if not path or on_a_drive or "/" in weight or "\\" in weight or Path(text).exists():
        return text, 1.0
    if not is_number or float(weight) == 0:
        raise UsageError(f"expected a weight above 0 after the colon, such as {path}:0.5, got `{text}`",
                         "the weight says how often an epoch hears each utterance of the store")
    return path, float(weight)


def refuse_different(ingredients: tuple[Ingredient, ...]) -> None:
    """Raise UsageError with every difference between the stores, or when one is given twice."""
    first, problems = ingredients[0].store, []
    for other in (ingredient.store for ingredient in ingredients[1:]):
        for what, ours, theirs in (
            ("codec", first.codec_fingerprint[:12], other.codec_fingerprint[:12]),
            ("streams", _told(first), _told(other)),
            ("text tokenizer", first.text_tokenizer_fingerprint[:12], other.text_tokenizer_fingerprint[:12]),
        ):
            if ours != theirs:
                problems.append(f"{what} `{ours}` in `{first.path}`, `{theirs}` in `{other.path}`")
    if problems:
        raise UsageError(f"the token stores do not go together: {'; '.join(problems)}",
                         f"make them alike with: halle tokenize --like {first.path} --codec CODEC --data DIR")
    seen: dict[str, Path] = {}
    for store in (ingredient.store for ingredient in ingredients):
        if store.fingerprint in seen:
            raise UsageError(f"expected different token stores, got the same twice: `{seen[store.fingerprint]}` and "
                             f"`{store.path}`", "give it once, with a weight: --tokens STORE:2")
        seen[store.fingerprint] = store.path


def _told(store: TokenStore) -> str:
    return ", ".join(f"{stream.name} {stream.num_codebooks} x {stream.frame_rate:g} Hz of {stream.codebook_size}"
                     for stream in store.streams)
