"""Score outputs one by one into JSON-ready rows, and the rows of a test set into its scores."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from stages.metrics.base import Measurement, Metric, MetricInput, Need, not_measured
from stages.metrics.registry import column_title, why_not
from stages.metrics.summary import Score, summarise
from stages.metrics.test_set import Case
from stages.speech.transcriber import Transcriber

log = logging.getLogger("halle.eval")

# What a row may say of an utterance. `missing` and `failed` are without output and count against the system;
# `refused` cannot be judged (bad recording, empty text, no prompt), is in no denominator, and is shown.
SCORED, MISSING, FAILED, REFUSED = "scored", "missing", "failed", "refused"


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


def row_of(case: Case, status: str, reason: str, output: Output | None = None, recording: Sound | None = None) -> dict:
    """Return what items.jsonl says of a case before anything is measured."""
    if status in (FAILED, REFUSED):
        log.warning("`%s` %s: %s", case.utterance.id, status, reason)
    return {
        "id": case.utterance.id,
        "speaker": case.utterance.speaker,
        "text": case.utterance.text,
        "status": status,
        "reason": reason,
        "prompt": case.prompt.id if case.prompt else None,
        "audio": None,
        "seconds": output.sound.seconds if output else None,
        "prompt_seconds": output.prompt_samples / output.sound.sample_rate if output else None,
        "seconds_to_make": output.seconds_to_make if output else None,
        "stop_reason": output.stop_reason if output else "",
        "finished": output is not None and output.finished,
        "reference_seconds": recording.seconds if recording else None,
    }


@dataclass(frozen=True)
class Scorer:
    """Apply metrics to outputs, for an evaluation that offers what metrics `offered` need."""

    metrics: Sequence[Metric]
    offered: frozenset[Need]
    transcriber: Transcriber

    def score(self, text: str, output: Output | None, reference: Sound) -> dict:
        """Return what was heard and every metric's measurement; `output` None is an utterance without one."""
        item = self._to_input(text, output, reference)
        return {"heard": item.transcript, "metrics": _measure_all(self.metrics, self.offered, item)}

    def score_recording(self, text: str, reference: Sound) -> dict:
        """Return the same for the recording itself: what the recogniser gets wrong of real speech."""
        listener = Scorer(self.metrics, frozenset({"transcript"}), self.transcriber)
        return listener.score(text, Output(reference), reference)

    def _to_input(self, text: str, output: Output | None, reference: Sound) -> MetricInput:
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
            transcript=heard,
            seconds_to_make=output.seconds_to_make,
        )

    @property
    def _needs_transcript(self) -> bool:
        return any("transcript" in metric.needs for metric in self.metrics)


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


def summarise_rows(
    metrics: Sequence[Metric], rows: Sequence[dict], system: str, recogniser: str, seed: int, bootstrap_samples: int
) -> dict[str, dict]:
    """Return metric name -> JSON-ready score of `system` (`output` or `recording`) over rows that were not refused."""
    judged = [row for row in rows if row["status"] != REFUSED]
    scores = {}
    for metric in metrics:
        measurements = [_to_measurement(metric, row[system]["metrics"].get(metric.name)) for row in judged]
        score = summarise(metric, measurements, seed, bootstrap_samples)
        scores[metric.name] = _to_json(metric, score, recogniser)
    return scores


def _to_measurement(metric: Metric, stored: dict | None) -> Measurement:
    if stored is None:
        return not_measured("done before this metric was asked for")
    numbers = {column: stored[column] for column in metric.columns if column in stored}
    return Measurement(stored["value"], stored["reason"], numbers)


def _to_json(metric: Metric, score: Score, recogniser: str) -> dict:
    return {
        "label": column_title(metric, recogniser),
        "unit": metric.unit,
        "better": metric.better,
        "digits": metric.digits,
        "value": score.value,
        "interval": list(score.interval) if score.interval else None,
        "denominator": score.denominator,
        "total": score.total,
        "reasons": score.reasons,
        "totals": score.totals,
    }


def count_rows(rows: Sequence[dict]) -> dict[str, int]:
    """Return how many utterances were scored, missing, failed, refused, and scored though unfinished."""
    counts = Counter(row["status"] for row in rows)
    unfinished = sum(row["status"] == SCORED and not row["finished"] for row in rows)
    return {status: counts[status] for status in (SCORED, MISSING, FAILED, REFUSED)} | {"unfinished": unfinished}
