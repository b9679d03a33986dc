"""A test set: where it is found, and which of its rows are taken."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.artifacts.manifest import FILE_NAME
from stages.artifacts.storage import fingerprint_of
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics import named_sets
from stages.metrics.cases import Case, plan_cases, refuse_bad_set, without_recording
from stages.metrics.set_layouts import is_test_set, read_listing, read_texts
from stages.metrics.text_limits import limits_of


@dataclass(frozen=True)
class EvaluationSet:
    """The rows of a test set that an evaluation takes, in order.

    `everyone` are all rows, whose recordings may be prompts; the fingerprint is of all that the set says.
    """

    name: str
    folder: Path
    split: str
    cases: tuple[Case, ...]
    everyone: tuple[Case, ...]
    fingerprint: str


def open_test_set(config: EvalConfig) -> EvaluationSet:
    """Return the rows of the test set that the settings name; without one, what the hypotheses' folders hold."""
    if not config.set and config.hypotheses:
        if config.only or config.split:
            raise UsageError("expected a test set, of which --only and split choose rows, got --hypotheses alone")
        return set_of_outputs([Path(folder) for folder in config.hypotheses], config.encoding)
    path = find_test_set(config.set, config.data_root)
    whole = read_test_set(path, config.split, config.only, config.encoding)
    return of_seconds(whole, config.recording_seconds, config.protocol)


def find_test_set(name: str, data_root: str | None = None) -> Path:
    """Return the folder or file that `name` stands for: a path, one below the data root, or a named set, which is built
    there when its ingredients are.

    The data root is `data_root`, else $HALLE_DATA, else `data`.
    """
    if not name:
        raise UsageError("expected a test set, got none", hint="halle eval --set NAME, or a folder or list; or "
                                                               "--hypotheses FOLDER alone, to score what is in it")
    root = Path(data_root or os.environ.get("HALLE_DATA") or "data")
    for path in (Path(name), root / name):
        if is_test_set(path):
            return path
    if named := named_sets.resolve(name, root):
        return named
    place = root / Path(name).name
    what = (f"there is no test set `{name}`: neither `{name}` nor `{root / name}` is a list, or a folder with audio "
            f"files or {FILE_NAME}, and the named sets are {', '.join(named_sets.NAMED_SETS)}")
    raise UsageError(what, hint=f"put a manifest folder (`halle curate RECORDINGS --out {place}`) at `{place}`, "
                                "or give another place with --data-root or $HALLE_DATA")


def read_test_set(
    path: Path, split: str | None = None, only: Sequence[str] = (), encoding: str = "utf-8"
) -> EvaluationSet:
    """Return the rows of `split` for which every `COLUMN=VALUE` of `only` holds.

    By default the rows marked `test`, and all of them when none is or when `only` names splits; `all` takes every row.
    """
    listing = read_listing(path, encoding)
    wanted = [_condition(text) for text in only]
    names = {case.split for case in listing.cases}
    by_column = any(column == "split" for column, _ in wanted)
    chosen = split or ("test" if "test" in names and not by_column else "all")
    if chosen != "all" and chosen not in names:
        raise UsageError(f"expected a split out of {', '.join(sorted(names))} or all, got `{chosen}`")
    rows = [case for case in listing.cases if chosen in ("all", case.split)]
    return EvaluationSet(listing.name, path, chosen, _matching(rows, wanted), listing.cases, listing.fingerprint)


def set_of_outputs(folders: Sequence[Path], encoding: str = "utf-8") -> EvaluationSet:
    """Return what there is to judge where nobody gave a test set: every file, with its text where one lies beside it.

    Of several folders a file's text may lie in any; where two differ, nobody knows what was to be said.
    """
    cases: dict[str, Case] = {}
    for folder in folders:
        for case in read_texts(folder, encoding):
            known = cases.get(case.id, case)
            if known.text and case.text and known.text != case.text:
                raise UsageError(f"`{case.id}` has another text in `{folder}` than in `{folders[0]}`",
                                 hint="give a test set after --set")
            cases[case.id] = known if known.text else case
    if not cases:
        raise UsageError(f"expected audio files in `{folders[0]}`, got none")
    everything = tuple(cases.values())
    fingerprint = fingerprint_of([[case.id, case.text] for case in everything])
    return EvaluationSet(folders[0].resolve().name, folders[0], "all", everything, everything, fingerprint)


def cases_to_judge(test_set: EvaluationSet, config: EvalConfig, speaks: bool) -> tuple[Case, ...]:
    """Return what an evaluation takes of a set, in order, with prompts and refusals; raise when it refuses too much."""
    limits = limits_of(config, test_set.name)
    kept = [limits.applied(case) for case in test_set.cases] if limits else test_set.cases
    cases = without_recording(plan_cases(kept, config, test_set.everyone, speaks)[: config.max_items])
    refuse_bad_set((case.refused for case in cases if case.refused), len(cases), config.bad_allowed(len(cases)))
    return cases


def of_seconds(
    test_set: EvaluationSet, seconds: tuple[float, float] | None, protocol: str | None = None
) -> EvaluationSet:
    """Return the set without the rows whose recording is shorter or longer than `seconds`, which still may be prompts.

    Rows without a recording stay. Raises `UsageError` when none is left; a `protocol` fixes the seconds.
    """
    if seconds is None:
        return test_set
    low, high = seconds
    cases = tuple(case for case in test_set.cases
                  if case.recording is None or low <= case.recording.duration <= high)
    if not cases:
        raise UsageError(f"expected recordings of {low:g} to {high:g} s in `{test_set.folder}`, none of "
                         f"{len(test_set.cases)} is",
                         hint=f"protocol `{protocol}` fixes these lengths: choose another --set" if protocol
                         else "choose others with --recording-seconds MIN-MAX")
    return replace(test_set, cases=cases)


def set_in_words(chosen: Mapping[str, Any]) -> str:
    """Return the `set` of scores.json for the reader of a page: where it is and which of its rows were taken."""
    only = "".join(f", only {condition}" for condition in chosen.get("only", ()))
    seconds = ", only recordings of {:g} to {:g} s".format(*chosen["seconds"]) if chosen.get("seconds") else ""
    return f"{chosen['path']}, split {chosen['split']}{only}{seconds}, {chosen['utterances']} utterances"


def _condition(text: str) -> tuple[str, list[str]]:
    """Read COLUMN=VALUE, or COLUMN=A,B."""
    column, equals, values = text.partition("=")
    if not (column and equals and values):
        raise UsageError(f"expected COLUMN=VALUE after --only, got `{text}`", hint="such as --only speaker=ann,bob")
    return column, values.split(",")


def _matching(cases: Sequence[Case], wanted: Sequence[tuple[str, list[str]]]) -> tuple[Case, ...]:
    """Return the cases that have one of its values in every wanted column; refuse to return none."""
    rows = [(case, _columns(case)) for case in cases]
    known = dict.fromkeys(column for _, columns in rows for column in columns)
    unknown = [f"`{column}`" for column, _ in wanted if column not in known]
    if unknown:
        raise UsageError(f"expected a column out of {', '.join(known)} after --only, got {', '.join(unknown)}")
    found = tuple(case for case, columns in rows
                  if all(columns.get(column) in values for column, values in wanted))
    if not found:
        asked = " and ".join(f"`{column}={','.join(values)}`" for column, values in wanted)
        there = "; ".join(f"{column}: {_listed({columns[column] for _, columns in rows if column in columns})}"
                          for column, _ in wanted)
        raise UsageError(f"no utterance has {asked}; what there is of {there}")
    return found


def _columns(case: Case) -> dict[str, str]:
    """Return what rows can be chosen by, as text: numbers as JSON writes them."""
    extra = {name: value if isinstance(value, str) else json.dumps(value) for name, value in case.extra.items()}
    return {"speaker": case.speaker, "split": case.split, **extra}


def _listed(values: Iterable[str], most: int = 20) -> str:
    values = sorted(values)
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")
