"""Durations and cost: whether the system speaks as long as people do, and how much time and memory it takes to."""

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
    """Seconds of computing a second of speech made (the paper's Figure 5); below 1 is faster than it is spoken."""

    name = "real_time_factor"
    label = "real-time factor"
    better = "lower"
    needs = frozenset({"timing"})
    columns = ("seconds_to_make", "seconds_made")

    def measure(self, item: MetricInput) -> Measurement:
        if item.seconds_to_make is None:
            return not_measured("nobody says how long it took")
        if not len(item.generated):
            return not_measured("nothing was generated")
        seconds = len(item.generated) / item.sample_rate
        numbers = {"seconds_to_make": item.seconds_to_make, "seconds_made": seconds}
        return Measurement(real_time_factor(item.seconds_to_make, seconds), numbers=numbers)

    def summarise(self, numbers: np.ndarray) -> float:
        return real_time_factor(*numbers.sum(axis=0).tolist())


class PeakMemory(Metric):
    """The most memory that speaking took beyond what was taken before the model was loaded; of a set, its maximum.

    On a GPU it is what torch allocated there, on a CPU the memory of the whole process.
    """

    name = "peak_memory"
    label = "peak memory"
    unit = "MiB"
    better = "lower"
    needs = frozenset({"timing"})
    digits = 0

    def measure(self, item: MetricInput) -> Measurement:
        if item.peak_memory is None:
            return not_measured("nobody says how much memory it took")
        if not item.peak_memory:  # speaking takes some: on a CPU it may fit into what the process held before
            return not_measured("too little memory to be seen beside what the process held before")
        value = item.peak_memory / 2**20
        return Measurement(value, numbers={"value": value})

    def summarise(self, numbers: np.ndarray) -> float:
        return float(numbers[:, 0].max())


def real_time_factor(seconds_to_make: float, seconds_made: float) -> float:
    """Return seconds of computing a second of sound."""
    return seconds_to_make / seconds_made
