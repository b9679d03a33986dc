"""Normalised text to at most `vocab_size` ids: character-level byte-pair encoding.

The paper gives only the size, 258. A byte-level vocabulary of that size has no room for merges and needs
about 6.6 tokens a word; the paper's lengths imply about 3.4. So the alphabet is learned from the data (some 40
characters in English), which leaves over 200 merges.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from stages.artifacts import strict_json
from stages.artifacts.storage import FORMAT_VERSION, fingerprint_of, write_text
from stages.artifacts.token_store import TEXT_TOKENIZER_FILE
from stages.errors import StorageError, UsageError
from stages.text.normalizer import NORMALIZER_VERSION

log = logging.getLogger("halle.text")

PAD, UNK, EOT = 0, 1, 2
SPECIALS = ("<pad>", "<unk>", "<eot>")  # padding, character outside the alphabet, end of text
WORD_START = "▁"  # stands before every word; merges never cross it
KIND = "text tokenizer"


@dataclass(frozen=True)
class TextTokenizer:
    """Encode normalised text (see `stages.text.normalizer.normalize`) and decode it again.

    `entries[id]` is what an id stands for, `merges` are pairs of entries in the order they apply. A corpus too
    small for all merges leaves `<unused-i>` entries at the end, so that models always have `vocab_size` rows.
    """

    entries: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    lowercase: bool = True
    normalizer: str = NORMALIZER_VERSION

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 258, lowercase: bool = True) -> TextTokenizer:
        """Learn alphabet and merges from normalised texts; the same texts give the same tokenizer.

        `lowercase` is inferred: the paper does not say, and case is not heard. If there are more characters
        than entries, the rarest stay outside the alphabet. Raises `UsageError` when the texts are empty.
        """
        texts = [_canonical(text, lowercase) for text in texts]
        counts = Counter(character for text in texts for character in text.replace(WORD_START, ""))
        if not counts:
            raise UsageError("no text to learn a tokenizer from", "check the `text` column of the manifest")
        alphabet = _most_common(counts, room=vocab_size - len(SPECIALS) - 1)
        trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(SPECIALS), show_progress=False,
                                      initial_alphabet=[WORD_START, *alphabet], limit_alphabet=len(alphabet) + 1)
        tokenizer = _empty_tokenizer(models.BPE())
        keep = frozenset([*alphabet, " "])
        tokenizer.train_from_iterator(("".join(c for c in text if c in keep) for text in texts), trainer)
        vocabulary = tokenizer.get_vocab()
        learned = sorted(vocabulary, key=vocabulary.get)
        unused = [f"<unused-{index}>" for index in range(vocab_size - len(SPECIALS) - len(learned))]
        return cls((*SPECIALS, *learned, *unused), _merges_of(tokenizer), lowercase)

    @property
    def vocab_size(self) -> int:
        """Number of ids, unused ones included: the rows of a model's embedding."""
        return len(self.entries)

    @cached_property
    def alphabet(self) -> frozenset[str]:
        """Characters that can be encoded, the space not counted."""
        return frozenset(entry for entry in self.entries if len(entry) == 1) - {WORD_START}

    @cached_property
    def fingerprint(self) -> str:
        """Identify what this tokenizer does; token stores and models made with another do not fit."""
        return fingerprint_of(self._record())

    @cached_property
    def _bpe(self) -> Tokenizer:
        # The specials are plain entries, not "added tokens": a text that says `<eot>` must not end there.
        vocabulary = {entry: index for index, entry in enumerate(self.entries)}
        return _empty_tokenizer(models.BPE(vocabulary, list(self.merges), unk_token=SPECIALS[UNK]))

    def encode(self, text: str, unknown_characters: Literal["drop", "fail"] = "drop") -> list[int]:
        """Return the ids of normalised `text`, ending with `EOT`.

        Letters outside the alphabet become those without their accents, if it has these. Other characters are dropped
        (`unknown_characters` tells which, so that callers can say so), or raise a `UsageError` that lists and counts
        them.
        """
        canonical, unknown = self._readable(text), self.unknown_characters(text)
        if unknown and unknown_characters == "fail":
            raise UsageError(f"the text has characters that the text tokenizer does not know: {listed(unknown)}",
                             "write them differently, or set -O unknown_characters=drop")
        known = " ".join("".join(c for c in canonical if c not in unknown).split())
        return [*self._bpe.encode(known).ids, EOT]

    def encode_pair(self, prompt_text: str, text: str,
                    unknown_characters: Literal["drop", "fail"] = "drop") -> list[int]:
        """Return the ids of `text` read on from `prompt_text`: one text with one end, as in training."""
        return [*self.encode(prompt_text, unknown_characters)[:-1], *self.encode(text, unknown_characters)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; specials are left out, `UNK` becomes U+FFFD."""
        pieces = ("\ufffd" if index == UNK else self.entries[index] for index in ids if index not in (PAD, EOT))
        return "".join(pieces).replace(WORD_START, " ").strip()

    def unknown_characters(self, text: str) -> dict[str, int]:
        """Count the characters of `text` that cannot be encoded, in the order they appear."""
        return dict(Counter(c for c in self._readable(text) if c not in self.alphabet and c != " "))

    def _readable(self, text: str) -> str:
        """Return `text` as it is encoded, with what cannot be: a `é` outside the alphabet is an `e`."""
        canonical = _canonical(text, self.lowercase)
        bare = {ord(c): _without_marks(c) for c in set(canonical) - self.alphabet}
        return canonical.translate({c: base for c, base in bare.items() if base and self.alphabet.issuperset(base)})

    def to_json(self) -> str:
        """Return the text of the file that `save` writes; models carry it with them."""
        return json.dumps({"format_version": FORMAT_VERSION, **self._record(), "fingerprint": self.fingerprint},
                          indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str | Path = "text tokenizer") -> TextTokenizer:
        """Read what `to_json` returned; raise `StorageError` when it is damaged. `source` only names it in errors."""
        try:
            record = strict_json.parse(text)
        except ValueError as error:
            raise StorageError(f"`{source}` is not JSON: {error}", "restore it from the token store it came from") \
                from error
        if not isinstance(record, dict) or record.get("kind") != KIND:
            raise UsageError(f"expected a text tokenizer, got `{source}`",
                             "halle tokenize writes one as text_tokenizer.json into its store")
        version = record.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UsageError(f"expected format_version at most {FORMAT_VERSION} in `{source}`, "
                             f"got `{version}`", "upgrade halle")
        try:
            tokenizer = cls(tuple(record["entries"]), tuple(tuple(pair) for pair in record["merges"]),
                            record["lowercase"], record["normalizer"])
            whole = tokenizer.fingerprint == record["fingerprint"]
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise StorageError(f"`{source}` is damaged: its content does not match its fingerprint",
                               "restore it from the token store it came from")
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write a JSON file that `load` reads."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Read what `save` wrote, or the tokenizer of the token store in the folder `path`."""
        path = Path(path) / TEXT_TOKENIZER_FILE if Path(path).is_dir() else Path(path)
        try:
            return cls.from_json(path.read_text(encoding="utf-8"), path)
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise UsageError(f"expected a text tokenizer, got `{path}`, which "
                             f"{'does not exist' if isinstance(error, FileNotFoundError) else 'is not text'}",
                             "halle tokenize writes one as text_tokenizer.json into its store") from error

    def _record(self) -> dict:
        return {"kind": KIND, "vocab_size": self.vocab_size, "lowercase": self.lowercase,
                "normalizer": self.normalizer, "specials": list(SPECIALS), "entries": list(self.entries),
                "merges": [list(pair) for pair in self.merges]}


def listed(counts: dict[str, int]) -> str:
    """Write character counts for a message: `€` (U+20AC) 3 times."""
    return ", ".join(f"`{character}` (U+{ord(character):04X}) {count} {'time' if count == 1 else 'times'}"
                     for character, count in counts.items())


def _canonical(text: str, lowercase: bool) -> str:
    return " ".join((text.lower() if lowercase else text).split())


def _without_marks(character: str) -> str:
    """Return the letters that a letter with accents, or a ligature, is made of."""
    return "".join(c for c in unicodedata.normalize("NFKD", character.casefold()) if not unicodedata.combining(c))


def _most_common(counts: Counter[str], room: int) -> list[str]:
    """Return at most `room` characters, the most frequent first; equal counts in code point order."""
    ranked = sorted((c for c in counts if c != " "), key=lambda c: (-counts[c], c))
    if len(ranked) > room:
        log.warning("%d of %d characters do not fit into the vocabulary", len(ranked) - room, len(ranked))
    return ranked[:room]


def _empty_tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")
    return tokenizer


def _merges_of(tokenizer: Tokenizer) -> tuple[tuple[str, str], ...]:
    return tuple(tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"])
