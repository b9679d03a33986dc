"""How far curation is from the truth of a recording: figures of turns, utterances and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from stages.speech.spans import Span, Turn, intersect, subtract, total_seconds, union

WORD_EDGE_SECONDS = 0.05  # a cut this close to where words meet is no cut inside a word
FOREIGN_SECONDS = 0.25  # of another speaker in an utterance make it one of two speakers


@dataclass(frozen=True)
class DiarizationError:
    """Seconds of speech times speakers, and of the three errors; recordings are added up."""

    total: float = 0.0
    missed: float = 0.0
    false_alarm: float = 0.0
    confused: float = 0.0

    @property
    def rate(self) -> float:
        return (self.missed + self.false_alarm + self.confused) / self.total

    def __add__(self, other: DiarizationError) -> DiarizationError:
        return DiarizationError(*(mine + theirs for mine, theirs in
                                  zip(vars(self).values(), vars(other).values(), strict=True)))


def diarization_error(truth: Sequence[Turn], found: Sequence[Turn], collar: float = 0.0) -> DiarizationError:
    """Compare turns; the speakers found are mapped to the true ones one to one, so that they agree the longest.

    As in pyannote.metrics and NIST's md-eval, time counts once for each speaker of it: overlap is scored. Within
    `collar` seconds before and after each border of a true turn nothing is (that is NIST's collar; pyannote.metrics
    counts both sides, so its collar is twice as long).
    """
    who, hypothesis = sorted({turn.speaker for turn in truth}), sorted({turn.speaker for turn in found})
    lengths, true, given = _on_one_axis(truth, found, collar, who, hypothesis)
    together = (true * lengths) @ given.T  # seconds [true speakers, found speakers]
    correct = np.zeros(len(lengths))
    for i, j in zip(*linear_sum_assignment(together, maximize=True), strict=True):
        correct += true[i] * given[j]
    num_true, num_given = true.sum(axis=0), given.sum(axis=0)
    return DiarizationError(
        total=float(lengths @ num_true),
        missed=float(lengths @ np.maximum(num_true - num_given, 0)),
        false_alarm=float(lengths @ np.maximum(num_given - num_true, 0)),
        confused=float(lengths @ (np.minimum(num_true, num_given) - correct)),
    )


def _on_one_axis(truth: Sequence[Turn], found: Sequence[Turn], collar: float, who: list[str],
                 hypothesis: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lengths [stretches] between any two borders, and who talks in them, 0 or 1 [speakers, stretches]."""
    # A speaker's turns that touch are one: there is no border between them.
    merged = [Turn(span.start, span.end, speaker) for speaker in who
              for span in union(turn.span for turn in truth if turn.speaker == speaker)]
    ignored = [Span(edge - collar, edge + collar) for turn in merged for edge in (turn.start, turn.end)]
    spans = [*merged, *found, *ignored]
    borders = np.unique([edge for span in spans for edge in (span.start, span.end)])
    middles = (borders[:-1] + borders[1:]) / 2
    lengths = np.diff(borders) * ~_covered(ignored, middles)
    return lengths, _talking(merged, who, middles), _talking(found, hypothesis, middles)


def _talking(turns: Sequence[Turn], speakers: list[str], times: np.ndarray) -> np.ndarray:
    rows = [_covered([turn for turn in turns if turn.speaker == speaker], times) for speaker in speakers]
    return np.array(rows, dtype=float).reshape(len(speakers), len(times))


def _covered(spans: Sequence[Span | Turn], times: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(times), dtype=bool)
    for span in spans:
        inside |= (span.start < times) & (times < span.end)
    return inside


def num_speakers_in(utterance: Span, truth: Sequence[Turn]) -> int:
    """Return how many speakers an utterance holds: whoever talks the longest, and who talks for over 0.25 s."""
    seconds = [total_seconds(intersect([utterance], union(turn.span for turn in truth if turn.speaker == speaker)))
               for speaker in {turn.speaker for turn in truth}]
    heard = sorted(seconds, reverse=True)
    return int(heard[0] > 0) + sum(length > FOREIGN_SECONDS for length in heard[1:])


def cuts_inside_words(utterances: Sequence[Span], words: Sequence[Span]) -> int:
    """Return how many of the beginnings and ends lie inside a word, more than 50 ms from where it begins and ends."""
    cuts = np.array([edge for utterance in utterances for edge in (utterance.start, utterance.end)])
    cores = [Span(word.start + WORD_EDGE_SECONDS, word.end - WORD_EDGE_SECONDS) for word in words]
    return int(_covered(cores, cuts).sum())


def unaccounted_seconds(stretches: Sequence[Span], seconds: float) -> float:
    """Return the seconds of a recording that no stretch holds, and those that several hold."""
    whole, covered = [Span(0.0, seconds)], union(stretches)
    outside = total_seconds(subtract(whole, covered)) + total_seconds(subtract(covered, whole))
    return outside + total_seconds(stretches) - total_seconds(covered)
