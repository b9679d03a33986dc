"""The texts of a corpus: normalised, and those that cannot be used named with a reason."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from stages.artifacts.manifest import Utterance
from stages.errors import UsageError
from stages.text.normalizer import normalize
from stages.text.tokenizer import TextTokenizer, listed

log = logging.getLogger("halle.text")

Policy = Literal["skip", "drop", "fail"]


@dataclass(frozen=True)
class Item:
    """An utterance with its normalised text; `rejection` (id, reason, detail) tells why it cannot be used."""

    utterance: Utterance
    text: str
    rejection: dict | None = None


class Items(Sequence[Item]):
    """The items of a corpus, in its order. Each is made when it is asked for: corpora may be larger than memory."""

    def __init__(self, utterances: Sequence[Utterance], change: Callable[[Item], Item] = lambda item: item):
        self.utterances, self._change = utterances, change

    def __len__(self) -> int:
        return len(self.utterances)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self._made(utterance) for utterance in self.utterances[index]]
        return self._made(self.utterances[index])

    def _made(self, utterance: Utterance) -> Item:
        return self._change(normalised_item(utterance))


def normalised_item(utterance: Utterance) -> Item:
    """Normalise an utterance's text; what says nothing is rejected."""
    try:
        text = normalize(utterance.text)
    except UsageError as error:
        return _reject(utterance, "BAD_TEXT", error.message)
    if not says_something(text):
        return _reject(utterance, "NO_TEXT", "the text is empty after normalisation")
    return Item(utterance, text)


def says_something(text: str) -> bool:
    """Tell whether a text has anything to read aloud."""
    return any(character.isalnum() for character in text)


def apply_policy(items: Items, tokenizer: TextTokenizer, policy: Policy) -> tuple[Items, dict[str, int]]:
    """Skip texts with characters that the tokenizer does not know, drop these characters, or fail.

    Returns the items, in the same order, and how often each character was dropped. All unknown characters of
    the corpus are counted in one warning, or in the `UsageError`.
    """
    total, num_texts = Counter(), 0
    for item in items:
        unknown = tokenizer.unknown_characters(item.text)
        total.update(unknown)
        num_texts += bool(unknown)
    if not total:
        return items, {}
    found = (f"{num_texts} of {len(items)} texts have characters that the text tokenizer does not know: "
             f"{listed(dict(total.most_common()))}")
    if policy == "fail":
        raise UsageError(found, "mend the texts, or set -O unknown_characters=skip or drop")
    log.warning("%s (%s)", found, "these utterances are left out" if policy == "skip" else "these are dropped")
    changed = Items(items.utterances, lambda item: _apply_to_item(item, tokenizer, policy))
    return changed, dict(total.most_common()) if policy == "drop" else {}


def _apply_to_item(item: Item, tokenizer: TextTokenizer, policy: Policy) -> Item:
    unknown = tokenizer.unknown_characters(item.text)
    if not unknown:
        return item
    if policy == "skip":
        return _reject(item.utterance, "UNKNOWN_CHARACTERS", f"not in the alphabet: {listed(unknown)}")
    text = " ".join("".join(c for c in item.text if c not in unknown and c.lower() not in unknown).split())
    if not says_something(text):
        return _reject(item.utterance, "NO_TEXT", "the text has only characters outside the alphabet")
    return Item(item.utterance, text)


def _reject(utterance: Utterance, reason: str, detail: str) -> Item:
    return Item(utterance, "", {"id": utterance.id, "reason": reason, "detail": detail})
