"""From the rows of items.jsonl to the scores of every system, speaker and duration class, and to differences.

A row is one take of one utterance. What did not change from take to take (recordings, anyone's audio) may stand in
the first take's row only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import Measurement, Metric, not_measured
from stages.metrics.duration_classes import CLASSES, UNKNOWN, by_class
from stages.metrics.registry import column_title
from stages.metrics.scoring import FAILED, MISSING, RECORDINGS, SCORED, measures_alone
from stages.metrics.summary import Difference, paired_difference, summarise


def describe(metric: Metric, recogniser: str) -> dict:
    """Return how a metric is written in tables."""
    return {"label": column_title(metric, recogniser), "unit": metric.unit, "better": metric.better,
            "digits": metric.digits}


def score_system(metrics: Sequence[Metric], rows: Sequence[dict], system: str, config: EvalConfig) -> dict:
    """Return what scores.json says of one system; utterances that were refused are in nothing of it.

    `speakers` holds the scores of each speaker alone, when there are several.
    """
    judged = _rows_of(rows, system)
    entries = [row["systems"][system] for row in judged]
    statuses = Counter(entry["status"] for entry in entries)
    unfinished = sum(entry["status"] == SCORED and not entry["finished"] for entry in entries)
    by_speaker: dict[str, list[dict]] = {}
    for row in judged:
        by_speaker.setdefault(row["speaker"], []).append(row)
    several = by_speaker if len(by_speaker) > 1 else {}
    return {
        "counts": {status: statuses[status] for status in (SCORED, MISSING, FAILED)} | {"unfinished": unfinished},
        "left_out": dict(Counter(f"{entry['status']}: {entry['reason']}" for entry in entries if entry["reason"])),
        "scores": _scores(metrics, judged, system, config),
        "speakers": {speaker: _scores(metrics, theirs, system, config) for speaker, theirs in several.items()},
    }


def score_classes(
    metrics: Sequence[Metric], rows: Sequence[dict], systems: Sequence[str], config: EvalConfig
) -> dict[str, dict]:
    """Return class of duration -> system -> the scores of that class alone, of the classes that there are."""
    parted = {system: by_class(_rows_of(rows, system), system) for system in systems}
    found = {}
    for name in (*CLASSES, UNKNOWN):
        here = {system: _scores(metrics, parts[name], system, config)
                for system, parts in parted.items() if name in parts}
        if here:
            found[name] = here
    return found


def compare_systems(
    metrics: Sequence[Metric], rows: Sequence[dict], systems: Sequence[str], config: EvalConfig
) -> list[dict]:
    """Return the difference of every system from the recordings, and of each system from every one before it.

    `value` is the system's less that of the one it is compared `against`, over the outputs that both have.
    """
    compared = [(system, RECORDINGS) for system in systems]
    compared += [(later, earlier) for place, earlier in enumerate(systems) for later in systems[place + 1 :]]
    found = []
    for system, against in compared:
        pairs = list(_pairs(rows, system, against))
        for metric in metrics:
            if not (_applies(metric, system) and _applies(metric, against)):
                continue
            difference = _difference(metric, pairs, config)
            if difference is not None:
                found.append({"system": system, "against": against, "metric": metric.name, **asdict(difference)})
    return found


def _rows_of(rows: Sequence[dict], system: str) -> list[dict]:
    return [row for row in rows if not row["refused"] and system in row["systems"]]


def _scores(metrics: Sequence[Metric], rows: Sequence[dict], system: str, config: EvalConfig) -> dict[str, dict]:
    texts = [row["id"] for row in rows]
    found = {}
    for metric in metrics:
        if _applies(metric, system):
            measurements = [_measurement(metric, row["systems"][system]) for row in rows]
            score = summarise(metric, measurements, config.seed, config.bootstrap_samples, texts)
            found[metric.name] = asdict(score)
    return found


def _difference(metric: Metric, pairs: Sequence[tuple[str, dict, dict]], config: EvalConfig) -> Difference | None:
    ours, theirs = ([_measurement(metric, pair[side]) for pair in pairs] for side in (1, 2))
    texts = [text for text, _, _ in pairs]
    return paired_difference(metric, ours, theirs, config.seed, config.bootstrap_samples, texts)


def _pairs(rows: Sequence[dict], system: str, against: str) -> Iterator[tuple[str, dict, dict]]:
    """Yield the text and the entries of both for every take of either.

    One that has a single take is compared with each of the other's: the weight of every text is then the same on
    both sides.
    """
    by_text: dict[str, list[dict]] = {}
    for row in rows:
        if not row["refused"]:
            by_text.setdefault(row["id"], []).append(row["systems"])
    for text, takes in by_text.items():
        only = {name: each[0] for name in (system, against)
                if len(each := [entries[name] for entries in takes if name in entries]) == 1}
        for entries in takes:
            both = [entries.get(name, only.get(name)) for name in (system, against)]
            if None not in both and any(name in entries for name in (system, against)):
                yield text, *both


def _applies(metric: Metric, system: str) -> bool:
    return system != RECORDINGS or measures_alone(metric)


def _measurement(metric: Metric, entry: dict) -> Measurement:
    stored = entry["metrics"].get(metric.name)
    if stored is None:
        return not_measured("done before this metric was asked for")
    numbers = {column: stored[column] for column in metric.columns if column in stored}
    return Measurement(stored["value"], stored["reason"], numbers)
