from __future__ import annotations

import pytest

from stages.metrics.duration_classes import CLASSES, by_class, class_of


def row(name, reference, said=None):
    return {"id": name, "reference_seconds": reference, "systems": {"mine": {"seconds": said}}}


@pytest.mark.parametrize("seconds, expected", [
    (0.0, "0-4"), (3.999, "0-4"), (4.0, "4-10"), (10.0, "10-30"), (59.9, "30-60"), (60, "60-90"), (90.0, "90-180"),
    (180.0, "180+"), (3600.0, "180+"), (None, "unknown"),
])
def test_a_class_begins_at_its_first_number_and_ends_before_its_second(seconds, expected):
    assert class_of(seconds) == expected


def test_classes_follow_each_other():
    assert CLASSES == ("0-4", "4-10", "10-30", "30-60", "60-90", "90-180", "180+")


def test_the_recordings_duration_decides_else_the_outputs_and_no_row_is_lost():
    rows = [row("a", 50.0, 5.0), row("b", None, 5.0), row("c", None), row("d", 5.0, 90.0), row("e", 50.0)]
    found = by_class(rows, "mine")
    assert {name: [each["id"] for each in theirs] for name, theirs in found.items()} == {
        "4-10": ["b", "d"], "30-60": ["a", "e"], "unknown": ["c"]}
    assert list(found) == ["4-10", "30-60", "unknown"]
