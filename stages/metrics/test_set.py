"""What an evaluation asks of a test set: which recordings, which prompts, whose audio."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from stages.artifacts.manifest import FILE_NAME, Manifest, Utterance, read_manifest
from stages.audio.io import AUDIO_SUFFIXES
from stages.config.stage_configs import EvalConfig
from stages.errors import BadInputsError, UsageError
from stages.metrics.intelligibility import reference_problem
from stages.randomness import derive_seed

Setting = Literal["cross-sentence", "continuation", "reconstruction"]

SETTING_IN_WORDS: dict[str, str] = {
    "cross-sentence": "prompt: another utterance of the same speaker; scored: what was generated",
    "continuation": "prompt: the beginning of the same recording; text: the whole transcript; WER and durations "
    "score prompt plus generated as decoded, similarity the generated part only",
    "reconstruction": "the recording itself, encoded and decoded",
}
_ANNOUNCED = {
    name: f"`{name}` is a test set of MinutesSpeech, which the authors of HALL-E announced; it is not part of halle"
    for name in ("test-90s", "test-180s")
}


@dataclass(frozen=True)
class Case:
    """One utterance to be spoken. `prompt` is another one; `refused` says why the setting cannot be applied."""

    utterance: Utterance
    prompt: Utterance | None = None
    refused: str = ""


@dataclass(frozen=True)
class Hypotheses:
    """Someone's audio matched with the test set by id. `unknown` are files that belong to no utterance."""

    matched: dict[str, Path]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def setting_in_words(config: EvalConfig) -> str:
    """Return what the setting means for the reader of a table."""
    if config.hypotheses and config.setting != "reconstruction":
        return f"as whoever made the audio says; all of each file is scored as {config.setting}"
    return SETTING_IN_WORDS[config.setting]


def find_test_set(name: str, data_root: str | None = None) -> Path:
    """Return the manifest folder that `name` stands for: a path, or a folder of that name below the data root.

    The data root is `data_root`, else $HALLE_DATA, else `data`.
    """
    if not name:
        raise UsageError("expected a test set, got none", hint="halle eval --set NAME, or the folder of a manifest")
    root = Path(data_root or os.environ.get("HALLE_DATA") or "data")
    for path in (Path(name), root / name):
        if (path / FILE_NAME).is_file() or (path.is_file() and path.suffix == ".jsonl"):
            return path
    place = root / Path(name).name
    nowhere = f"there is no test set `{name}`: neither `{name}` nor `{root / name}` has a {FILE_NAME}"
    what = _ANNOUNCED.get(name, nowhere)
    raise UsageError(what, hint=f"put a manifest folder (`halle curate RECORDINGS --out {place}`) at `{place}`, "
                                "or give another place with --data-root or $HALLE_DATA")


def read_test_set(path: Path, split: str | None = None, only: Sequence[str] = ()) -> tuple[Manifest, str]:
    """Return the manifest's rows of `split` for which every `COLUMN=VALUE` of `only` holds, and the split's name.

    By default the rows marked `test`, and all of them when none is or when `only` names splits; `all` takes every row.
    """
    manifest = read_manifest(path)
    wanted = [_condition(text) for text in only]
    names = {utterance.split for utterance in manifest.utterances}
    by_column = any(column == "split" for column, _ in wanted)
    chosen = split or ("test" if "test" in names and not by_column else "all")
    if chosen != "all" and chosen not in names:
        raise UsageError(f"expected a split out of {', '.join(sorted(names))} or all, got `{chosen}`")
    rows = manifest.utterances if chosen == "all" else manifest.split(chosen)
    return Manifest(manifest.folder, _matching(rows, wanted), manifest.fingerprint), chosen


def set_in_words(chosen: Mapping[str, Any]) -> str:
    """Return the `set` of scores.json for the reader of a page: where it is and which of its rows were taken."""
    only = "".join(f", only {condition}" for condition in chosen.get("only", ()))
    return f"{chosen['path']}, split {chosen['split']}{only}, {chosen['utterances']} utterances"


def _condition(text: str) -> tuple[str, list[str]]:
    """Read COLUMN=VALUE, or COLUMN=A,B."""
    column, equals, values = text.partition("=")
    if not (column and equals and values):
        raise UsageError(f"expected COLUMN=VALUE after --only, got `{text}`", hint="such as --only speaker=ann,bob")
    return column, values.split(",")


def _matching(utterances: Sequence[Utterance], wanted: Sequence[tuple[str, list[str]]]) -> tuple[Utterance, ...]:
    """Return the utterances that have one of its values in every wanted column; refuse to return none."""
    rows = [(utterance, _columns(utterance)) for utterance in utterances]
    known = dict.fromkeys(column for _, columns in rows for column in columns)
    unknown = [f"`{column}`" for column, _ in wanted if column not in known]
    if unknown:
        raise UsageError(f"expected a column out of {', '.join(known)} after --only, got {', '.join(unknown)}")
    found = tuple(utterance for utterance, columns in rows
                  if all(columns.get(column) in values for column, values in wanted))
    if not found:
        asked = " and ".join(f"`{column}={','.join(values)}`" for column, values in wanted)
        there = "; ".join(f"{column}: {_listed({columns[column] for _, columns in rows if column in columns})}"
                          for column, _ in wanted)
        raise UsageError(f"no utterance has {asked}; what there is of {there}")
    return found


def _columns(utterance: Utterance) -> dict[str, str]:
    """Return what rows can be chosen by, as text: numbers as JSON writes them."""
    extra = {name: value if isinstance(value, str) else json.dumps(value) for name, value in utterance.extra.items()}
    return {"speaker": utterance.speaker, "split": utterance.split, **extra}


def _listed(values: Iterable[str], most: int = 20) -> str:
    values = sorted(values)
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")


def plan_cases(
    utterances: Sequence[Utterance], setting: Setting, prompt_seconds: float, max_prompt_seconds: float, seed: int,
    others: Sequence[Utterance] = (),
) -> list[Case]:
    """Return one case an utterance, in order; those that cannot be done carry the reason.

    Prompts come from `utterances`; for a speaker who has no second one there, from `others`.
    """
    here, elsewhere = _by_speaker(utterances), _by_speaker(others)
    cases = []
    for utterance in utterances:
        refused, prompt = reference_problem(utterance.text), None
        if not refused and setting == "continuation" and utterance.duration <= prompt_seconds:
            refused = f"its {utterance.duration:.2f} s are not longer than the prompt of {prompt_seconds:g} s"
        if not refused and setting == "cross-sentence":
            pools = (here[utterance.speaker], elsewhere.get(utterance.speaker, []))
            found = (choose_prompt(utterance, pool, prompt_seconds, max_prompt_seconds, seed) for pool in pools)
            prompt = next(filter(None, found), None)
            refused = "" if prompt else (f"speaker `{utterance.speaker}` has no other utterance of "
                                         f"{prompt_seconds:g} to {max_prompt_seconds:g} s to prompt with")
        cases.append(Case(utterance, prompt, refused))
    return cases


def _by_speaker(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    grouped: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        grouped.setdefault(utterance.speaker, []).append(utterance)
    return grouped


def choose_prompt(
    target: Utterance, candidates: Sequence[Utterance], min_seconds: float, max_seconds: float, seed: int
) -> Utterance | None:
    """Return another utterance, of `min_seconds` to `max_seconds` and another text, the same for the same seed."""
    suitable = [
        other for other in candidates
        if other.id != target.id and other.text.strip() != target.text.strip()
        and min_seconds <= other.duration <= max_seconds and not reference_problem(other.text)
    ]
    if not suitable:
        return None
    return suitable[derive_seed(seed, "prompt", target.id) % len(suitable)]


def without_recording(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return the cases, those whose recording is not there refused."""
    return tuple(case if case.refused or case.utterance.audio.is_file() else
                 replace(case, refused="its recording is not there") for case in cases)


def refuse_bad_set(reasons: Iterable[str], total: int, most: int) -> None:
    """Raise `BadInputsError` when more than `most` of `total` utterances cannot be evaluated, for these reasons."""
    reasons = Counter(reasons)
    if reasons.total() > most:
        told = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common(5))
        raise BadInputsError(
            f"expected at most {most} of {total} utterances that cannot be evaluated, "
            f"got {reasons.total()}: {told}", hint="mend the test set, choose another --setting, or raise --max-bad")


def cut_prompt(waveform: np.ndarray, sample_rate: int, seconds: float) -> np.ndarray:
    """Return the first `seconds` of [samples]. Cut before encoding: codes of the whole have seen what follows."""
    return waveform[: round(seconds * sample_rate)]


def file_stem(utterance_id: str) -> str:
    """Return the id as a file name without folders: itself when it is one already, else with %-escapes."""
    if not utterance_id.strip("."):
        return utterance_id.replace(".", "%2E")
    return quote(utterance_id, safe=" ()+,=@[]")


def match_hypotheses(utterances: Sequence[Utterance], folder: Path) -> Hypotheses:
    """Match audio files directly in `folder` with utterances whose id is the file's stem.

    Raises `UsageError` when none matches, or when two files claim the same utterance.
    """
    if not folder.is_dir():
        raise UsageError(f"expected a folder of audio files after --hypotheses, got `{folder}`",
                         hint="the files in it are named after the utterances: ID.wav")
    ids = {file_stem(u.id): u.id for u in utterances} | {u.id: u.id for u in utterances}
    matched: dict[str, Path] = {}
    unknown = []
    for file in sorted(file for file in folder.iterdir() if file.suffix.lower() in AUDIO_SUFFIXES):
        if file.stem not in ids:
            unknown.append(file.name)
        elif (known := ids[file.stem]) in matched:
            raise UsageError(f"`{matched[known].name}` and `{file.name}` in `{folder}` are both for `{known}`",
                             hint="keep one of them")
        else:
            matched[known] = file
    missing = tuple(u.id for u in utterances if u.id not in matched)
    if not matched:
        raise UsageError(f"no audio file in `{folder}` has an id of the test set as its name "
                         f"({len(unknown)} others, {len(missing)} utterances)",
                         hint=f"name the files like `{file_stem(missing[0])}.wav`")
    return Hypotheses(matched, missing, tuple(unknown))
