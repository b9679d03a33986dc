"""Durations: whether the system speaks as long as people do, and how long it takes to."""

from __future__ import annotations

import numpy as np
from scipy.stats import wasserstein_distance

from stages.metrics.base import Measurement, Metric, MetricInput, not_measured


class DurationDistance(Metric):
    """Wasserstein distance between the durations of the outputs and of the recordings (the paper's WD).

    Distributions are compared, not pairs: 0 means that outputs are as long as recordings are, in any order.
    In the continuation setting the prompt counts on both sides.
    """

    name = "duration_distance"
    label = "duration WD"
    unit = "s"
    better = "lower"
    needs = frozenset({"reference"})
    columns = ("output_seconds", "reference_seconds")

    def measure(self, item: MetricInput) -> Measurement:
        output, reference = len(item.waveform) / item.sample_rate, len(item.reference) / item.sample_rate
        numbers = {"output_seconds": output, "reference_seconds": reference}
        return Measurement(abs(output - reference), numbers=numbers)

    def summarise(self, numbers: np.ndarray) -> float:
        return float(wasserstein_distance(numbers[:, 0], numbers[:, 1]))


class RealTimeFactor(Metric):
    """Seconds of computing a second of speech made; below 1 is faster than it is spoken."""

    name = "real_time_factor"
    label = "real-time factor"
    better = "lower"
    needs = frozenset({"timing"})
    columns = ("seconds_to_make", "seconds_made")

    def measure(self, item: MetricInput) -> Measurement:
        if not len(item.generated):
            return not_measured("nothing was generated")
        seconds = len(item.generated) / item.sample_rate
        numbers = {"seconds_to_make": item.seconds_to_make, "seconds_made": seconds}
        return Measurement(real_time_factor(item.seconds_to_make, seconds), numbers=numbers)

    def summarise(self, numbers: np.ndarray) -> float:
        return real_time_factor(*numbers.sum(axis=0).tolist())


def real_time_factor(seconds_to_make: float, seconds_made: float) -> float:
    """Return seconds of computing a second of sound."""
    return seconds_to_make / seconds_made
