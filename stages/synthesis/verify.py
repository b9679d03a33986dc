"""`synth --verify`: hear every pass that was spoken, find what is wrong, and say it again from the last good frame.

With a recogniser the words are compared with the script's; without one only loops, silences and the length can be
judged. Every pass is judged before the next one goes on from it, so a mistake is not carried along.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stages.config.stage_configs import SynthConfig
from stages.config.verification import VerificationConfig
from stages.randomness import derive_seed
from stages.speech.alignment import align, num_letters, spoken_words, timed_words
from stages.speech.transcriber import Transcriber
from stages.synthesis.faults import Fault, find_loop, find_silences, length_faults, word_faults
from stages.synthesis.listener import find_listener
from stages.synthesis.takes import Take

if TYPE_CHECKING:
    from stages.synthesis.pipeline import SpeechPipeline

log = logging.getLogger("halle.synth")

_BACK_SECONDS = 1.0  # further back with every new take that was no better: the mistake may have begun unheard


@dataclass(frozen=True)
class Spoken:
    """Speech [samples] without its prompt, what it shall say, what the prompt says, and its own codes [frames].

    `codes` are the first codebook of the AR's stream; `finished` tells that the AR ended by itself.
    """

    waveform: np.ndarray
    sample_rate: int
    text: str
    prompt_text: str
    prompt_seconds: float
    codes: np.ndarray
    frame_rate: float
    finished: bool = True

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True)
class Judged:
    """A take, what is wrong with it, what was heard in it, and the frame of the speech from which it is new."""

    take: Take
    faults: tuple[Fault, ...]
    heard: str | None
    frame: int | None = None

    @property
    def wrong_seconds(self) -> float:
        return sum(fault.seconds for fault in self.faults)

    def report(self, frame_rate: float) -> dict:
        return {
            "restarted_from_frame": self.frame,
            "restarted_from_seconds": None if self.frame is None else round(self.frame / frame_rate, 4),
            "wrong_seconds": round(self.wrong_seconds, 3),
            "faults": [_described(fault) for fault in self.faults],
            "heard": self.heard,
        }


def _described(fault: Fault) -> dict:
    times = {"start": round(fault.start, 3), "end": round(fault.end, 3), "seconds": round(fault.seconds, 3)}
    return {"kind": fault.kind, **times, **({"text": fault.text} if fault.text else {})}


class Verifier:
    """What `SpeechPipeline` calls for every pass: judge it, and return the best of it and its new takes."""

    def __init__(self, transcriber: Transcriber | None, attempts: int, settings: VerificationConfig,
                 without: str = ""):
        self.transcriber, self.attempts, self.settings = transcriber, attempts, settings
        self.without = without  # why there is no recogniser

    def __call__(self, pipeline: SpeechPipeline, take: Take) -> Take:
        began = time.perf_counter()
        codec = pipeline.model.codec
        frame_rate = codec.hierarchy.lowest.frame_rate
        takes = self._retake(pipeline, self.judge(take, codec.sample_rate, frame_rate))
        chosen = min(range(len(takes)), key=lambda index: takes[index].wrong_seconds)
        best = takes[chosen]
        if len(takes) > 1:
            log.info("verified: %d faults, %d after %d more takes", len(takes[0].faults), len(best.faults),
                     len(takes) - 1)
        notes = {**best.take.notes, "verification": {
            "recogniser": self._recogniser(),
            "checks": self.checks,
            "takes": [judged.report(frame_rate) for judged in takes],
            "chosen": chosen,
        }}
        seconds = {**take.seconds, "verify_seconds": round(time.perf_counter() - began, 4)}
        return replace(best.take, notes=notes, seconds=seconds)

    @property
    def checks(self) -> list[str]:
        return [*(["words"] if self.transcriber else []), "silences", "loops", "length"]

    def _recogniser(self) -> str:
        return f"{self.transcriber.name} {self.transcriber.version}" if self.transcriber else f"none: {self.without}"

    def _retake(self, pipeline: SpeechPipeline, first: Judged) -> list[Judged]:
        """Return the first take and the new ones, until one is faultless or there were enough.

        Each goes on from the last good frame of the best take so far; after a failure from a second before it.
        """
        codec = pipeline.model.codec
        rate, begin = codec.hierarchy.lowest.frame_rate, first.take.request.prefix_codes.shape[-1]
        takes, best, failures = [first], first, 0
        while best.faults and len(takes) <= self.attempts:
            good = min(fault.last_good for fault in best.faults) - failures * _BACK_SECONDS
            frame = max(0, min(int(good * rate), best.take.num_frames - 1))
            seed = derive_seed(first.take.request.seed, "verify", len(takes))
            take = pipeline.continue_from(best.take, begin + frame, seed)
            takes.append(replace(self.judge(take, codec.sample_rate, rate), frame=frame))
            better = takes[-1].wrong_seconds < best.wrong_seconds
            best, failures = (takes[-1], 0) if better else (best, failures + 1)
        return takes

    def judge(self, take: Take, sample_rate: int, frame_rate: float) -> Judged:
        """Return what is wrong with a take."""
        request = take.request
        spoken = Spoken(take.generated, sample_rate, request.text, request.prefix.text,
                        take.prefix_samples / sample_rate, take.codes[0, request.prefix_codes.shape[-1]:].cpu().numpy(),
                        frame_rate, take.stop_reason != "max_frames")
        faults, heard = judge(spoken, self.transcriber, self.settings)
        return Judged(take, faults, heard)


def judge(spoken: Spoken, transcriber: Transcriber | None, settings: VerificationConfig,
          ) -> tuple[tuple[Fault, ...], str | None]:
    """Return the faults of speech in the order of time, and what was heard. What two checks find counts once."""
    script, prompt = spoken_words(spoken.text), spoken_words(spoken.prompt_text)
    silences = find_silences(spoken.waveform, spoken.sample_rate, settings)
    faults, heard, said = [], None, 0.0
    if transcriber:
        transcript = transcriber.transcribe(spoken.waveform, spoken.sample_rate)
        words = timed_words(transcript, spoken.seconds)
        alignment = align(script, words, spoken.seconds, settings.anchor_letters, settings.extra_seconds)
        faults = word_faults(alignment, script, prompt, silences, settings)
        heard, said = transcript.text, alignment.gaps[-1].start
    faults = _once([*faults, *silences, *find_loop(spoken.codes, spoken.frame_rate, settings)])
    if not faults:
        pace = _pace_of(prompt, spoken.prompt_seconds, settings)
        faults = length_faults(spoken.seconds, num_letters(script), pace, settings)
    if not faults and heard is not None and not spoken.finished:
        faults = [Fault("unfinished", said, spoken.seconds, spoken.seconds - said, said)]
    return tuple(sorted(faults, key=lambda fault: fault.start)), heard


def _once(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults without those that overlap an earlier one."""
    kept: list[Fault] = []
    for fault in faults:
        if not any(fault.overlaps(other) for other in kept):
            kept.append(fault)
    return kept


def _pace_of(prompt: Sequence[str], seconds: float, settings: VerificationConfig) -> float:
    """Return the prompt's seconds a letter, or the usual ones when it says too little."""
    letters = num_letters(prompt)
    return seconds / letters if letters >= settings.sure_letters else settings.letter_seconds


def make_verifier(config: SynthConfig) -> Verifier | None:
    """Return what checks every pass, when the settings ask for it. See `find_listener` for what may be missing."""
    if not config.verify:
        return None
    transcriber, without = find_listener(config, "only silences, loops and the length of the speech can be verified")
    return Verifier(transcriber, config.verify_attempts, config.verification, without)


def in_short(report: dict) -> dict[str, str]:
    """Return one line on what was verified, from a speech's report; nothing when nothing was."""
    found = [piece["verification"] for piece in report["pieces"] if "verification" in piece]
    if not found:
        return {}
    again = sum(len(one["takes"]) > 1 for one in found)
    left = sum(len(one["takes"][one["chosen"]]["faults"]) for one in found)
    passes, faults = f"{len(found)} pass{'es' * (len(found) != 1)}", f"{left} fault{'s' * (left != 1)}"
    return {"verified": f"{passes}, {again} of them spoken again, {faults} left"}
