"""Text as it is written to text as it is read aloud.

The English pass is a table of patterns, each with a function from a match to words, and has no dependency: of the
packages that were tried, one drops words of sums of money, another needs a compiler and 20 s to start.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from dataclasses import dataclass

from stages.errors import UsageError
from stages.text.number_rules import NUMBER_RULES
from stages.text.rewriting import Change, rewrite
from stages.text.word_rules import ADDRESS_RULES, SYMBOL_RULES, WORD_RULES

log = logging.getLogger("halle.text")

NORMALIZER_VERSION = "en-3"  # part of a token store: texts normalised otherwise do not belong to it
LANGUAGES = ("en", "none")
_ENGLISH = (*ADDRESS_RULES, *NUMBER_RULES, *WORD_RULES, *SYMBOL_RULES)

_QUOTES = {**dict.fromkeys("‘’‚‛ʼ′`´＇", "'"), **dict.fromkeys("“”„‟«»″＂", '"')}
_DASHES = dict.fromkeys("‐‑‒–—―−﹣－", "-")
_UNREAD = dict.fromkeys("™®", "")  # NFKC would make letters of the first
_UNIFIED = str.maketrans({**_QUOTES, **_DASHES, **_UNREAD})
_FRACTION_CHARACTERS = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"


@dataclass(frozen=True)
class Normalised:
    """A text as it is read aloud, and what was changed for it, in the order of the text."""

    text: str
    changes: tuple[Change, ...]


def normalize(text: str, language: str = "en") -> str:
    """Return `text` as one line of words and plain punctuation, ready for the tokenizer.

    Cleans Unicode (NFKC, one kind of quote and hyphen, no control characters, single spaces) and, in English,
    writes numbers, dates, money, units, abbreviations and addresses as words: no digit remains.
    `language="none"` only cleans. Words and plain punctuation stay as they are. The result may be empty;
    normalising it again changes nothing. Raises `UsageError` for a lone surrogate.
    """
    return normalize_with_changes(text, language).text


def normalize_with_changes(text: str, language: str = "en") -> Normalised:
    """Do what `normalize` does, and keep what was changed and why."""
    if language not in LANGUAGES:
        raise UsageError(f"expected language {' or '.join(f'`{name}`' for name in LANGUAGES)}, got `{language}`",
                         "use `none` for text that is already written as it is spoken")
    _check_surrogates(text)
    english = language == "en"
    changes = _cleaning_changes(text, english)
    before, text = None, _clean(drop_control_characters(text), english)
    # Words put in place of a symbol can meet a combining mark that stood after it, which NFKC then joins.
    while before != text:
        before = text
        text, found = rewrite(text, _ENGLISH if english else ())
        text = _clean(text, english)
        changes += found
    return Normalised(text, tuple(changes))


def drop_control_characters(text: str) -> str:
    """Return a text without characters that are neither seen nor spaces, such as NUL or a soft hyphen; warn of them.

    Whoever normalises a text part by part drops them from the whole first: one warning instead of one for each part.
    """
    kept = _without_control(text)
    if len(kept) < len(text):
        log.warning("removed %d control characters from a text", len(text) - len(kept))
    return kept


def _without_control(text: str) -> str:
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))


def _cleaning_changes(text: str, english: bool) -> list[Change]:
    pairs = ((word, _clean(word, english)) for word in text.split())
    return [Change(word, clean, "one way to write a character") for word, clean in pairs if word != clean]


def _check_surrogates(text: str) -> None:
    match = re.search(r"[\ud800-\udfff]", text)
    if match:
        raise UsageError(f"character {match.start() + 1} of the text is a lone surrogate `U+{ord(match[0]):04X}`",
                         "the text was decoded wrongly: save it again as UTF-8")


def _clean(text: str, english: bool) -> str:
    """Unify characters and spaces; drop control and format characters. English needs the dashes between digits."""
    text = re.sub(f"(?<=[0-9])(?=[{_FRACTION_CHARACTERS}])", " ", text)  # NFKC turns `1½` into `11⁄2`
    text = _without_control(_unify(text, english))
    text = _unify(unicodedata.normalize("NFKC", text), english).replace("⁄", "/")
    text = "".join(c if c.isascii() else _ascii_digit(c) for c in text)
    return " ".join(text.split())


def _unify(text: str, keep_ranges: bool) -> str:
    pieces = re.split(r"((?<=\d)[–—](?=\d|[$€£¥₹]\d))", text) if keep_ranges else [text]
    return "".join(piece if index % 2 else piece.translate(_UNIFIED) for index, piece in enumerate(pieces))


def _ascii_digit(character: str) -> str:
    """Return 0..9 for a digit of any script, every other character as it is."""
    return str(unicodedata.digit(character, character))
