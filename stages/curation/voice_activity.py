"""Step `vad`: when a recording holds speech."""

from __future__ import annotations

import functools

from stages.audio.recording import open_recording
from stages.config.recordings import VoiceActivityConfig
from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import Recording
from stages.curation.steps import Results, Step
from stages.speech.vad import SILERO, VoiceActivity, load_vad, missing_silero


def run(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    """Return the spans of speech, in seconds; a recording without any is dropped."""
    assert recording.audio is not None
    sound = open_recording(recording.audio)
    detector = _detector(config.vad)
    spans = detector.find(sound)
    found = {"detector": detector.name, "version": detector.version, "seconds": sound.seconds,
             "speech": [[round(span.start, 3), round(span.end, 3)] for span in spans]}
    return found if spans else found | {"reason": "NO_SPEECH", "detail": "there is no speech in it"}


def settings(config: CurateConfig) -> dict:
    """The model's version is in the results: the machine that selects from them need not have the model."""
    return {"version": 1, "detector": SILERO, **config.vad.model_dump()}


def missing(config: CurateConfig) -> str:
    return missing_silero()


VAD = Step("vad", needs=(), settings=settings, run=run, missing=missing)


@functools.cache
def _detector(chosen: VoiceActivityConfig) -> VoiceActivity:
    return load_vad(SILERO, chosen)
