"""Step `cut`: what the other steps found, put together to utterances."""

from __future__ import annotations

from dataclasses import asdict

from stages.audio.recording import open_recording
from stages.config.stage_configs import CurateConfig
from stages.curation.pauses import level_seconds, quietest_in, sound_levels
from stages.curation.recordings import Recording
from stages.curation.steps import Results, Step
from stages.curation.utterances import CutRules, Dropped, Utterance, cut_utterances
from stages.speech.diarizer import RESEMBLYZER
from stages.speech.spans import Span, Turn
from stages.speech.transcriber import Word

_HANDOVER = 2.0  # seconds; it hears voices in windows of 1.6 s, in which a word of somebody else's is lost


def run(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    """Return the utterances of a recording and what of it is in none."""
    assert recording.audio is not None
    sound = open_recording(recording.audio)
    heard = inputs["transcribe"]
    cut = cut_utterances(
        inputs["check"]["seconds"],
        [Span(*span) for span in inputs["vad"]["speech"]],
        [Turn(*turn) for turn in inputs["diarize"]["turns"]],
        [Word(*word) for word in heard["words"]],
        CutRules(config.min_seconds, config.max_seconds, time_error=heard["time_error"],
                 handover=_HANDOVER if inputs["diarize"]["diarizer"] == RESEMBLYZER else 0.0),
        quietest_in(sound_levels(sound), level_seconds(sound.sample_rate)),
        [Dropped(*drop) for drop in heard["refused"]],
    )
    return {"utterances": [_utterance(one) for one in cut.utterances],
            "dropped": [{name: value for name, value in asdict(one).items() if value != ""} for one in cut.dropped]}


def _utterance(one: Utterance) -> dict:
    return {"start": one.start, "end": one.end, "speaker": one.speaker, "text": one.text,
            "words": [[word.text, round(word.start, 3), round(word.end, 3)] for word in one.words]}


def settings(config: CurateConfig) -> dict:
    return {"version": 3, "handover": _HANDOVER, "min_seconds": config.min_seconds, "max_seconds": config.max_seconds}


CUT = Step("cut", needs=("check", "vad", "diarize", "transcribe"), settings=settings, run=run)
