"""A metric of one's own: how much of the speech is pause. Systems that rush or drag differ from people in it."""

from __future__ import annotations

import numpy as np

from stages.metrics.base import Measurement, Metric, MetricInput, not_measured

FRAME_SECONDS = 0.02
QUIETER_DB = 40.0  # than the loudest frame: a pause
SHORTEST_FRAMES = 10  # 0.2 s; the closure of a `p` is shorter


class PauseShare(Metric):
    """Share of the time that is spent in pauses of at least 0.2 s; of a set, that of all its speech together."""

    name = "pause_share"
    label = "pauses"
    unit = "%"
    better = "lower"
    digits = 1
    columns = ("pause_seconds", "speech_seconds")

    def measure(self, item: MetricInput) -> Measurement:
        pauses = pauses_of(item.generated, item.sample_rate)
        if pauses is None:
            return not_measured("the output is silent or shorter than a frame")
        seconds = [round(end - start, 3) for start, end in pauses]
        total = len(item.generated) / item.sample_rate
        numbers = {"pause_seconds": sum(seconds), "speech_seconds": total}
        return Measurement(100 * sum(seconds) / total, numbers=numbers, details={"pauses": seconds})

    def summarise(self, numbers: np.ndarray) -> float:
        pause_seconds, speech_seconds = numbers.sum(axis=0)
        return float(100 * pause_seconds / speech_seconds)


def pauses_of(waveform: np.ndarray, sample_rate: int) -> list[tuple[float, float]] | None:
    """Return (start, end) in seconds of every pause in [samples]; None where nothing sounds."""
    length = round(FRAME_SECONDS * sample_rate)
    frames = waveform[: len(waveform) // length * length].reshape(-1, length)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    if not power.any():
        return None
    quiet = power < power.max() / 10 ** (QUIETER_DB / 10)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
    return [(start * FRAME_SECONDS, end * FRAME_SECONDS) for start, end in edges.reshape(-1, 2).tolist()
            if end - start >= SHORTEST_FRAMES]
