"""Measurements that are kept: what is asked for again is not measured again.

`measurements.jsonl` holds one line a value, known by all that it depends on: the metric, its settings and its source
code, the text, the sounds, and what was heard in them.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

from stages.artifacts.journal import Journal
from stages.artifacts.storage import fingerprint_of
from stages.metrics.base import Measurement, Metric, not_measured
from stages.parallel import ALONE, Share

MEASUREMENTS = "measurements.jsonl"


class KeptMeasurements:
    """Measurements by their keys. What has no value is tried again: what it lacked may be there now."""

    def __init__(self, journal: Path, share: Share = ALONE):
        self._journal = Journal(journal, share)
        self._known = {line["key"]: Measurement(*(line[part] for part in ("value", "reason", "numbers", "details")))
                       for line in self._journal.rows()}

    def of(self, metric: Metric, inputs: object, measure: Callable[[], Measurement]) -> Measurement:
        """Return the measurement of the same JSON-ready `inputs` by the same metric, or what `measure` returns."""
        key = fingerprint_of([identity_of(metric), inputs])
        if key not in self._known:
            measured = measure()
            if measured.value is not None and not math.isfinite(measured.value):
                measured = not_measured(f"{metric.label} gives no finite number")
            if measured.value is None:
                return measured
            self._journal.add({"key": key, "metric": metric.name} | asdict(measured))
            self._known[key] = measured
        return self._known[key]


def identity_of(metric: Metric) -> list[str]:
    """Return what tells a metric from others and from itself with other settings or another way to compute."""
    return [metric.name, metric.label, metric.settings(), _source_of(type(metric))]


@cache
def _source_of(kind: type) -> str:
    """Return the hash of the file that a metric is written in; of the class's name where there is no file."""
    try:
        source = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):
        source = kind.__qualname__.encode("utf-8")
    return hashlib.sha256(source).hexdigest()
