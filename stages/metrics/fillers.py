"""Fillers such as `uh` and `you know`: does a system say them as often as people do? (Appendix D.2, table 22.)

Normalisers delete them, so they are counted in the raw text and in what the recogniser wrote. Many recognisers,
Whisper among them, leave fillers out: compare with what the same one hears in the recordings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import NO_TEXT, Measurement, Metric, MetricInput, not_measured
from stages.speech.transcriber import base_language

# Inferred: the paper's list (table 23) is not recovered. Words that are fillers only at times (like, so, well) are not
# counted; `-O 'fillers=[uh, um, like]'` counts others.
ENGLISH = ("uh", "uhh", "um", "umm", "uhm", "er", "err", "erm", "ah", "eh", "oh", "hm", "hmm", "mm", "mmm", "mhm",
           "mm-hmm", "uh-huh", "you know", "i mean")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def find_fillers(text: str, fillers: Sequence[str]) -> Counter[str]:
    """Return how often a raw text has each of `fillers`, words or phrases, in any case and with any punctuation.

    A word counts once: as part of the longest phrase that it begins.
    """
    phrases = {tuple(_words(filler)): filler for filler in fillers}
    longest = max(map(len, phrases), default=0)
    words, found, at = _words(text), Counter(), 0
    while at < len(words):
        lengths = range(min(longest, len(words) - at), 0, -1)
        length = next((n for n in lengths if tuple(words[at : at + n]) in phrases), 0)
        if length:
            found[phrases[tuple(words[at : at + length])]] += 1
        at += max(1, length)
    return found


def _words(text: str) -> list[str]:
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


class Fillers(Metric):
    """Fillers heard, a text on average (table 22's first column; the sum is its second)."""

    name = "fillers"
    label = "fillers heard, per text"
    better = "neither"  # as many as in the recordings
    needs = frozenset({"transcript"})
    columns = ("fillers", "words")

    def __init__(self, fillers: Sequence[str] = ENGLISH):
        self._fillers = tuple(fillers)

    def configured(self, config: EvalConfig) -> Metric:
        return type(self)(config.fillers or (ENGLISH if base_language(config.language) == "en" else ()))

    def settings(self) -> str:
        return ", ".join(self._fillers)

    def unavailable(self) -> str:
        return "" if self._fillers else "needs a list of this language's fillers: -O 'fillers=[WORD, WORD]'"

    def measure(self, item: MetricInput) -> Measurement:
        return self._measure(item.transcript or "")

    def _measure(self, text: str) -> Measurement:
        found = find_fillers(text, self._fillers)
        numbers = {"fillers": found.total(), "words": len(_words(text))}
        return Measurement(float(found.total()), numbers=numbers, details={"fillers": dict(found)})


class FillersInText(Fillers):
    """Fillers that the texts have, a text on average: what those that are heard are to be compared with."""

    name = "fillers_in_text"
    label = "fillers written, per text"
    needs = frozenset()

    def measure(self, item: MetricInput) -> Measurement:
        return self._measure(item.text) if item.text else not_measured(NO_TEXT)

    def measure_failure(self, item: MetricInput) -> Measurement:
        return self.measure(item)
