"""The sentences that are read: the examples which WordNet gives of its words' use, and its definitions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from stages.randomness import derive_seed
from stages.text.tables import text_key

WORDNET = Path("/usr/share/wordnet")
FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
TRAIN, VALIDATION, TEST = "train", "validation", "test"

_EXAMPLE = re.compile(r'"([^"]+)"')
# Letters and plain punctuation: no digits, brackets, quotes or slashes, which every reader would read otherwise.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z',;:?!. -]*")
_ABBREVIATION = re.compile(r"\b[A-Z]{2,}\b|\b[A-Za-z]\.|\b(?:Mr|Mrs|Dr|St|etc|vs)\.|\.\.|--|\w\.\w")


def glosses(folder: Path) -> Iterator[str]:
    """Yield what WordNet says of each meaning: definitions, then quoted examples, all with `;` between them."""
    for name in FILES:
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):  # the licence
                yield line.partition(" | ")[2]


def examples(folder: Path) -> list[str]:
    """Return the quoted examples of WordNet's glosses, as they stand there."""
    return [example for gloss in glosses(folder) for example in _EXAMPLE.findall(gloss)]


def definitions(folder: Path) -> list[str]:
    """Return the definitions of WordNet's glosses, as they stand there."""
    return [definition for gloss in glosses(folder) for definition in gloss.partition('"')[0].split(";")]


def as_sentence(text: str, words: tuple[int, int] = (4, 25)) -> str:
    """Return `text` with a capital and a full stop, or '' if it is not plain English of so many words."""
    text = " ".join(text.split()).strip(" ,;:-")
    fits = _PLAIN.fullmatch(text) and not _ABBREVIATION.search(text)
    if not fits or not words[0] <= len(text.split()) <= words[1]:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def wordnet_sentences(folder: Path = WORDNET) -> list[str]:
    """Return all usable examples, each once, sorted."""
    return usable(examples(folder))


def wordnet_definitions(folder: Path = WORDNET) -> list[str]:
    """Return all usable definitions, each once, sorted, without those that are an example too."""
    known = set(map(text_key, wordnet_sentences(folder)))
    return [sentence for sentence in usable(definitions(folder)) if text_key(sentence) not in known]


def usable(texts: list[str]) -> list[str]:
    """Return those of `texts` that make a sentence, as sentences, each once, sorted."""
    by_key = {text_key(sentence): sentence for sentence in map(as_sentence, texts) if sentence}
    return sorted(by_key.values())


def side_of(sentence: str, seed: int, test_share: float, validation_share: float) -> str:
    """Return the split that a sentence belongs to, whoever says it; it depends on (seed, its words) only."""
    place = derive_seed(seed, "side", text_key(sentence)) / 2**63
    return TEST if place < test_share else VALIDATION if place < test_share + validation_share else TRAIN
