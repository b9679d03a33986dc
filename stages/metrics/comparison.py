"""From the rows of items.jsonl to the scores of every system, of every speaker, and the differences between systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import Measurement, Metric, not_measured
from stages.metrics.registry import column_title
from stages.metrics.scoring import FAILED, MISSING, RECORDINGS, SCORED, measures_alone
from stages.metrics.summary import paired_difference, summarise


def describe(metric: Metric, recogniser: str) -> dict:
    """Return how a metric is written in tables."""
    return {"label": column_title(metric, recogniser), "unit": metric.unit, "better": metric.better,
            "digits": metric.digits}


def score_system(metrics: Sequence[Metric], rows: Sequence[dict], system: str, config: EvalConfig) -> dict:
    """Return what scores.json says of one system; utterances that were refused are in nothing of it.

    `speakers` holds the scores of each speaker alone, when there are several.
    """
    judged = [row for row in rows if not row["refused"]]
    entries = [row["systems"][system] for row in judged]
    statuses = Counter(entry["status"] for entry in entries)
    unfinished = sum(entry["status"] == SCORED and not entry["finished"] for entry in entries)
    by_speaker: dict[str, list[dict]] = {}
    for row in judged:
        by_speaker.setdefault(row["speaker"], []).append(row["systems"][system])
    several = by_speaker if len(by_speaker) > 1 else {}
    return {
        "counts": {status: statuses[status] for status in (SCORED, MISSING, FAILED)} | {"unfinished": unfinished},
        "left_out": dict(Counter(f"{entry['status']}: {entry['reason']}" for entry in entries if entry["reason"])),
        "scores": _scores(metrics, entries, system, config),
        "speakers": {speaker: _scores(metrics, theirs, system, config) for speaker, theirs in several.items()},
    }


def _scores(metrics: Sequence[Metric], entries: Sequence[dict], system: str, config: EvalConfig) -> dict[str, dict]:
    return {metric.name: asdict(summarise(metric, _measurements(metric, entries), config.seed,
                                          config.bootstrap_samples))
            for metric in metrics if _applies(metric, system)}


def compare_systems(
    metrics: Sequence[Metric], rows: Sequence[dict], systems: Sequence[str], config: EvalConfig
) -> list[dict]:
    """Return the difference of every system from the recordings, and of every further one from the first.

    `value` is the system's less that of the one it is compared `against`, over the utterances that both have.
    """
    judged = [row for row in rows if not row["refused"]]
    pairs = [(system, RECORDINGS) for system in systems] + [(system, systems[0]) for system in systems[1:]]
    found = []
    for system, against in pairs:
        for metric in metrics:
            if not (_applies(metric, system) and _applies(metric, against)):
                continue
            sides = [_measurements(metric, [row["systems"][name] for row in judged]) for name in (system, against)]
            difference = paired_difference(metric, *sides, config.seed, config.bootstrap_samples)
            if difference is not None:
                found.append({"system": system, "against": against, "metric": metric.name, **asdict(difference)})
    return found


def _applies(metric: Metric, system: str) -> bool:
    return system != RECORDINGS or measures_alone(metric)


def _measurements(metric: Metric, entries: Sequence[dict]) -> list[Measurement]:
    return [_to_measurement(metric, entry["metrics"].get(metric.name)) for entry in entries]


def _to_measurement(metric: Metric, stored: dict | None) -> Measurement:
    if stored is None:
        return not_measured("done before this metric was asked for")
    numbers = {column: stored[column] for column in metric.columns if column in stored}
    return Measurement(stored["value"], stored["reason"], numbers)
