"""What a curated corpus holds, in numbers that a paper's table would give."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from stages.curation.screening import Rejection


def describe(rows: list[dict], rejections: list[Rejection], inputs: int, accepted: int) -> dict:
    """Summarise manifest rows and rejections; `accepted` counts inputs, of which a joined clip takes several.

    Every input is accepted or rejected: anything else is our bug, and raised.

    Durations are seconds (mean and population standard deviation, as Table 2 of the paper gives them).
    """
    if accepted + len(rejections) != inputs:
        raise AssertionError(f"{inputs} inputs, but {accepted} accepted and {len(rejections)} rejected")
    durations = [row["duration"] for row in rows]
    longest = max(rows, key=lambda row: row["duration"], default=None)
    return {
        "inputs": inputs,
        "accepted": accepted,
        "rejected": len(rejections),
        "reasons": dict(sorted(Counter(rejection.reason for rejection in rejections).items())),
        "bad_audio": sum(rejection.is_bad_audio for rejection in rejections),
        **_totals(rows),
        "mean_seconds": round(sum(durations) / len(durations), 3) if durations else 0.0,
        "sd_seconds": round(_deviation(durations), 3),
        "longest": {"id": longest["id"], "seconds": longest["duration"]} if longest else None,
        "splits": _by(rows, "split"),
        "speakers": _by(rows, "speaker"),
    }


def _totals(rows: list[dict]) -> dict:
    return {
        "clips": len(rows),
        "hours": round(sum(row["duration"] for row in rows) / 3600, 4),
        "words": sum(len(row["text"].split()) for row in rows),
    }


def _by(rows: list[dict], column: str) -> dict[str, dict]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return {name: _totals(groups[name]) for name in sorted(groups)}


def _deviation(values: list[float]) -> float:
    if not values:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
