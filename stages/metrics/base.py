"""What a metric is: something that measures utterances one by one and summarises a whole test set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from stages.config.stage_configs import EvalConfig
from stages.speech.transcriber import Word

# What an evaluation may have to offer besides the output and the text:
#   transcript         what a recogniser heard in the output
#   reference          a recording of the same text by the same speaker
#   aligned_reference  the very recording that the output reproduces, sample by sample
#   voice              a recording of the voice that the output is to have
#   timing             how long the output took to make, and how much memory
#   prompt_lengths     outputs of the same texts after prompts of several lengths
Need = Literal["transcript", "reference", "aligned_reference", "voice", "timing", "prompt_lengths"]


@dataclass(frozen=True)
class MetricInput:
    """One utterance's output and what it is compared with. Waveforms are float32 [samples] at `sample_rate` Hz.

    `waveform` is None when there is no output. Its first `prompt_samples` were given to the system, the rest
    it made itself in `seconds_to_make`, with `peak_memory` bytes. `transcript` is what the recogniser heard, as it
    wrote it, and `words` the same with times if it gives them. `language` is that of the text, such as `en`.
    """

    text: str
    sample_rate: int
    waveform: np.ndarray | None = None
    prompt_samples: int = 0
    reference: np.ndarray | None = None
    voice: np.ndarray | None = None
    transcript: str | None = None
    seconds_to_make: float | None = None
    words: tuple[Word, ...] = ()
    peak_memory: float | None = None
    language: str = "en"

    @property
    def generated(self) -> np.ndarray | None:
        """The part [samples] that the system made: all a voice may be judged by."""
        return None if self.waveform is None else self.waveform[self.prompt_samples :]


@dataclass(frozen=True)
class Measurement:
    """A metric's value for one utterance, or None and the reason why there is none.

    `numbers` holds what the summary is computed from, named by the metric's `columns`. `details` is ready for JSON
    (lists of numbers for a plot, the words of an alignment) and never summarised.
    """

    value: float | None
    reason: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


NO_TEXT = "there is no text to compare with"  # of foreign audio, nobody may have written down what it says


def not_measured(reason: str) -> Measurement:
    """Return a measurement without a value: the utterance is left out of the denominator, and counted there."""
    return Measurement(None, reason)


class Metric(ABC):
    """Measure utterances and summarise them. To add one: a subclass in its own file, and `registry.register`."""

    name: str  # key in scores.json
    label: str  # heading of the column
    unit: str = ""
    better: Literal["lower", "higher", "neither"]
    needs: frozenset[Need] = frozenset()
    columns: tuple[str, ...] = ("value",)  # the numbers of a measurement that `summarise` reads
    digits: int = 2  # after the point, in tables
    by_default: bool = True  # computed where nobody names the metrics

    def unavailable(self) -> str:
        """Return why this metric cannot run here at all, such as a package that is not installed; else ''."""
        return ""

    def configured(self, config: EvalConfig) -> Metric:
        """Return this metric as the settings of an evaluation want it, such as with the model that they name."""
        return self

    def settings(self) -> str:
        """Return what decides the values besides the inputs and this file, such as the path of a model.

        Measurements are kept, and used again only for the same settings.
        """
        return ""

    @abstractmethod
    def measure(self, item: MetricInput) -> Measurement:
        """Return the value for an utterance that has an output."""

    def measure_failure(self, item: MetricInput) -> Measurement:
        """Return what an utterance without an output counts as. By default it cannot be measured."""
        return not_measured("no output")

    def summarise(self, numbers: np.ndarray) -> float:
        """Return the test set's value from `numbers` [utterances, columns]; by default the mean of the first."""
        return float(numbers[:, 0].mean())
