"""Step `gate`: only recordings that sound well enough, throughout, are worth the costly steps (section 6).

Every 30 s are scored by a model; the mean tells how good a recording sounds, the deviation how evenly. The paper keeps
what has a mean of PESQ, as Squim estimates it, above 2.5 and a deviation below 0.6: a quarter of its podcasts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.audio.recording import Recording as Sound
from stages.audio.recording import open_recording
from stages.config.recordings import GateConfig
from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import Recording
from stages.curation.steps import Results, Step
from stages.speech.quality import (
    RATE,
    THRESHOLDS,
    QualityEstimator,
    Thresholds,
    load_quality,
    missing_quality,
)
from stages.training.processes import pick_device

NO_GATE = "none"
SHORTEST_PIECE = 0.5  # of a piece: what is left at the end and shorter would weigh too much


@dataclass(frozen=True)
class Verdict:
    """What the pieces of a recording say of it; `reason` is '' when it is kept. Without a score there is no mean."""

    mean: float | None
    deviation: float | None
    reason: str
    detail: str


def judge(scores: Sequence[float | None], thresholds: Thresholds) -> Verdict:
    """Tell whether a recording is kept by the scores of its pieces; those of silence are None and do not count.

    The deviation is that of the pieces themselves (the sum of squares over their number).
    """
    heard = [score for score in scores if score is not None]
    if not heard:
        return Verdict(None, None, "SILENT", "nothing is heard in any piece")
    mean, deviation = float(np.mean(heard)), float(np.std(heard))
    if not mean > thresholds.mean:
        return Verdict(mean, deviation, "LOW_QUALITY",
                       f"expected a mean score above {thresholds.mean:g}, got {mean:.3f}")
    if not deviation < thresholds.deviation:
        return Verdict(mean, deviation, "UNEVEN_QUALITY",
                       f"expected scores that deviate by less than {thresholds.deviation:g}, got {deviation:.3f}")
    return Verdict(mean, deviation, "", "")


def score_pieces(sound: Sound, estimator: QualityEstimator, piece_seconds: float = 30.0) -> list[float | None]:
    """Return the score of each piece, None of silence. A last piece of less than half a piece is left out.

    One that is all there is counts, however short. Only a piece at a time is in memory.
    """
    scores: list[float | None] = []
    for _, piece in sound.blocks(piece_seconds, RATE):
        if scores and len(piece) < SHORTEST_PIECE * piece_seconds * RATE:
            continue
        score = estimator.estimate(piece, RATE)
        scores.append(round(score, 4) if math.isfinite(score) else None)
    return scores


def thresholds_of(gate: GateConfig) -> Thresholds:
    """Return those that were set, else the estimator's own."""
    own = THRESHOLDS[gate.estimator]
    return Thresholds(own.mean if gate.mean is None else gate.mean,
                      own.deviation if gate.deviation is None else gate.deviation)


# ---- the step


def run(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    """Score the recording's pieces, and say in `reason` why it is not kept, if so."""
    assert recording.audio is not None
    gate, sound = config.gate, open_recording(recording.audio)
    if gate.estimator == NO_GATE:
        return {"estimator": NO_GATE, "version": "", "seconds": sound.seconds, "piece_seconds": gate.piece_seconds,
                "pieces": [], "mean": None, "deviation": None, "kept": True, "reason": "", "detail": ""}
    estimator = _estimator(gate.estimator, gate.weights, str(pick_device(config.device)))
    pieces = score_pieces(sound, estimator, gate.piece_seconds)
    verdict = judge(pieces, thresholds_of(gate))
    return {"estimator": estimator.name, "version": estimator.version, "seconds": sound.seconds,
            "piece_seconds": gate.piece_seconds, "pieces": pieces, "mean": _rounded(verdict.mean),
            "deviation": _rounded(verdict.deviation), "kept": not verdict.reason, "reason": verdict.reason,
            "detail": verdict.detail}


def settings(config: CurateConfig) -> dict:
    """The model's version is in the results: the machine that selects from them need not have the model."""
    gate = config.gate
    if gate.estimator == NO_GATE:
        return {"version": 1, "estimator": NO_GATE}
    thresholds = thresholds_of(gate)
    return {"version": 1, "estimator": gate.estimator, "piece_seconds": gate.piece_seconds,
            "mean": thresholds.mean, "deviation": thresholds.deviation}


def missing(config: CurateConfig) -> str:
    return "" if config.gate.estimator == NO_GATE else missing_quality(config.gate.estimator, config.gate.weights)


GATE = Step("gate", needs=(), settings=settings, run=run, missing=missing)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


@functools.cache
def _estimator(name: str, weights: str | None, device: str) -> QualityEstimator:
    return load_quality(name, weights, device)
