"""When `synth --verify` calls speech wrong."""

from __future__ import annotations

from pydantic import Field

from stages.config.models import Settings


class VerificationConfig(Settings):
    """Thresholds, set between untouched recordings and mutilated ones (measured by `tests/benchmarks/verification.py`).

    Letters are those of the words as they are said. A small recogniser mistakes many words, but seldom their number of
    letters; runs of letters therefore count, single words do not.
    """

    anchor_letters: int = Field(5, ge=1, description="of a run of words heard as written that is no coincidence")
    # of 104 untouched recordings, heard by pocketsphinx, none lacked more than 7 letters at one place
    missing_letters: int = Field(9, ge=1, description="fewer heard than written between two anchors: words skipped")
    # and none had more than 7 too many, but one 12 where 31 were written
    extra_letters: int = Field(9, ge=1, description="more heard than written: words repeated or inserted")
    extra_share: float = Field(0.4, ge=0, description="of the letters written there, which the extra ones must reach")
    leaked_letters: int = Field(5, ge=1, description="of the prompt's last words, heard at the beginning")
    extra_seconds: float = Field(1.5, gt=0, description="of sound without words between two anchors")
    least_heard: float = Field(0.25, ge=0, le=1, description="share of the letters that anchors must hold")
    letter_seconds: float = Field(0.08, gt=0, description="how long a letter usually takes to say")
    sure_letters: int = Field(20, ge=1, description="from so many letters on, their own tempo is believed")
    silence_seconds: float = Field(1.8, gt=0, description="of silence that are too long")  # longest of 190: 1.5 s
    silence_db: float = Field(-40.0, lt=0, description="level of silence below the loudest 50 ms")
    # the codes of 56 recordings never repeated more than 0.6 s at 8 Hz
    loop_seconds: float = Field(1.0, gt=0, description="of codes that are just those of some time before")
    # recordings of one speaker differed by factors of 0.6 to 1.6
    shortest: float = Field(0.5, gt=0, le=1, description="tempo: seconds a letter beside the prompt's")
    longest: float = Field(2.0, ge=1, description="as `shortest`")
