"""Word and character error rates: how much of the text a recogniser hears."""

from __future__ import annotations

from dataclasses import dataclass

import jiwer
import numpy as np

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import NO_TEXT, Measurement, Metric, MetricInput, not_measured
from stages.metrics.languages import counts_characters, normalise, normaliser


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


def reference_problem(text: str, language: str = "en") -> str:
    """Return why `text` cannot be a reference, or ''. Without a word there is nothing to divide errors by.

    jiwer itself gives an empty reference the rate 0 or 1 and says nothing.
    """
    if not text:
        return NO_TEXT
    if not text.strip():
        return "the reference text is empty"
    if not normalise(text, language):
        return "the reference text has no word left after normalisation"
    return ""


def count_word_errors(reference: str, heard: str, language: str = "en") -> WordErrors:
    """Align two texts, both normalised, and count the edits; an empty `heard` is all deletions.

    Words are characters where words have no spaces. Raises `ValueError` for a reference without words.
    """
    if problem := reference_problem(reference, language):
        raise ValueError(problem)
    words = normalise(reference, language)
    aligned = jiwer.process_words(words, normalise(heard, language))
    return WordErrors(aligned.substitutions, aligned.insertions, aligned.deletions, len(words.split()))


class CorpusWER(Metric):
    """Errors of all utterances over words of all utterances; a missing output is all its words deleted.

    Where words have no spaces its place is taken by the same of characters.
    """

    name = "wer"
    label = "WER"
    unit = "%"
    better = "lower"
    needs = frozenset({"transcript"})
    columns = ("substitutions", "insertions", "deletions", "words")

    def configured(self, config: EvalConfig) -> Metric:
        return CorpusCER() if counts_characters(config.language) else CorpusWER()

    def settings(self) -> str:
        return f"whisper-normalizer {normaliser().version}"

    def measure(self, item: MetricInput) -> Measurement:
        return self._measure(item, item.transcript or "")

    def measure_failure(self, item: MetricInput) -> Measurement:
        return self._measure(item, "")

    def _measure(self, item: MetricInput, heard: str) -> Measurement:
        if problem := reference_problem(item.text, item.language):
            return not_measured(problem)
        errors = count_word_errors(item.text, heard, item.language)
        counts = (errors.substitutions, errors.insertions, errors.deletions, errors.words)
        return Measurement(100.0 * errors.rate, numbers=dict(zip(self.columns, counts, strict=True)))

    def summarise(self, numbers: np.ndarray) -> float:
        return float(100.0 * numbers[:, :3].sum() / numbers[:, 3].sum())


class MeanWER(CorpusWER):
    """Mean of the utterances' own rates: short failures weigh as much as long ones."""

    name = "wer_mean"
    label = "mean WER"

    def configured(self, config: EvalConfig) -> Metric:
        return MeanCER() if counts_characters(config.language) else MeanWER()

    def summarise(self, numbers: np.ndarray) -> float:
        return float(100.0 * (numbers[:, :3].sum(axis=1) / numbers[:, 3]).mean())


class CorpusCER(CorpusWER):
    """Errors of all utterances over their characters, for texts without spaces between words."""

    name = "cer"
    label = "CER"
    by_default = False  # it takes the place of WER where it belongs
    columns = ("substitutions", "insertions", "deletions", "characters")


class MeanCER(MeanWER):
    """Mean of the utterances' own character error rates."""

    name = "cer_mean"
    label = "mean CER"
    by_default = False
    columns = CorpusCER.columns
