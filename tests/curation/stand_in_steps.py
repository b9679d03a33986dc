"""Steps without models, for tests of what runs them: who speaks and what is said follows from the length alone.

The first half of a recording is speaker A's, the second B's, and there is a word every half second.
"""

from __future__ import annotations

import os
import signal

from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import Recording
from stages.curation.soundness import CHECK
from stages.curation.steps import Results, Step


def no_settings(config: CurateConfig) -> dict:
    return {}


def gate_settings(config: CurateConfig) -> dict:
    return {"min_seconds": config.min_seconds, "loudest": config.max_offset}


def gate(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    low = recording.id.startswith("noisy")
    return {"pieces": [1.0 if low else 3.0], "mean": 1.0 if low else 3.0, "deviation": 0.0, "kept": not low,
            "reason": "LOW_QUALITY" if low else "", "detail": "expected more than 2.5" if low else ""}


def vad(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    return {"speech": [[0.0, inputs["check"]["seconds"]]]}


def diarize(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    (start, end), = inputs["vad"]["speech"]
    return {"turns": [[start, (start + end) / 2, "A"], [(start + end) / 2, end, "B"]]}


def transcribe(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    (_, end), = inputs["vad"]["speech"]
    words = [[f"{recording.id} {index}", index / 2, index / 2 + 0.4] for index in range(int(2 * end))]
    return {"recogniser": "none", "version": "1", "words": words, "language": "en"}


def cut(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    utterances, dropped = [], []
    for start, end, speaker in inputs["diarize"]["turns"]:
        words = [word for word, begin, _ in inputs["transcribe"]["words"] if start <= begin < end]
        if end - start < config.min_seconds:
            dropped.append({"start": start, "end": end, "reason": "TOO_SHORT"})
        else:
            utterances.append({"start": start, "end": end, "speaker": speaker, "text": " ".join(words)})
    return {"utterances": utterances, "dropped": dropped}


STEPS = (
    CHECK,
    Step("gate", ("check",), gate_settings, gate),
    Step("vad", ("check",), no_settings, vad),
    Step("diarize", ("vad",), no_settings, diarize, beside=(".rttm",)),
    Step("transcribe", ("vad",), no_settings, transcribe),
    Step("cut", ("check", "diarize", "transcribe"), gate_settings, cut),
)


def deadly_vad(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    """Die of a signal, as decoders do of files that were made for it: at all recordings, or at one."""
    if config.language == "dead" or recording.id in ("two", "sub_two"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return vad(recording, inputs, config)


DEADLY = tuple(Step("vad", step.needs, step.settings, deadly_vad) if step.name == "vad" else step for step in STEPS)
