"""Similarity against the length of the prompt (the paper's Table 8): prompts of several lengths on equal terms."""

from __future__ import annotations

from dataclasses import dataclass

from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics.base import Measurement, MetricInput, not_measured
from stages.metrics.speaker import VoiceMetric, best_device

LEAST_LEFT = 5.0  # seconds of a recording after the longest prompt: Table 8 has prompts of 60 s in clips over 65 s
_LONGEST = 86_400.0  # a day: no limit


@dataclass(frozen=True)
class Prompted:
    """A model with prompts of one length: for tables, a system of its own."""

    model: str
    seconds: float


class SimilarityByPrompt(VoiceMetric):
    """SIM with which prompts of several lengths can be compared, which the longest would win by itself otherwise.

    The longer the recordings that SIM compares, the higher it is: 20 s of a real speaker have 0.89 against 3 s of
    herself, 0.95 against 10 s and 0.98 against 60 s (Kathleen of CMU Arctic, by resemblyzer). So for every length of
    prompt the voice is the beginning of the recording, as long as the longest prompt, and heard is the end of what was
    made, as long as what is left of the recording behind that. The output's own seconds of prompt are never heard.
    """

    name = "speaker_similarity_by_prompt"
    what = "SIM by prompt"
    needs = frozenset({"reference", "prompt_lengths"})

    def __init__(self, model: str = "microsoft/wavlm-base-plus-sv", device: str = "cpu", longest: float = 0.0):
        super().__init__(model, device)
        self._longest = longest

    def configured(self, config: EvalConfig) -> SimilarityByPrompt:
        longest = max(config.prompt_lengths, default=0.0)
        return SimilarityByPrompt(config.speaker_model, best_device(config.device), longest)

    def settings(self) -> str:
        return f"{super().settings()}, {self._longest:g} s"

    def measure(self, item: MetricInput) -> Measurement:
        cut = round(self._longest * item.sample_rate)
        left = len(item.reference) - cut
        if left <= 0:
            return not_measured(f"the recording is not longer than the longest prompt of {self._longest:g} s")
        return self.compare(item.generated[-left:], item.reference[:cut], item.sample_rate)


def with_room_for_prompts(config: EvalConfig) -> EvalConfig:
    """Return the settings so that every recording has room for the longest prompt and 5 s more.

    Raises `UsageError` where prompts are not the beginnings of the recordings.
    """
    if not config.prompt_lengths:
        return config
    if config.setting != "continuation":
        raise UsageError(f"prompts of several lengths are beginnings of the recordings: expected the setting "
                         f"`continuation`, got `{config.setting}`", hint="leave --setting out")
    low, high = config.recording_seconds or (0.0, _LONGEST)
    return config.model_copy(update={"recording_seconds": (max(low, max(config.prompt_lengths) + LEAST_LEFT), high)})
