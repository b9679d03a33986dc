"""Join the scores of several `halle eval` folders to one table: `python table.py VALL-E=DIR HALL-E=DIR`.

All must be of the same utterances, heard by the same recogniser. In brackets are 95 % bootstrap intervals; differences
are over the utterances that both systems have, drawn together, so they can be sure where the intervals overlap.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from stages.artifacts.storage import read_json, read_jsonl
from stages.config.stage_configs import EvalConfig
from stages.errors import HalleError, UsageError
from stages.metrics.comparison import compare_systems
from stages.metrics.registry import load_metric
from stages.metrics.scoring import RECORDINGS
from stages.reports.evaluation import score_in_words

COLUMNS = ("wer", "speaker_similarity", "duration_distance", "real_time_factor", "utmos", "dnsmos")
SHARED = ("set", "setting", "recogniser", "normaliser", "seed")  # what must be the same for scores to be compared


@dataclass(frozen=True)
class Evaluation:
    """A system's scores.json and items.jsonl under the name that the table gives it."""

    name: str
    scores: dict
    rows: list[dict]

    @property
    def system(self) -> str:
        """Its name in the files."""
        return next(name for name in self.scores["systems"] if name != RECORDINGS)

    def fact(self, name: str) -> object:
        """Return one of `SHARED`; a test set is the same wherever it lies."""
        value = self.scores[name]
        return {key: value[key] for key in ("fingerprint", "split", "only", "evaluated")} if name == "set" else value


def read_evaluation(given: str) -> Evaluation:
    """Read `NAME=FOLDER`; without a name, the folder's."""
    name, _, folder = given.rpartition("=")
    path = Path(folder)
    if not (path / "scores.json").is_file():
        raise UsageError(f"expected a folder of halle eval, with scores.json, got `{folder}`", "halle eval --out DIR")
    scores, rows = read_json(path / "scores.json"), read_jsonl(path / "items.jsonl")
    if len(scores["systems"]) != 2:
        raise UsageError(f"expected the scores of one system, got {len(scores['systems']) - 1} in `{folder}`")
    return Evaluation(name or path.name, scores, rows)


def check_comparable(evaluations: list[Evaluation]) -> None:
    """Raise `UsageError` for scores that say nothing beside each other."""
    names = [evaluation.name for evaluation in evaluations]
    if len({RECORDINGS, *names}) <= len(names):
        raise UsageError(f"expected a name of its own for each system, got {', '.join(f'`{name}`' for name in names)}")
    first, *others = evaluations
    for other in others:
        for fact in SHARED:
            if other.fact(fact) != first.fact(fact):
                raise UsageError(f"expected scores of the same {fact}: `{first.name}` has {first.fact(fact)}, "
                                 f"`{other.name}` {other.fact(fact)}")


def score_table(evaluations: list[Evaluation]) -> list[str]:
    """Return the lines of the table: the recordings, then the systems in the order given."""
    first = evaluations[0].scores
    columns = [name for name in COLUMNS if name in first["metrics"]]
    systems = {RECORDINGS: first["systems"][RECORDINGS]}
    systems |= {each.name: each.scores["systems"][each.system] for each in evaluations}
    rows = [(name, *(score_in_words(system["scores"].get(column), first["metrics"][column]) for column in columns))
            for name, system in systems.items()]
    return markdown(("system", *(first["metrics"][column]["label"] for column in columns)), rows)


def difference_table(evaluations: list[Evaluation]) -> list[str]:
    """Return the lines of a table of every further system less the first, metric by metric."""
    first = evaluations[0].scores
    metrics = [load_metric(name) for name in COLUMNS if name in first["metrics"]]
    entries = [{_take(row): row["systems"].get(each.system) for row in each.rows} for each in evaluations]
    rows = [{"id": row["id"], "refused": row["refused"],
             "systems": {each.name: of[_take(row)] for each, of in zip(evaluations, entries, strict=True)}}
            for row in evaluations[0].rows if not row["refused"]]
    for row in rows:
        row["systems"][RECORDINGS] = {"metrics": {}}
    found = compare_systems(metrics, rows, [each.name for each in evaluations], EvalConfig(seed=first["seed"]))
    cells = []
    for one in (one for one in found if one["against"] == evaluations[0].name):
        described = first["metrics"][one["metric"]]
        told = score_in_words(one | {"denominator": one["pairs"], "total": one["pairs"]}, described)
        cells.append((f"{one['system']} less {one['against']}", described["label"], told, str(one["pairs"])))
    return markdown(("difference", "of", "value", "utterances"), cells) if cells else []


def _take(row: dict) -> tuple[str, int]:
    return row["id"], row.get("take", 1)


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", metavar="NAME=FOLDER", help="what halle eval wrote of one system")
    given = parser.parse_args(arguments)
    try:
        evaluations = [read_evaluation(system) for system in given.systems]
        check_comparable(evaluations)
    except HalleError as error:
        print(f"error: {error.message}" + (f"\n\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    first = evaluations[0].scores
    print(f"{first['set']['name']}, {first['set']['evaluated']} utterances, {first['setting']}\n")
    print("\n".join(score_table(evaluations)))
    if differences := difference_table(evaluations):
        print("\n" + "\n".join(differences))
    return 0


if __name__ == "__main__":
    sys.exit(main())
