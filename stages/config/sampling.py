"""How codes are drawn in synthesis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from stages.config.models import Settings

# The paper's settings are not given; top-k 250 at temperature 1 is MusicGen's
_DEFAULTS = {"temperature": 1.0, "top_k": 250, "top_p": 1.0, "nar_temperature": 0.0, "repetition_window": 0,
             "repetition_ratio": 0.1, "guidance": 1.0, "nar_guidance": 1.0, "nar_mean": False,
             "mean_temperature": 0.0}  # fmt: skip


def setting_text(value: float | bool) -> str:
    """Return a value as it is written after KEY=."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


class SamplingConfig(Settings):
    """What is given of how codes are drawn. The rest is the model's own, or else top-k 250 at temperature 1."""

    temperature: float | None = Field(None, ge=0, description="0 takes the most likely code; else the model's, or 1")
    top_k: int | None = Field(None, ge=0, description="0 keeps all; by default the model's, or 250")
    top_p: float | None = Field(None, gt=0, le=1, description="by default the model's, or 1")
    nar_temperature: float | None = Field(None, ge=0, description="by default the model's, or 0")
    repetition_window: int | None = Field(
        None, ge=0, description="last frames in which a code may not be too frequent; else the model's, or 0: off")
    repetition_ratio: float | None = Field(
        None, ge=0, le=1, description="share of the window above which a code is redrawn; else the model's, or 0.1")
    guidance: float | None = Field(
        None, ge=0, description="above 1 the text counts for more; only if training hid it; else the model's, or 1")
    nar_guidance: float | None = Field(None, ge=0, description="the same for the NAR")
    nar_levels: int | None = Field(
        None, ge=0, description="levels that the NAR predicts, the others are not heard; else the model's, or all")
    nar_mean: bool | None = Field(
        None, description="hear the mean of what the NAR finds likely instead of its codes; else the model's, or false")

    mean_temperature: float | None = Field(
        None, ge=0, description="above 0 the mean of what the AR finds likely at this temperature is heard, instead "
                                "of the codes that it draws; else the model's, or 0")

    def over(self, own: Mapping[str, Any]) -> SamplingConfig:
        """Return the settings with nothing left open; `own` are the model's."""
        return SamplingConfig(**{**_DEFAULTS, **own, **self.given})

    @property
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)
