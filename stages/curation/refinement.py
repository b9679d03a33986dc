"""What the whole corpus tells about each utterance: odd texts, copies, and how many there are of a duration."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stages.config.stage_configs import CurateConfig
from stages.curation.duplicates import FINGERPRINT, SoundMarks, marks_between, read_marks, same_sound, same_words
from stages.curation.filters import filter_words, split_takes
from stages.curation.histogram import shape_durations
from stages.curation.recordings import Recording
from stages.curation.screening import Rejection, Take
from stages.curation.work import WorkFolder


def refine(
    takes: list[Take], sound_marks: SoundMarks | None, config: CurateConfig
) -> tuple[list[Take], list[Rejection]]:
    """Return the utterances to keep, in order, and why not the others; without `sound_marks` only words tell copies."""
    takes, rejections = filter_words(takes, config)
    if config.duplicates in ("both", "text"):
        takes, dropped = split_takes(takes, same_words(takes), "DUPLICATE_TEXT")
        rejections += dropped
    if config.duplicates in ("both", "sound") and sound_marks is not None:
        takes, dropped = split_takes(takes, same_sound(takes, sound_marks), "DUPLICATE_SOUND")
        rejections += dropped
    takes, dropped = shape_durations(takes, config)
    return takes, [*rejections, *dropped]


def sounds_of(recordings: tuple[Recording, ...], work: WorkFolder) -> SoundMarks | None:
    """Return what reads the marks of an utterance's sound, None when the chain of steps does not find them."""
    if FINGERPRINT not in work.steps:
        return None
    by_source = {recording.source: recording for recording in recordings}

    @lru_cache(maxsize=1)  # utterances come recording by recording
    def marks(source: str) -> tuple[np.ndarray, np.ndarray]:
        return read_marks(work.result(FINGERPRINT.name, by_source[source]))

    def between(take: Take) -> tuple[np.ndarray, np.ndarray]:
        start = take.recording.start
        return marks_between(marks(take.recording.source), start, start + take.duration)

    return between
