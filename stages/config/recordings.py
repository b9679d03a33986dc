"""How recordings without transcripts are judged, and where speech is found in them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.config.models import Settings
from stages.config.run_config import running


class GateConfig(Settings):
    """Which recordings sound well enough, by what a model says of every piece of them (section 6)."""

    estimator: Literal["squim-pesq", "dnsmos", "none"] = Field(
        "dnsmos", description="squim-pesq (section 6) needs weights, dnsmos the extra `mos`; none keeps all")
    piece_seconds: float = Field(30.0, ge=10, le=60)  # section 6
    mean: float | None = Field(None, ge=1, le=5, description="a mean above it is kept; by default the estimator's")
    deviation: float | None = Field(None, gt=0, description="a deviation below it is kept; by default the estimator's")
    weights: str | None = running(None, description="of squim-pesq: a file; by default where torchaudio keeps it")


class VoiceActivityConfig(Settings):
    """When there is speech: from where its probability reaches `threshold` to where it falls below `release`."""

    threshold: float = Field(0.5, gt=0, lt=1)
    release: float = Field(0.35, gt=0, lt=1)
    min_speech_seconds: float = Field(0.1, ge=0, description="what is shorter is no speech")
    min_silence_seconds: float = Field(0.1, ge=0, description="what is shorter is no pause")
    pad_seconds: float = Field(0.03, ge=0, description="added before and after; words begin and end softly")

    @model_validator(mode="after")
    def _check_thresholds(self) -> VoiceActivityConfig:
        if self.release > self.threshold:
            raise ValueError(f"release should not exceed threshold, {self.threshold:g}, got {self.release:g}")
        return self
