"""What scores.json holds, from the rows of items.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from stages.artifacts.run_dir import versions
from stages.artifacts.storage import FORMAT_VERSION
from stages.config.protocols import told_with_scores
from stages.config.stage_configs import EvalConfig
from stages.metrics.base import Metric
from stages.metrics.cases import setting_in_words
from stages.metrics.comparison import compare_systems, describe, score_classes, score_system
from stages.metrics.curves import curves_of
from stages.metrics.languages import normaliser
from stages.metrics.scoring import RECORDINGS
from stages.metrics.test_set import EvaluationSet
from stages.metrics.transcripts import Heard

NOBODY = {"name": "none", "version": ""}  # where no metric asks what is heard


def scores_of(
    config: EvalConfig, test_set: EvaluationSet, systems: Mapping[str, dict], metrics: Sequence[Metric],
    rows: Sequence[dict], heard: Heard | None,
) -> dict:
    """Return the scores of `systems` (name -> what is known of it), and of the recordings if there are any."""
    recogniser = {"name": heard.name, "version": heard.version} if heard else NOBODY
    recorded = any(RECORDINGS in row["systems"] for row in rows)
    whats = ({RECORDINGS: {"what": "the test set's own recordings"}} if recorded else {}) | dict(systems)
    utterances = {row["id"]: row["refused"] for row in rows}
    scored = {name: what | score_system(metrics, rows, name, config) for name, what in whats.items()}
    return {
        "format_version": FORMAT_VERSION,
        "setting": config.setting,
        "setting_in_words": setting_in_words(config),
        "set": {"name": test_set.name, "path": test_set.folder.as_posix(), "split": test_set.split,
                "only": list(config.only), "seconds": config.recording_seconds,
                "utterances": len(test_set.cases), "evaluated": len(utterances),
                "fingerprint": test_set.fingerprint},
        "recogniser": recogniser,
        "language": config.language,
        "normaliser": asdict(normaliser(config.language)),
        "seed": config.seed,
        "seeds": config.seeds,
        "protocol": told_with_scores(config),
        "refused": dict(Counter(filter(None, utterances.values()))),
        "metrics": {metric.name: describe(metric, recogniser["name"]) for metric in metrics},
        "systems": scored,
        "classes": score_classes(metrics, rows, list(whats), config),
        "differences": compare_systems(metrics, rows, list(systems), config),
        "curves": curves_of(metrics, rows, scored, config),
        **versions(),
    }
