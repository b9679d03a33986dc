"""What is known of an audio file, and what can be wrong with it, whichever library reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.errors import HalleError

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000  # Hz; outside these a header is damaged
MAX_CHANNELS = 8  # 7.1; more is not speech


class AudioError(HalleError):
    """An audio file that cannot be used. `reason` is a code such as `TRUNCATED`, the same in every report."""

    exit_code = 2

    def __init__(self, path: Path | str, reason: str, detail: str, hint: str | None = None):
        hint = hint or "give another recording, one that is whole and heard"
        super().__init__(f"`{path}`: {detail} ({reason})", hint)
        self.path = Path(path)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. `num_samples` is per channel at `sample_rate` Hz, `duration` in seconds."""

    sample_rate: int
    num_samples: int
    duration: float
    channels: int
    subtype: str
    format: str


def check_format(path: Path, sample_rate: int, channels: int) -> None:
    """Raise `AudioError` for a sample rate or a number of channels that no recording has."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        expected = f"expected {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        raise AudioError(path, "BAD_RATE", f"{expected}, got `{sample_rate}`")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(path, "BAD_CHANNELS", f"expected 1 to {MAX_CHANNELS} channels, got `{channels}`")
