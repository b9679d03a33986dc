"""Classes of duration: what a system does for seconds says little of what it does for minutes (Tables 24 to 26)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

# Seconds at which a class ends and the next begins. 4 to 10 s is what VALL-E and most since were scored on, 30 s what
# Whisper hears at once, 90 and 180 s are the lengths of MinutesSpeech.
BOUNDS = (4, 10, 30, 60, 90, 180)
CLASSES = (*(f"{low}-{high}" for low, high in zip((0, *BOUNDS), BOUNDS, strict=False)), f"{BOUNDS[-1]}+")
UNKNOWN = "unknown"


def class_of(seconds: float | None) -> str:
    """Return the class of a duration, such as `4-10` from 4 s on and below 10 s; `unknown` for None."""
    return UNKNOWN if seconds is None else CLASSES[bisect_right(BOUNDS, seconds)]


def by_class(rows: Sequence[dict], system: str) -> dict[str, list[dict]]:
    """Return the rows of items.jsonl that each class has, shortest first; classes without a row are left out.

    The recording's duration counts, so that a system is not moved to another class by speaking faster. Of texts
    without one it is the output's; without that either, the class is `unknown`, for nothing is dropped.
    """
    found: dict[str, list[dict]] = {name: [] for name in (*CLASSES, UNKNOWN)}
    for row in rows:
        seconds = row["reference_seconds"]
        found[class_of(row["systems"][system]["seconds"] if seconds is None else seconds)].append(row)
    return {name: theirs for name, theirs in found.items() if theirs}
