"""Speaker similarity: whether the output has the voice that it was to have, and keeps it to the end."""

from __future__ import annotations

from abc import ABC
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch

from stages.artifacts.storage import sha256_file
from stages.config.stage_configs import EvalConfig
from stages.errors import MissingModelError
from stages.metrics.base import Measurement, Metric, MetricInput, not_measured
from stages.metrics.usable_sound import sound_problem
from stages.speech.speaker import SpeakerEmbedder, load_embedder, similarity

MIN_SECONDS = 0.5  # x-vectors need 15 frames of 20 ms
WINDOW_SECONDS = 5.0  # of similarity over time
_NO_VOICE = "the speaker model hears no voice in the {}"
# Metrics with the same model share one copy, for as long as one of them uses it.
_LOADED: WeakValueDictionary[tuple[str, str], SpeakerEmbedder] = WeakValueDictionary()


class VoiceMetric(Metric, ABC):
    """A metric that compares vectors of a speaker model. Which model decides the values, so the label names it."""

    better = "higher"
    needs = frozenset({"voice"})
    digits = 3
    what: str  # of the label

    def __init__(self, model: str = "microsoft/wavlm-base-plus-sv", device: str = "cpu"):
        self._model, self._device = model, device
        self._embedder: SpeakerEmbedder | None = None
        self._problem = ""

    @property
    def label(self) -> str:
        return self.titled(self.what)

    def titled(self, what: str) -> str:
        """Return `what` with the name of the speaker model."""
        model = Path(self._model)
        return f"{what} ({model.stem if model.is_file() else model.name})"

    def configured(self, config: EvalConfig) -> VoiceMetric:
        return type(self)(config.speaker_model, best_device(config.device))

    def settings(self) -> str:
        return self._identity

    @cached_property
    def _identity(self) -> str:
        return sha256_file(Path(self._model)) if Path(self._model).is_file() else self._model

    def unavailable(self) -> str:
        if self._embedder is None and not self._problem:
            try:
                self._embedder = _shared_embedder(self._model, self._device)
            except MissingModelError as error:
                self._problem = f"{error.message}: {error.hint}"
        return self._problem

    def compare(self, made: np.ndarray, voice: np.ndarray, sample_rate: int) -> Measurement:
        """Return the cosine between the embeddings of two waveforms [samples]."""
        if problem := _unusable(made, voice, sample_rate):
            return not_measured(problem)
        ours, theirs = (self._embedder.embed(each, sample_rate) for each in (made, voice))
        value = similarity(ours, theirs)
        if not np.isfinite(value):
            return not_measured(_NO_VOICE.format("output" if np.isfinite(theirs).all() else "recording of the voice"))
        return Measurement(value, numbers={"value": value})


def _unusable(made: np.ndarray, voice: np.ndarray, sample_rate: int) -> str:
    """Return why the voices of two waveforms cannot be compared, or ''."""
    return (sound_problem(made, sample_rate, MIN_SECONDS)
            or sound_problem(voice, sample_rate, MIN_SECONDS, "recording of the voice"))


class SpeakerSimilarity(VoiceMetric):
    """Cosine between embeddings of what the system made and of the voice it was given (the paper's SIM).

    The voice is the prompt, or the recording itself where that is what the system was given. Seconds of the output
    that are the prompt's are never heard.
    """

    name = "speaker_similarity"
    what = "SIM"

    def measure(self, item: MetricInput) -> Measurement:
        return self.compare(item.generated, item.voice, item.sample_rate)


class SimilarityDrift(VoiceMetric):
    """How far the voice drifts from the prompt's within an utterance: SIM of the last third less that of the first.

    0 is a voice that stays, less than 0 one that goes away. SIM is that of windows of about 5 s of what was made, all
    equally long: the shorter a window the lower its SIM (Kathleen of CMU Arctic, against 6 s of herself, by
    resemblyzer: 0.82 in windows of 1.5 s, 0.91 of 5 s, 0.95 of 10 s). `details` holds the curve: the windows' middles
    in `seconds` of what was made, and their `similarity`; windows without a voice are not in it.
    """

    name = "speaker_similarity_drift"
    what = "SIM drift"
    better = "neither"  # the nearer to 0

    def measure(self, item: MetricInput) -> Measurement:
        if problem := _unusable(item.generated, item.voice, item.sample_rate):
            return not_measured(problem)
        voice = self._embedder.embed(item.voice, item.sample_rate)
        curve = [(second, value) for second, window in windows_of(item.generated, item.sample_rate)
                 if np.isfinite(value := self._similarity(window, item.sample_rate, voice))]
        seconds, values = ([point[column] for point in curve] for column in (0, 1))
        details = {"seconds": seconds, "similarity": values}
        third = len(values) // 3
        if not third:
            return Measurement(None, f"fewer than three windows of {WINDOW_SECONDS:g} s with a voice", details=details)
        drift = float(np.mean(values[-third:]) - np.mean(values[:third]))
        return Measurement(drift, numbers={"value": drift}, details=details)

    def _similarity(self, window: np.ndarray, sample_rate: int, voice: np.ndarray) -> float:
        """Return the similarity of a window, NaN where there is nothing to hear."""
        if sound_problem(window, sample_rate, MIN_SECONDS):
            return float("nan")
        return similarity(self._embedder.embed(window, sample_rate), voice)


def windows_of(waveform: np.ndarray, sample_rate: int) -> list[tuple[float, np.ndarray]]:
    """Return the middle in seconds and the samples of each window: equally long, about 5 s, tiling the waveform."""
    count = max(1, round(len(waveform) / (WINDOW_SECONDS * sample_rate)))
    length = len(waveform) / sample_rate / count
    return [(round((index + 0.5) * length, 3), window)
            for index, window in enumerate(np.array_split(waveform, count))]


def _shared_embedder(model: str, device: str) -> SpeakerEmbedder:
    if (found := _LOADED.get((model, device))) is None:
        found = _LOADED[model, device] = load_embedder(model, device)
    return found


def best_device(name: str) -> str:
    """Return where a metric's model runs: the evaluation's own device, for `auto` a GPU if there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
