"""What `eval --listening-test` puts before listeners."""

from __future__ import annotations

from pydantic import Field

from stages.config.models import Settings


class ListeningConfig(Settings):
    """Bounds of a listening test. Each utterance is heard from every system and as it was recorded."""

    utterances: int = Field(40, ge=1, description="drawn from the test set")  # section 7.1
    megabytes: float = Field(100.0, gt=0, description="of the page; as many of the utterances as fit in")
    per_listener: int | None = Field(None, ge=1, description="sounds that one listener rates; by default all")
    checks: int = Field(0, ge=0, description="recordings played backwards, to find who does not listen")
    # EBU R 128; speech, whose peaks are about 18 dB above its loudness, is then never clipped
    loudness: float = Field(-23.0, ge=-40, le=-14, description="of every sound, LUFS")
