"""Which words of a script a recogniser heard, and what lies between them.

    script   the train left an hour late | because of snow
    heard    the train laughed in our late               snow
             anchor    gap           anchor    gap       anchor

Small recognisers mistake one word for another all the time, but write about as many letters as were spoken. So a gap
is judged by its letters and its seconds, never word by word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from stages.speech.transcriber import Transcript, Word
from stages.text.normalizer import normalize

_MISTAKEN = 0.5  # letters; on equal costs, words that are left out or put in are preferred to mistaken ones
_SPOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True)
class Gap:
    """What is between two anchors: words [first, end) of the script, and what was heard instead, in seconds."""

    first: int
    script: tuple[str, ...]
    heard: tuple[str, ...]
    start: float
    end: float

    @property
    def surplus_letters(self) -> int:
        """Letters that were heard beyond those of the script; negative when some are missing."""
        return num_letters(self.heard) - num_letters(self.script)


@dataclass(frozen=True)
class Alignment:
    """The gaps in order, and the letters of the script that anchors hold, with the seconds that those last."""

    gaps: tuple[Gap, ...]
    letters_heard: int
    seconds_heard: float


def spoken_words(text: str) -> list[str]:
    """Return the words of a text as they are said: lower case, numbers spelled, no punctuation."""
    return _SPOKEN.findall(normalize(text).lower())


def spell_out(heard: Sequence[Word]) -> list[Word]:
    """Return heard words as `spoken_words` gives a script's: a recogniser's `21` becomes two words at one time."""
    return [Word(spoken, word.start, word.end) for word in heard for spoken in spoken_words(word.text)]


def timed_words(transcript: Transcript, seconds: float) -> list[Word]:
    """Return heard words as a script's; of a recogniser that gives no times, spread over `seconds` by their letters."""
    if transcript.words:
        return spell_out(transcript.words)
    words = spoken_words(transcript.text)
    ends = [seconds * share for share in _shares(words)]
    return [Word(word, start, end) for word, start, end in zip(words, [0.0, *ends], ends, strict=False)]


def _shares(words: Sequence[str]) -> list[float]:
    total = num_letters(words)
    return [letters / total for letters in accumulate(map(len, words))]


def num_letters(words: Sequence[str]) -> int:
    return sum(map(len, words))


@dataclass(frozen=True)
class Edit:
    """A step of an alignment: indices into the script and into what was heard, None where one has no word for it."""

    script: int | None
    heard: int | None
    equal: bool = False


def equal_words(script: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Return index pairs of equal words, by the alignment in which the fewest letters are changed.

    Where a phrase is heard twice, its last time counts.
    """
    return [(edit.script, edit.heard) for edit in edits(script, heard) if edit.equal]


def edits(script: Sequence[str], heard: Sequence[str]) -> list[Edit]:
    """Return the alignment in which the fewest letters are changed, in order.

    A mistaken word costs the letters that differ (Levenshtein) and a little more, one left out or put in all its own.
    """
    mistaken = _distances(script, heard)
    costs = _costs(script, heard, mistaken)
    steps, i, j = [], len(script), len(heard)
    while i or j:
        if i and j and costs[i, j] == costs[i - 1, j - 1] + mistaken[i - 1, j - 1]:
            i, j = i - 1, j - 1
            steps.append(Edit(i, j, script[i] == heard[j]))
        elif i and costs[i, j] == costs[i - 1, j] + len(script[i - 1]):
            i -= 1
            steps.append(Edit(i, None))
        else:
            j -= 1
            steps.append(Edit(None, j))
    return steps[::-1]


def _distances(script: Sequence[str], heard: Sequence[str]) -> np.ndarray:
    """Return how many letters differ, and a little more when any does, float64 [script, heard]."""
    if not (script and heard):
        return np.zeros((len(script), len(heard)))
    letters = cdist(script, heard, scorer=Levenshtein.distance, dtype=np.int32)
    return letters + _MISTAKEN * (letters > 0)


def _costs(script: Sequence[str], heard: Sequence[str], mistaken: np.ndarray) -> np.ndarray:
    """Return the least letters to change between the first i words and the first j, [script + 1, heard + 1].

    Exact: all costs are multiples of a half. In a row, putting words in on the way to j costs what `put_in` has there
    less what it has where they begin, so the best beginning is a running minimum.
    """
    put_in = np.concatenate([[0.0], np.cumsum([len(word) for word in heard], dtype=np.float64)])
    costs = np.empty((len(script) + 1, len(heard) + 1))
    costs[0] = put_in
    for i, word in enumerate(script):
        row = costs[i] + len(word)
        row[1:] = np.minimum(row[1:], costs[i, :-1] + mistaken[i])
        costs[i + 1] = np.minimum.accumulate(row - put_in) + put_in
    return costs


def align(script: Sequence[str], heard: Sequence[Word], seconds: float, anchor_letters: int,
          pause_seconds: float) -> Alignment:
    """Find the anchors, runs of equal words of at least `anchor_letters`, and the gaps around them.

    `heard` are timed words of a waveform of `seconds`. Shorter runs, such as a lone `the`, may be equal by chance and
    belong to a gap. A run ends where nothing is heard for `pause_seconds`: then a gap holds time, but no words.
    """
    anchors = _anchors(script, heard, anchor_letters, pause_seconds)
    gaps, end = [], _Place(0, 0, 0.0)
    for run in anchors:
        (i, j), (last_i, last_j) = run[0], run[-1]
        gaps.append(_gap(script, heard, end, _Place(i, j, heard[j].start)))
        end = _Place(last_i + 1, last_j + 1, heard[last_j].end)
    gaps.append(_gap(script, heard, end, _Place(len(script), len(heard), max(seconds, end.seconds))))
    letters = sum(num_letters([script[i] for i, _ in run]) for run in anchors)
    return Alignment(tuple(gaps), letters, sum(heard[run[-1][1]].end - heard[run[0][1]].start for run in anchors))


@dataclass(frozen=True)
class _Place:
    """A border of an anchor: an index into the script, one into what was heard, and when."""

    script: int
    heard: int
    seconds: float


def _gap(script: Sequence[str], heard: Sequence[Word], begin: _Place, end: _Place) -> Gap:
    words = tuple(word.text for word in heard[begin.heard : end.heard])
    return Gap(begin.script, tuple(script[begin.script : end.script]), words, begin.seconds, end.seconds)


def _anchors(script: Sequence[str], heard: Sequence[Word], least_letters: int,
             pause_seconds: float) -> list[list[tuple[int, int]]]:
    runs: list[list[tuple[int, int]]] = []
    for i, j in equal_words(script, [word.text for word in heard]):
        follows = runs and runs[-1][-1] == (i - 1, j - 1)
        if follows and heard[j].start - heard[j - 1].end < pause_seconds:
            runs[-1].append((i, j))
        else:
            runs.append([(i, j)])
    return [run for run in runs if num_letters([script[i] for i, _ in run]) >= least_letters]
