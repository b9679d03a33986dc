"""Sentences of a normalised text."""

from __future__ import annotations

import re

# A mark that ends a sentence, with what closes after it; the next sentence begins after a space. `!" he said` goes on.
_END = re.compile(r"(?<=[.!?])[.!?]*[\"')\]]*(\s+)(?![a-z])")


def split_sentences(text: str) -> tuple[str, ...]:
    """Split normalised text (see `normalize`: no abbreviation keeps its full stop) after `.`, `!` and `?`.

    Joined with single spaces, the sentences are the text again.
    """
    sentences, begin = [], 0
    for match in _END.finditer(text):
        sentences.append(text[begin : match.start(1)])
        begin = match.end(1)
    return tuple(sentence for sentence in (*sentences, text[begin:]) if sentence)
