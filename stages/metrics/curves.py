"""Curves of scores.json: what a number for a whole utterance hides. A line a system, a point with its interval each.

`{NAME: {"label", "x_label", "y_label", "caption", "systems": {NAME: [{"x", "value", "interval", "denominator"}]}}}`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import Measurement, Metric
from stages.metrics.prompt_lengths import SimilarityByPrompt
from stages.metrics.speaker import WINDOW_SECONDS, SimilarityDrift
from stages.metrics.summary import summarise

OVER_TIME, BY_PROMPT = "similarity_over_time", "similarity_by_prompt_length"


def curves_of(
    metrics: Sequence[Metric], rows: Sequence[dict], systems: Mapping[str, dict], config: EvalConfig
) -> dict[str, dict]:
    """Return the curves that can be drawn, from the rows of items.jsonl and what scores.json says of `systems`."""
    found = {}
    for metric in metrics:
        if isinstance(metric, SimilarityDrift):
            found[OVER_TIME] = {
                "label": "Similarity over time", "x_label": "what was made, s", "y_label": metric.titled("SIM"),
                "caption": f"SIM of windows of about {WINDOW_SECONDS:g} s with the voice that was given, the mean of "
                           "all outputs that are so long.",
                "systems": {name: _over_time(metric, rows, name, config) for name in systems},
            }  # fmt: skip
        elif isinstance(metric, SimilarityByPrompt):
            found[BY_PROMPT] = {
                "label": "Similarity against the prompt", "x_label": "prompt, s", "y_label": metric.label,
                "caption": "Every length of prompt is heard on as much speech and compared with the same seconds of "
                           "the voice.",
                "systems": _by_prompt(metric, systems),
            }  # fmt: skip
    drawn = {name: curve | {"systems": {system: points for system, points in curve["systems"].items() if points}}
             for name, curve in found.items()}
    return {name: curve for name, curve in drawn.items() if curve["systems"]}


def _over_time(metric: Metric, rows: Sequence[dict], system: str, config: EvalConfig) -> list[dict]:
    """Return the mean similarity in every 5 s, over the outputs that have a window whose middle lies there."""
    bins: dict[int, list[tuple[str, float]]] = {}
    for row in rows:
        details = row["systems"].get(system, {}).get("metrics", {}).get(metric.name, {}).get("details", {})
        of_row: dict[int, list[float]] = {}
        for second, value in zip(details.get("seconds", ()), details.get("similarity", ()), strict=True):
            of_row.setdefault(int(second // WINDOW_SECONDS), []).append(value)
        for place, values in of_row.items():
            bins.setdefault(place, []).append((row["id"], sum(values) / len(values)))
    return [_point((place + 0.5) * WINDOW_SECONDS, metric, bins[place], config) for place in sorted(bins)]


def _point(x: float, metric: Metric, values: Sequence[tuple[str, float]], config: EvalConfig) -> dict:
    measurements = [Measurement(value, numbers={"value": value}) for _, value in values]
    texts = [text for text, _ in values]
    score = summarise(metric, measurements, config.seed, config.bootstrap_samples, texts)
    return {"x": x, "value": score.value, "interval": score.interval, "denominator": score.denominator}


def _by_prompt(metric: Metric, systems: Mapping[str, dict]) -> dict[str, list[dict]]:
    """Return for each model the scores of its prompts, the shortest first."""
    found: dict[str, list[dict]] = {}
    for system in systems.values():
        score = system["scores"].get(metric.name, {})
        if system.get("prompted") and score.get("value") is not None:
            told = {key: score[key] for key in ("value", "interval", "denominator")}
            found.setdefault(system["prompted"]["model"], []).append({"x": system["prompted"]["seconds"]} | told)
    return {model: sorted(points, key=lambda point: point["x"]) for model, points in found.items()}
