"""Text in a loop: what recognisers write when they have lost the thread, or hear words in noise."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from stages.text.tables import text_key

MAX_COMPRESSION = 2.4  # Whisper's own threshold (Radford et al. 2023, section 4.5), of at most 30 s of speech
_ROUNDS = 5  # of one phrase in a row; nobody says a thing five times, while four noes happen
_LONG_ROUNDS, _LONG_WORDS = 3, 5  # of a phrase of so many words
_LONGEST_PHRASE = 40  # words


def is_repetitive(text: str) -> bool:
    """Tell whether a recogniser's text of half a minute is a loop: it compresses too well, or repeats a phrase."""
    data = text.encode()
    if data and len(data) / len(zlib.compress(data)) > MAX_COMPRESSION:
        return True
    return has_phrase_loop(text_key(text).split())


def has_phrase_loop(words: Sequence[str]) -> bool:
    """Tell whether a phrase comes five times in a row, or one of five words and more three times."""
    for length in range(1, min(_LONGEST_PHRASE, len(words) // _LONG_ROUNDS) + 1):
        rounds = _LONG_ROUNDS if length >= _LONG_WORDS else _ROUNDS
        run = 0  # words in a row that are what they were a phrase ago
        for word, earlier in zip(words[length:], words, strict=False):
            run = run + 1 if word == earlier else 0
            if run >= length * (rounds - 1):
                return True
    return False
