"""Speaker similarity: whether the output has the voice that it was to have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stages.config.stage_configs import EvalConfig
from stages.errors import MissingModelError
from stages.metrics.base import Measurement, Metric, MetricInput, not_measured
from stages.speech.speaker import SpeakerEmbedder, load_embedder, similarity

MIN_SECONDS = 0.5  # x-vectors need 15 frames of 20 ms


class SpeakerSimilarity(Metric):
    """Cosine between embeddings of what the system made and of the voice it was given (the paper's SIM).

    The voice is the prompt, or the recording itself where that is what the system was given.
    """

    name = "speaker_similarity"
    better = "higher"
    needs = frozenset({"voice"})
    digits = 3

    def __init__(self, model: str = "microsoft/wavlm-base-plus-sv", device: str = "cpu"):
        self._model, self._device = model, device
        self._embedder: SpeakerEmbedder | None = None
        self._problem = ""

    @property
    def label(self) -> str:
        return f"SIM ({Path(self._model).name})"

    def configured(self, config: EvalConfig) -> SpeakerSimilarity:
        return SpeakerSimilarity(config.speaker_model, best_device(config.device))

    def unavailable(self) -> str:
        if self._embedder is None and not self._problem:
            try:
                self._embedder = load_embedder(self._model, self._device)
            except MissingModelError as error:
                self._problem = f"{error.message}: {error.hint}"
        return self._problem

    def measure(self, item: MetricInput) -> Measurement:
        if min(len(item.generated), len(item.voice)) < MIN_SECONDS * item.sample_rate:
            return not_measured(f"shorter than {MIN_SECONDS} s")
        ours, theirs = (self._embedder.embed(each, item.sample_rate) for each in (item.generated, item.voice))
        value = similarity(ours, theirs)
        if not np.isfinite(value):
            return not_measured("the speaker model gives no finite vector")
        return Measurement(value, numbers={"value": value})


def best_device(name: str) -> str:
    """Return where a metric's model runs: the evaluation's own device, for `auto` a GPU if there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
