"""Where a script is split into AR passes: at blank lines, and at sentence ends when it is longer than was trained.

    script      First sentence. Second one.  (blank line)  Third sentence.
    pieces      [First sentence. Second one.]    pause     [Third sentence.]

One AR pass speaks one piece. What it goes on from (the prompt, later what was said last) takes a part of the length
that the AR was trained on; the `Room` left for text is counted in text tokens.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stages.text.normalizer import normalize
from stages.text.sentences import split_sentences

log = logging.getLogger("halle.synth")

Count = Callable[[str], int]  # text tokens of a text as it is written

_MAYBE_END = re.compile(r"[.!?…][\"')\]”’»]*\s+")
_INITIAL = re.compile(r"(?<![\w°])[A-HJ-Z]\.$")  # of a name; a sentence may well end with `I.`
_CLAUSE_END = re.compile(r"[,;:.!?…—–-][\"')\]”’»]*$")
_LOOK_AHEAD = 80  # characters: enough to tell whether a full stop ends a sentence


@dataclass(frozen=True)
class Sentence:
    """A sentence as it is written, or a part of one: `goes_on` tells that its rest is the next piece's."""

    text: str
    tokens: int
    goes_on: bool = False


@dataclass(frozen=True)
class Piece:
    """What one AR pass speaks, and the silence before it in seconds."""

    sentences: tuple[Sentence, ...]
    pause_seconds: float = 0.0

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def tokens(self) -> int:
        return sum(sentence.tokens for sentence in self.sentences)


@dataclass(frozen=True)
class Room:
    """Text tokens that the first pass and each later one can speak within the length that the AR was trained on."""

    first: float
    later: float

    def of(self, index: int) -> float:
        return self.later if index else self.first


def has_words(text: str) -> bool:
    """Tell whether anything of `text` can be said."""
    return any(character.isalnum() for character in normalize(text))


def paragraphs_of(script: str) -> list[tuple[int, str]]:
    """Return each paragraph on one line, and the number of blank lines between it and the one before."""
    found: list[tuple[int, str]] = []
    blank_lines, lines = 0, []
    for line in [*script.strip().splitlines(), ""]:
        if line.strip():
            lines.append(line.strip())
            continue
        if has_words(" ".join(lines)):
            found.append((blank_lines if found else 0, " ".join(" ".join(lines).split())))
            blank_lines = 0
        lines = []
        blank_lines += 1
    return found


def sentences_of(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph as they are written; what says nothing stays with its neighbour.

    Where they end is known of the normalised text only: the full stop of `Mr. Smith` is gone there.
    """
    found, begin = [], 0
    for match in _MAYBE_END.finditer(paragraph):
        sentence, rest = paragraph[begin : match.end()].strip(), paragraph[match.end() :]
        near = rest[:_LOOK_AHEAD]  # a long rest is read for every sentence only where nothing near it can be said
        if _INITIAL.search(sentence) or not has_words(sentence) or not (has_words(near) or has_words(rest)):
            continue
        *ended, _ = split_sentences(normalize(f"{sentence} {near}"))
        if normalize(sentence) in itertools.accumulate(ended, "{} {}".format):
            found.append(sentence)
            begin = match.end()
    return [*found, paragraph[begin:].strip()]


def plan_pieces(script: str, count: Count, room: Room, pause_seconds: float) -> list[Piece]:
    """Split a script into as few pieces as the room allows, of about equal fill; blank lines always split it.

    Every blank line is a pause of `pause_seconds`. A sentence for which there is no room is split at commas, or else
    between words.
    """
    pieces: list[Piece] = []
    for blank_lines, paragraph in paragraphs_of(script):
        sentences = [part for text in sentences_of(paragraph) for part in _fitting(text, count, room)]
        for number, group in enumerate(_fill_evenly(sentences, room, len(pieces))):
            pieces.append(Piece(tuple(group), blank_lines * pause_seconds if number == 0 else 0.0))
    return pieces


def split_piece(piece: Piece, num_words: int, count: Count) -> tuple[Piece, Piece]:
    """Return the first words of a piece, and the rest of it."""
    first, rest = [], []
    for sentence in piece.sentences:
        words = sentence.text.split()
        cut = min(num_words, len(words))
        num_words -= cut
        if cut:
            first.append(_part(sentence, words[:cut], count, sentence.goes_on or cut < len(words)))
        if cut < len(words):
            rest.append(_part(sentence, words[cut:], count, sentence.goes_on))
    return replace(piece, sentences=tuple(first)), Piece(tuple(rest))


def _part(sentence: Sentence, words: Sequence[str], count: Count, goes_on: bool) -> Sentence:
    text = " ".join(words)
    return sentence if text == sentence.text else Sentence(text, count(text), goes_on)


def one_piece(script: str, count: Count) -> list[Piece]:
    """Return the whole script as one piece; blank lines are no pauses then."""
    paragraphs = paragraphs_of(script)
    if len(paragraphs) > 1:
        log.warning("in a single pass, blank lines are not made pauses")
    texts = [text for _, paragraph in paragraphs for text in sentences_of(paragraph)]
    return [Piece(tuple(Sentence(text, count(text)) for text in texts))]


def _fill(sentences: Sequence[Sentence], room: Room, first_index: int, share: float = 1.0) -> list[list[Sentence]]:
    """Put sentences into pieces one after the other, each filled up to a share of its room."""
    pieces: list[list[Sentence]] = [[]]
    for sentence in sentences:
        filled = sum(other.tokens for other in pieces[-1]) + sentence.tokens
        if pieces[-1] and filled > share * room.of(first_index + len(pieces) - 1):
            pieces.append([])
        pieces[-1].append(sentence)
    return pieces


def _fill_evenly(sentences: Sequence[Sentence], room: Room, first_index: int) -> list[list[Sentence]]:
    """Use the smallest share of the room that takes no more pieces: no short rest at the end."""
    best = _fill(sentences, room, first_index)
    for percent in range(95, 0, -5):
        tried = _fill(sentences, room, first_index, percent / 100)
        if len(tried) > len(best):
            break
        best = tried
    return best


def _fitting(text: str, count: Count, room: Room) -> list[Sentence]:
    """Return a sentence as it is when there is room for it, else its parts."""
    limit = min(room.first, room.later)
    whole = Sentence(text, count(text))
    if whole.tokens <= limit:
        return [whole]
    parts = [Sentence(part, count(part), goes_on=True) for part in _split_words(text.split(), count, limit)]
    log.warning("a sentence of %d text tokens is longer than one pass: %s: `%.40s...`", whole.tokens,
                f"it is split into {len(parts)} parts" if len(parts) > 1 else "a single word, it is not split", text)
    return [*parts[:-1], replace(parts[-1], goes_on=False)]


def _split_words(words: Sequence[str], count: Count, limit: float) -> list[str]:
    parts, held, size = [], [], 0
    for word in words:
        tokens = count(word)
        while held and size + tokens > limit:
            cut = last_clause_end(held)
            parts.append(" ".join(held[:cut]))
            held = held[cut:]
            size = sum(map(count, held))
        held.append(word)
        size += tokens
    return [*parts, " ".join(held)]


def last_clause_end(words: Sequence[str]) -> int:
    """Return after how many words the last clause in their second half ends; all of them when none does."""
    ends = [index for index in range(len(words), len(words) // 2, -1) if _CLAUSE_END.search(words[index - 1])]
    return ends[0] if ends else len(words)


def clause_starts(words: Sequence[str]) -> list[int]:
    """Return the indices of the words that begin a clause, the first word not counted."""
    return [index for index in range(1, len(words)) if _CLAUSE_END.search(words[index - 1])]
