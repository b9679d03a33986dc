"""Words of the text that are not said, and words that are said again.

    text    the train left         an hour late because of the heavy snow
    heard   the train left an hour an hour late because of           snow
                           repeated                        skipped

Small recognisers mistake one word for another all the time, but write about as many letters as were spoken. So a
stretch that was heard otherwise counts only with the words by which it has too few or too many letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import Measurement, Metric, MetricInput, not_measured
from stages.metrics.intelligibility import reference_problem
from stages.metrics.languages import counts_characters, normalise, normaliser
from stages.speech.alignment import edits, num_letters

# Of the letters that were put in, those in words that are said close by; recognisers mistake the others
_SAID_BEFORE = 0.5
# Words of the text times words heard: 3,000 each are 20 minutes of speech. They take about 60 bytes a pair.
_MOST_PAIRS = 10_000_000
Words = tuple[str, ...]


@dataclass(frozen=True)
class Differences:
    """Runs of words that were skipped and that were repeated, in order, and the text's number of words."""

    skipped: tuple[Words, ...]
    repeated: tuple[Words, ...]
    words: int


@lru_cache(maxsize=16)  # two metrics ask in turn
def find_differences(text: str, heard: str, language: str = "en") -> Differences:
    """Return what of a text was skipped and repeated, both normalised; words are characters where there are no spaces.

    Repeated is what is heard once more than the text has it, close to where the text has it or to where it is heard
    too: recognisers often make the same mistake twice. Other words put in are mere insertions of the word error rate.
    """
    script, said = (normalise(each, language).split() for each in (text, heard))
    skipped, repeated, at = [], [], _Place(0, 0)
    for equal, steps in groupby(edits(script, said), key=lambda edit: edit.equal):
        stretch = list(steps)
        end = _Place(at.script + sum(step.script is not None for step in stretch),
                     at.heard + sum(step.heard is not None for step in stretch))
        if not equal:
            surplus = num_letters(said[at.heard : end.heard]) - num_letters(script[at.script : end.script])
            lost = [step.script for step in stretch if step.heard is None]
            added = [step.heard for step in stretch if step.script is None]
            skipped.append(tuple(script[i] for i in lost) if surplus < 0 else ())
            again = surplus > 0 and _is_said_nearby(script, said, added, at, end)
            repeated.append(tuple(said[j] for j in added) if again else ())
        at = end
    return Differences(tuple(filter(None, skipped)), tuple(filter(None, repeated)), len(script))


@dataclass(frozen=True)
class _Place:
    """An index into the script and one into what was heard."""

    script: int
    heard: int


def _is_said_nearby(script: Sequence[str], said: Sequence[str], added: Sequence[int], begin: _Place, end: _Place,
                    ) -> bool:
    """Tell whether most letters that were put in are of words within as many words of a stretch, on either side."""
    reach, words = len(added), [said[j] for j in added]
    written = script[max(0, begin.script - reach) : end.script + reach]
    spoken = Counter(said[max(0, begin.heard - reach) : end.heard + reach])
    again = [word for word in words if word in written or spoken[word] > 1]
    return num_letters(again) >= _SAID_BEFORE * num_letters(words)


class SkippedWords(Metric):
    """Words of the text that were not said, per 100 words of it; a missing output skips them all."""

    name = "skipped_words"
    label = "skipped words"
    unit = "per 100"
    better = "lower"
    needs = frozenset({"transcript"})
    columns = ("skipped", "runs", "words")

    def configured(self, config: EvalConfig) -> Metric:
        return SkippedCharacters() if counts_characters(config.language) else SkippedWords()

    def settings(self) -> str:
        return f"whisper-normalizer {normaliser().version}"

    def measure(self, item: MetricInput) -> Measurement:
        return self._measure(item, item.transcript or "")

    def measure_failure(self, item: MetricInput) -> Measurement:
        return self._measure(item, "")

    def _measure(self, item: MetricInput, heard: str) -> Measurement:
        if problem := reference_problem(item.text, item.language):
            return not_measured(problem)
        units = [len(each) if counts_characters(item.language) else len(each.split()) for each in (item.text, heard)]
        if units[0] * units[1] > _MOST_PAIRS:
            return not_measured(f"{units[0]} words of the text and {units[1]} heard are too many to align")
        found = find_differences(item.text, heard, item.language)
        runs = self.runs_of(found)
        count = sum(map(len, runs))
        numbers = dict(zip(self.columns, (count, len(runs), found.words), strict=True))
        return Measurement(100.0 * count / found.words, numbers=numbers, details={"runs": [" ".join(r) for r in runs]})

    def runs_of(self, found: Differences) -> tuple[Words, ...]:
        """Return the runs of words that this metric counts."""
        return found.skipped

    def summarise(self, numbers: np.ndarray) -> float:
        return float(100.0 * numbers[:, 0].sum() / numbers[:, 2].sum())


class RepeatedWords(SkippedWords):
    """Words that were said again, per 100 words of the text. Where nothing was said, nothing can be told."""

    name = "repeated_words"
    label = "repeated words"
    columns = ("repeated", "runs", "words")

    def configured(self, config: EvalConfig) -> Metric:
        return RepeatedCharacters() if counts_characters(config.language) else RepeatedWords()

    def measure_failure(self, item: MetricInput) -> Measurement:
        return not_measured("no output")

    def runs_of(self, found: Differences) -> tuple[Words, ...]:
        return found.repeated


class SkippedCharacters(SkippedWords):
    """The same of characters, where words have no spaces. The name in files stays."""

    label = "skipped characters"


class RepeatedCharacters(RepeatedWords):
    """The same of characters, where words have no spaces. The name in files stays."""

    label = "repeated characters"
