"""Step `diarize`: who speaks when, written beside the recording or found in its speech."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from stages.audio.recording import Recording as Sound
from stages.audio.recording import open_recording
from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import Recording
from stages.curation.steps import Results, Step
from stages.curation.transcripts_beside import TURNS, turns_beside
from stages.speech.diarizer import Diarizer, load_diarizer, missing_diarizer, name_speakers
from stages.speech.spans import Span, Turn
from stages.training.processes import pick_device

NO_TURNS = "NO_TURNS"
NO_DIARIZER = "none"


def run(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    """Return the turns of a recording; in `reason` why there are none."""
    assert recording.audio is not None
    written = turns_beside(recording.audio, config.encoding)
    if written is not None:
        return _result(recording.audio.with_suffix(TURNS[0]).name, "", name_speakers(written))
    if config.diarizer == NO_DIARIZER:
        return {"reason": NO_TURNS, "detail": f"expected an {TURNS[0]} beside it"}
    diarizer = _diarizer(config.diarizer, str(pick_device(config.device)))
    speech = [Span(*span) for span in inputs["vad"]["speech"]]
    return diarize_recording(open_recording(recording.audio), speech, diarizer)


def diarize_recording(sound: Sound, speech: Sequence[Span], diarizer: Diarizer) -> dict:
    """Return who speaks when in the set of spans `speech`: {diarizer, version, turns: [[start, end, "A"], ...]}."""
    return _result(diarizer.name, diarizer.version, diarizer.diarize(sound, speech))


def _result(diarizer: str, version: str, turns: Sequence[Turn]) -> dict:
    found = {"diarizer": diarizer, "version": version,
             "turns": [[round(turn.start, 3), round(turn.end, 3), turn.speaker] for turn in turns]}
    return found if turns else found | {"reason": NO_TURNS, "detail": "no speaker was found in it"}


def settings(config: CurateConfig) -> dict:
    """The model's version is in the results: the machine that selects from them need not have the model."""
    return {"version": 1, "diarizer": config.diarizer, "encoding": config.encoding}


def missing(config: CurateConfig) -> str:
    return "" if config.diarizer == NO_DIARIZER else missing_diarizer(config.diarizer)


DIARIZE = Step("diarize", needs=("vad",), settings=settings, run=run, missing=missing, beside=TURNS)


@cache
def _diarizer(name: str, device: str) -> Diarizer:
    return load_diarizer(name, device)
