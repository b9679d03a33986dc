"""All metrics by name, and which of them an evaluation can compute.

To add a metric, write a `Metric` in a file of its own and register it here (or name it `package.module:Class`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence

from stages.errors import MissingModelError, UsageError
from stages.metrics.base import Metric, Need
from stages.metrics.completeness import RepeatedWords, SkippedWords
from stages.metrics.duration import DurationDistance, PeakMemory, RealTimeFactor
from stages.metrics.fillers import Fillers, FillersInText
from stages.metrics.intelligibility import CorpusCER, CorpusWER, MeanCER, MeanWER
from stages.metrics.opinion import DNSMOS, UTMOS
from stages.metrics.prompt_lengths import SimilarityByPrompt
from stages.metrics.quality import PESQ, STOI, MelDistance
from stages.metrics.speaker import SimilarityDrift, SpeakerSimilarity
from stages.speech.transcriber import recogniser_in_words

_BUILT_IN = (CorpusWER(), MeanWER(), CorpusCER(), MeanCER(), SkippedWords(), RepeatedWords(),
             PESQ(), STOI(), MelDistance(), SpeakerSimilarity(), SimilarityDrift(), SimilarityByPrompt(),
             UTMOS(), *(DNSMOS(opinion) for opinion in ("p808", "sig", "bak", "ovrl")), DurationDistance(),
             RealTimeFactor(), PeakMemory(), Fillers(), FillersInText())
_METRICS: dict[str, Metric] = {metric.name: metric for metric in _BUILT_IN}
_MEANING: dict[Need, str] = {
    "transcript": "a recogniser",
    "reference": "recordings to compare durations with",
    "aligned_reference": "the very recordings that were encoded, which only the reconstruction setting has",
    "voice": "a recording of the voice",
    "timing": "the time and memory that the synthesis took",
    "prompt_lengths": "prompts of several lengths: --prompt-lengths 3,10,20",
}


def register(metric: Metric) -> None:
    """Make `metric` known under its name; evaluations that can compute it will."""
    _METRICS[metric.name] = metric


def choose_metrics(names: Sequence[str], offered: Iterable[Need]) -> list[Metric]:
    """Return the metrics of these names, or those computed by default that need no more than what is `offered`.

    One that is asked for by name and cannot run is returned too: `why_not` then says why it has no value.
    """
    if names:
        return [load_metric(name) for name in names]
    return [metric for metric in _METRICS.values() if metric.by_default and metric.needs <= set(offered)]


def load_metric(name: str) -> Metric:
    """Return a registered metric, or an instance of `package.module:Class`."""
    if name in _METRICS:
        return _METRICS[name]
    if ":" not in name:
        raise UsageError(f"expected metrics out of {', '.join(_METRICS)}, got `{name}`",
                         hint="a metric of your own is named package.module:Class")
    module_name, _, class_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)()
    except Exception as error:  # somebody else's code
        raise MissingModelError(f"the metric `{name}` cannot be loaded: {error!r}",
                                hint=f"is `{module_name}` installed?") from error


def why_not(metric: Metric, offered: Iterable[Need]) -> str:
    """Return why `metric` cannot be computed, or ''."""
    lacking = sorted(metric.needs - set(offered))
    if lacking:
        return "needs " + " and ".join(_MEANING[need] for need in lacking)
    return metric.unavailable()


def column_title(metric: Metric, recogniser: str) -> str:
    """Return the heading of a metric's column, with the recogniser whose hearing it rests on, and the unit."""
    heard_by = f" ({recogniser_in_words(recogniser)})" if "transcript" in metric.needs else ""
    unit = f", {metric.unit}" if metric.unit else ""
    return f"{metric.label}{heard_by}{unit}"
