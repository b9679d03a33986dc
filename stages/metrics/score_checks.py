"""What must hold of an evaluation: the scores are of the items, with every output in a denominator or told why not."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from stages.artifacts.findings import Findings
from stages.artifacts.storage import read_json, read_jsonl

SCORES, ITEMS = "scores.json", "items.jsonl"


def check_evaluation(folder: Path, findings: Findings) -> None:
    """Add up the items again and note every score, count and audio file that does not agree."""
    scores, rows = read_json(folder / SCORES), read_jsonl(folder / ITEMS)
    evaluated = {row["id"] for row in rows}
    if len(evaluated) != scores["set"]["evaluated"]:
        findings.damaged(f"`{folder / ITEMS}`: expected {scores['set']['evaluated']} utterances, as `{SCORES}` says, "
                         f"got {len(evaluated)}")
    twice = [name for name, number in Counter((row["id"], row["take"]) for row in rows).items() if number > 1]
    for name, take in twice:
        findings.damaged(f"`{folder / ITEMS}`: take {take} of `{name}` is there more than once")
    for system, said in scores["systems"].items():
        entries = [row["systems"][system] for row in rows if system in row["systems"] and not row["refused"]]
        _check_counts(folder, system, said, entries, findings)
        for metric, score in said["scores"].items():
            with findings.noting():
                _check_score(folder, f"{metric} of {system}", score, [e["metrics"].get(metric) for e in entries],
                             findings)
    findings.count("items", len(rows))
    findings.count("systems", len(scores["systems"]))


def _check_counts(folder: Path, system: str, said: dict, entries: list[dict], findings: Findings) -> None:
    statuses = Counter(entry["status"] for entry in entries)
    for status, number in said["counts"].items():
        if status != "unfinished" and statuses[status] != number:  # one of those that were scored
            findings.damaged(f"`{folder / SCORES}`: {number} outputs of {system} are {status}, of the items "
                             f"{statuses[status]}")
    for entry in entries:
        if entry["audio"] and not (folder / entry["audio"]).is_file():
            findings.damaged(f"`{folder / entry['audio']}` is missing")


def _check_score(folder: Path, what: str, score: dict, measured: list[dict | None], findings: Findings) -> None:
    """Compare a score's denominator and totals with the measurements of the items."""
    valued = [each for each in measured if each is not None and each["value"] is not None]
    findings.count("scores")
    if len(valued) != score["denominator"]:
        findings.damaged(f"`{folder / SCORES}`: the denominator of {what} is {score['denominator']}, the items have "
                         f"{len(valued)} values")
        return
    for column, total in score["totals"].items():
        found = math.fsum(each[column] for each in valued)
        if not math.isclose(found, total, rel_tol=1e-9, abs_tol=1e-9):
            findings.damaged(f"`{folder / SCORES}`: the {column} of {what} add up to {found:g}, not to {total:g}")
