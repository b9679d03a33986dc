"""Where speech may be cut: between two words, in a pause, and where it is quietest.

    words        ...seven |            | eight...
    speech      ~~~~~~~~~~~~~|       |~~~~~~~~~~~
    utterances  ----------------|  |--------------     a margin of the pause is kept on either side, the rest dropped

Recognisers' times of words are some 50 ms off, and voice activity knows no words; where both agree is a pause.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stages.audio.recording import Recording
from stages.speech.spans import Span, subtract

LEVEL_SECONDS = 0.01  # a level is of so much sound
_QUIET_SECONDS = 0.05  # of sound whose mean level is judged
_SHORTEST = 0.02  # seconds of a pause
_TAIL = 0.3  # seconds that a word may sound on after the end that a recogniser gives it
_BLOCK_SECONDS = 60.0

# Return the quietest time from `start` to `end` seconds
Quietest = Callable[[float, float], float]


def middle(start: float, end: float) -> float:
    """Stand in for the quietest time where there is no sound to measure."""
    return (start + end) / 2


class Track:
    """A set of spans that is asked again and again what of it lies in a stretch."""

    def __init__(self, spans: Sequence[Span]):
        self._spans = spans
        self._starts, self._ends = [span.start for span in spans], [span.end for span in spans]

    def within(self, start: float, end: float) -> list[Span]:
        """Return the part of the set from `start` to `end`."""
        found = self._spans[bisect_right(self._ends, start) : bisect_left(self._starts, end)]
        return [Span(max(span.start, start), min(span.end, end)) for span in found] if start < end else []

    def seconds(self, start: float, end: float) -> float:
        return sum(span.seconds for span in self.within(start, end))

    def outside(self, start: float, end: float) -> list[Span]:
        """Return what the set leaves from `start` to `end`."""
        return subtract([Span(start, end)], self.within(start, end)) if start < end else []


@dataclass(frozen=True)
class Edge:
    """Between two words: where what comes before may end and what follows begin, and how long a pause is there.

    `end` <= `start`. `left` and `right` are the seconds of the pauses next to either word: they differ when somebody
    else is heard in between, who is in neither.
    """

    end: float
    start: float
    left: float
    right: float

    @property
    def pause(self) -> float:
        return max(self.left, self.right)


@dataclass(frozen=True)
class Cutter:
    """Find edges by voice activity and by sound. Seconds."""

    speech: Track
    quietest: Quietest
    margin: float  # of a pause, kept on either side of a cut
    time_error: float  # of words

    def between(self, left: Span, right: Span) -> Edge:
        """Return the edge between two words with nobody else between them."""
        pauses = self._pauses(left.end, right.start)
        lengths = self._next_to(left.end, right.start)
        if len(pauses) == 1 and min(lengths) > 0 and pauses[0].seconds <= 2 * self.margin:
            cut = self.quietest(pauses[0].start, pauses[0].end)
            return Edge(cut, cut, *lengths)
        end, start = self.after(left, right.start), self.before(left.end, right)
        if end > start or not pauses:
            end = start = self._between_words(left, right)
        return Edge(end, start, *lengths)

    def around(self, left: Span, other: Span, right: Span) -> Edge:
        """Return the edge between two words with somebody else, or nothing usable, from `other`'s start to its end."""
        return Edge(self.after(left, other.start), self.before(other.end, right),
                    self._next_to(left.end, other.start)[0], self._next_to(other.end, right.start)[1])

    def _next_to(self, start: float, end: float) -> tuple[float, float]:
        """Return the seconds of the pauses right after `start` and right before `end`.

        Where voice activity hears speech throughout and only the words' times know of a pause, half of it counts.
        """
        pauses = self._pauses(start, end)
        if not pauses:
            return (end - start) / 2, (end - start) / 2
        return (pauses[0].seconds if pauses[0].start - start <= _TAIL else 0.0,
                pauses[-1].seconds if end - pauses[-1].end <= _TAIL else 0.0)

    def after(self, word: Span, limit: float) -> float:
        """Return where to end after a word, at `limit` at the latest."""
        pauses = self._pauses(word.end, limit)
        if pauses and pauses[0].start - word.end <= _TAIL:
            return min(pauses[0].start + self.margin, pauses[0].end)
        latest = max(word.end, min(limit, word.end + self.time_error))
        return max(middle(word.start, word.end), self.quietest(max(word.start, word.end - self.time_error), latest))

    def before(self, limit: float, word: Span) -> float:
        """Return where to begin before a word, at `limit` at the earliest."""
        pauses = self._pauses(limit, word.start)
        if pauses and word.start - pauses[-1].end <= _TAIL:
            return max(pauses[-1].end - self.margin, pauses[-1].start)
        earliest = min(word.start, max(limit, word.start - self.time_error))
        return min(middle(word.start, word.end), self.quietest(earliest, min(word.end, word.start + self.time_error)))

    def _pauses(self, start: float, end: float) -> list[Span]:
        return [span for span in self.speech.outside(start, end) if span.seconds >= _SHORTEST]

    def _between_words(self, left: Span, right: Span) -> float:
        """Return the quietest time near the gap between two words, within the half of each that lies next to it."""
        start = max(middle(left.start, left.end), left.end - self.time_error)
        end = min(middle(right.start, right.end), right.start + self.time_error)
        return self.quietest(min(start, left.end), max(end, right.start))


def level_seconds(sample_rate: int) -> float:
    """Return what a level of `sound_levels` stands for: whole samples, of 22050 Hz a bit less than 10 ms."""
    return round(LEVEL_SECONDS * sample_rate) / sample_rate


def sound_levels(recording: Recording) -> np.ndarray:
    """Return the power of every 10 ms of a recording [levels], which is read in blocks."""
    hop = round(LEVEL_SECONDS * recording.sample_rate)
    found = []
    for _, block in recording.blocks(_BLOCK_SECONDS * hop / (LEVEL_SECONDS * recording.sample_rate)):
        whole = np.square(block[: len(block) // hop * hop]).reshape(-1, hop)
        found.append(whole.mean(axis=1))
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def quietest_in(levels: np.ndarray, hop_seconds: float = LEVEL_SECONDS) -> Quietest:
    """Return the function that finds the middle of the quietest 50 ms in levels [levels]; of equals the middlemost."""
    width = round(_QUIET_SECONDS / hop_seconds)

    def quietest(start: float, end: float) -> float:
        first, last = round(start / hop_seconds), round(end / hop_seconds)
        wide = levels[max(0, first - width // 2) : last + width // 2 + 1]
        if last - first < 2 or len(wide) < width:
            return middle(start, end)
        means = np.convolve(wide, np.ones(width) / width, mode="valid")
        times = (np.arange(len(means)) + max(0, first - width // 2) + width / 2) * hop_seconds
        order = np.lexsort((np.abs(times - middle(start, end)), means))
        return float(np.clip(times[order[0]], start, end))

    return quietest
