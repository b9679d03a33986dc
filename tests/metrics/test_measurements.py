from __future__ import annotations

from stages.metrics.base import Measurement, Metric
from stages.metrics.measurements import KeptMeasurements


class Noted(Metric):
    name, label, better = "noted", "noted", "higher"

    def measure(self, item):
        return Measurement(3.0, "1 of 2 windows left out", {"value": 3.0}, {"windows": [3.0, None]})


def test_a_measurement_that_is_kept_comes_back_with_its_note_numbers_and_details(tmp_path):
    metric, asked = Noted(), []

    def measure():
        asked.append(1)
        return metric.measure(None)

    found = [KeptMeasurements(tmp_path / "kept.jsonl").of(metric, ["text", "sound"], measure) for _ in range(2)]
    assert found[0] == found[1] == metric.measure(None) and len(asked) == 1


class Broken(Noted):
    label = "broken"


def test_a_number_that_is_none_is_no_measurement(tmp_path):
    kept = KeptMeasurements(tmp_path / "kept.jsonl")
    found = kept.of(Broken(), ["text"], lambda: Measurement(float("nan"), numbers={"value": float("nan")}))
    assert found.value is None and found.reason == "broken gives no finite number"
    assert kept.of(Broken(), ["text"], lambda: Measurement(2.0)).value == 2.0, "it is tried again"
