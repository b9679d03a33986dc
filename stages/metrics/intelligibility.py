"""Word error rate: how much of the text a recogniser hears."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import jiwer
import numpy as np

from stages.metrics.base import Measurement, Metric, MetricInput, not_measured

NORMALISER = "whisper-normalizer (English)"


@dataclass(frozen=True)
class WordErrors:
    """Edits that turn the reference into what was heard, and the reference's number of words (at least 1)."""

    substitutions: int
    insertions: int
    deletions: int
    words: int

    @property
    def total(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors a word; above 1 when more is heard than was written."""
        return self.total / self.words


def normaliser_version() -> str:
    return version("whisper-normalizer")


@cache
def _normaliser():
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def normalise(text: str) -> str:
    """Return `text` as Whisper's evaluation compares it: lower case, `twenty` as 20, no punctuation, no `um`.

    Of an ellipsis at the end the normaliser leaves a lone `.`, which would count as a word that nobody can say.
    """
    return " ".join(word for word in _normaliser()(text).split() if any(map(str.isalnum, word)))


def reference_problem(text: str) -> str:
    """Return why `text` cannot be a reference, or ''. Without a word there is nothing to divide errors by."""
    if not text.strip():
        return "the reference text is empty"
    if not normalise(text):
        return "the reference text has no word left after normalisation"
    return ""


def count_word_errors(reference: str, heard: str) -> WordErrors:
    """Align two texts, both normalised, and count the edits; an empty `heard` is all deletions.

    Raises `ValueError` for a reference without words.
    """
    if problem := reference_problem(reference):
        raise ValueError(problem)
    words = normalise(reference)
    aligned = jiwer.process_words(words, normalise(heard))
    return WordErrors(aligned.substitutions, aligned.insertions, aligned.deletions, len(words.split()))


class CorpusWER(Metric):
    """Errors of all utterances over words of all utterances; a missing output is all its words deleted."""

    name = "wer"
    label = "WER"
    unit = "%"
    better = "lower"
    needs = frozenset({"transcript"})
    columns = ("substitutions", "insertions", "deletions", "words")

    def measure(self, item: MetricInput) -> Measurement:
        return self._measure(item, item.transcript or "")

    def measure_failure(self, item: MetricInput) -> Measurement:
        return self._measure(item, "")

    def _measure(self, item: MetricInput, heard: str) -> Measurement:
        if problem := reference_problem(item.text):
            return not_measured(problem)
        errors = count_word_errors(item.text, heard)
        return Measurement(100.0 * errors.rate, numbers={name: getattr(errors, name) for name in self.columns})

    def summarise(self, numbers: np.ndarray) -> float:
        return float(100.0 * numbers[:, :3].sum() / numbers[:, 3].sum())


class MeanWER(CorpusWER):
    """Mean of the utterances' own rates: short failures weigh as much as long ones."""

    name = "wer_mean"
    label = "mean WER"

    def summarise(self, numbers: np.ndarray) -> float:
        return float(100.0 * (numbers[:, :3].sum(axis=1) / numbers[:, 3]).mean())
