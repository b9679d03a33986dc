"""What is counted in a text of some language, and how the text is normalised before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from stages.speech.transcriber import base_language

# Written without spaces between words: characters are counted (the list of Whisper, appendix D.2.2 of Radford et al.
# 2023, and what is written like them)
UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})


@dataclass(frozen=True)
class Normaliser:
    """A normaliser's name and version, which every error rate repeats."""

    name: str
    version: str


def counts_characters(language: str) -> bool:
    """Tell whether errors are counted by characters, as a language has no spaces between words."""
    return base_language(language) in UNSPACED


def normaliser(language: str = "en") -> Normaliser:
    """Return what normalises texts of a language.

    Whisper's basic normaliser as published puts spaces for all combining marks, which takes the vowels off Thai or
    Hindi: they are kept. Texts of other scripts have none, so for them it is the published one.
    """
    if base_language(language) == "en":
        kind = "English"
    else:
        kind = "basic, marks kept" + (", letters split" if counts_characters(language) else "")
    return Normaliser(f"whisper-normalizer ({kind}), lone signs dropped", version("whisper-normalizer"))


def normalise(text: str, language: str = "en") -> str:
    """Return what is compared: in English `twenty` as 20, no `um`; elsewhere lower case without punctuation.

    Units are separated by spaces: words, or characters (with their marks) where words have no spaces. Of an ellipsis
    at the end the normaliser leaves a lone `.`, which would count as a word that nobody can say.
    """
    normalised = _normaliser(base_language(language))(text)
    return " ".join(unit for unit in normalised.split() if any(map(str.isalnum, unit)))


@cache
def _normaliser(language: str):
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(preserve_marks=True, split_letters=language in UNSPACED)
