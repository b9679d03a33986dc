"""Measure outputs one by one, into the JSON-ready rows of items.jsonl: one an utterance, with every system in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from stages.artifacts.manifest import Utterance
from stages.audio.io import audio_info, read_audio
from stages.metrics.base import Metric, MetricInput, Need, not_measured
from stages.metrics.registry import why_not
from stages.metrics.test_set import Case
from stages.speech.transcriber import Transcriber

log = logging.getLogger("halle.eval")

# What a system did with an utterance. `missing` and `failed` are without output and count against it.
SCORED, MISSING, FAILED = "scored", "missing", "failed"
RECORDINGS = "recordings"  # the system that everyone else is compared with: the test set's own speech


@dataclass(frozen=True)
class Sound:
    """A waveform, float32 [samples], at `sample_rate` Hz."""

    waveform: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True)
class Output:
    """What a system said for one utterance; the first `prompt_samples` of the sound were given to it."""

    sound: Sound
    prompt_samples: int = 0
    seconds_to_make: float | None = None
    stop_reason: str = ""

    @property
    def finished(self) -> bool:
        """Tell whether the system came to its own end; audio from elsewhere is taken as finished."""
        return self.stop_reason in ("", "end")


@dataclass(frozen=True)
class Attempt:
    """How a system fared with an utterance: `reason` says why there is no `output`."""

    status: str
    reason: str = ""
    output: Output | None = None


def row_of(case: Case, recording: Sound | None = None, refused: str = "") -> dict:
    """Return what items.jsonl says of an utterance before any system is measured.

    One that is `refused` cannot be judged (bad recording, empty text, no prompt): it is in no denominator, and shown.
    """
    if refused:
        log.warning("`%s` refused: %s", case.utterance.id, refused)
    return {
        "id": case.utterance.id,
        "speaker": case.utterance.speaker,
        "text": case.utterance.text,
        "prompt": case.prompt.id if case.prompt else None,
        "refused": refused,
        "reference_seconds": recording.seconds if recording else None,
        "systems": {},
    }


@dataclass(frozen=True)
class Scorer:
    """Apply metrics to outputs, for an evaluation that offers what metrics `offered` need."""

    metrics: Sequence[Metric]
    offered: frozenset[Need]
    transcriber: Transcriber

    def score(self, text: str, attempt: Attempt, reference: Sound, voice: Sound) -> dict:
        """Return what a row says of one system: what it made, what was heard in it, and every measurement."""
        output = attempt.output
        item = self._to_input(text, output, reference, voice)
        return {
            "status": attempt.status,
            "reason": attempt.reason,
            "audio": None,
            "seconds": output.sound.seconds if output else None,
            "prompt_seconds": output.prompt_samples / output.sound.sample_rate if output else None,
            "seconds_to_make": output.seconds_to_make if output else None,
            "stop_reason": output.stop_reason if output else "",
            "finished": output is not None and output.finished,
            "heard": item.transcript,
            "metrics": _measure_all(self.metrics, self.offered, item),
        }

    def score_recording(self, text: str, recording: Sound) -> dict:
        """Return the same for the recording itself, such as what the recogniser gets wrong of real speech."""
        metrics = [metric for metric in self.metrics if measures_alone(metric)]
        listener = Scorer(metrics, self.offered, self.transcriber)
        return listener.score(text, Attempt(SCORED, output=Output(recording)), recording, recording)

    def _to_input(self, text: str, output: Output | None, reference: Sound, voice: Sound) -> MetricInput:
        if output is None:
            return MetricInput(text, reference.sample_rate, reference=reference.waveform)
        rate = output.sound.sample_rate
        heard = self.transcriber.transcribe(output.sound.waveform, rate).text if self._needs_transcript else None
        return MetricInput(
            text=text,
            sample_rate=rate,
            waveform=output.sound.waveform,
            prompt_samples=output.prompt_samples,
            reference=resample(reference, rate),
            voice=resample(voice, rate),
            transcript=heard,
            seconds_to_make=output.seconds_to_make,
        )

    @property
    def _needs_transcript(self) -> bool:
        return any("transcript" in metric.needs for metric in self.metrics)


def measures_alone(metric: Metric) -> bool:
    """Tell whether a metric compares with nothing but the text, so that recordings can be measured with it too."""
    return metric.needs <= {"transcript"}


def read_recording(utterance: Utterance) -> Sound:
    """Return the test set's own recording at its own sample rate."""
    sample_rate = audio_info(utterance.audio).sample_rate
    return Sound(read_audio(utterance.audio, None, utterance.start, utterance.duration), sample_rate)


def resample(sound: Sound, sample_rate: int) -> np.ndarray:
    """Return the waveform float32 [samples] at `sample_rate` Hz."""
    if sound.sample_rate == sample_rate:
        return sound.waveform
    return soxr.resample(sound.waveform, sound.sample_rate, sample_rate).astype(np.float32)


def _measure_all(metrics: Sequence[Metric], offered: frozenset[Need], item: MetricInput) -> dict[str, dict]:
    measured = {}
    for metric in metrics:
        if reason := why_not(metric, offered):
            measurement = not_measured(reason)
        elif item.waveform is None or not len(item.waveform):
            measurement = metric.measure_failure(item)
        else:
            measurement = metric.measure(item)
        measured[metric.name] = {"value": measurement.value, "reason": measurement.reason, **measurement.numbers}
    return measured
