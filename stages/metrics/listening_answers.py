"""What listeners answered on the page of a listening test: QMOS and SMOS of every system, with intervals.

The page knows sounds by codes only. `KEY_FILE`, which stays with whoever made the test, says what they stand for:
`sounds`: code -> {"id", "system", "check"}, where a check is a recording played backwards.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts.storage import FORMAT_VERSION, read_json
from stages.errors import BadInputsError, UsageError
from stages.metrics.sounds import RECORDINGS
from stages.metrics.summary import CONFIDENCE

log = logging.getLogger("halle.eval")

KEY_FILE = "listening-key.json"
KIND = "halle listening answers"
QUESTIONS = {"qmos": "naturalness", "smos": "similarity"}  # section 7.1
CHECK_PASSED = 2  # naturalness of speech played backwards, at most
_NAMED = 3  # codes that a message names


@dataclass(frozen=True)
class Answers:
    """What one listener exported: `ratings` maps codes to {"naturalness": 1..5, "similarity": 1..5 if asked}.

    A `session` is one time that somebody did the test; it may be exported several times.
    """

    file: Path
    listener: str
    session: str
    started: str
    exported: str
    ratings: dict[str, dict[str, int]]


class _BadAnswersError(ValueError):
    pass


def read_key(out: Path) -> dict:
    """Return the key of the listening test in `out`."""
    if not (out / KEY_FILE).is_file():
        raise UsageError(f"there is no listening test in `{out}`: `{out / KEY_FILE}` does not exist",
                         hint="make one with --listening-test, or give the --out that the page was made in")
    return read_json(out / KEY_FILE)


def find_answers(paths: Iterable[str]) -> list[Path]:
    """Return the files that `paths` name, each once: files, and every .json of folders."""
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            what = f"the folder `{path}` has no .json file" if path.is_dir() else f"`{path}` does not exist"
            raise UsageError(f"expected answers to a listening test after --listening-answers: {what}",
                             hint="give the files that listeners exported from the page, or their folder")
        files |= dict.fromkeys(found)
    return list(files)


def score_listening(
    out: Path, paths: Iterable[str], bad_allowed: Callable[[int], int], seed: int = 0, bootstrap_samples: int = 1000
) -> dict:
    """Return the scores of the listening test in `out` from what listeners exported.

    Answers that cannot be used are counted in `excluded` with their reason; raise `BadInputsError` when they are
    more than `bad_allowed` of all. Listeners who failed an attention check are excluded too, but are no bad input.
    """
    key, files = read_key(out), find_answers(paths)
    counted, bad = _usable(key, files)
    if len(bad) > bad_allowed(len(files)):
        told = "; ".join(f"`{each['file']}`: {each['reason']}" for each in bad[:5])
        raise BadInputsError(
            f"expected at most {bad_allowed(len(files))} of {len(files)} files of answers that cannot be used, got "
            f"{len(bad)}: {told}", hint="take these files away, or raise --max-bad to leave them out")
    excluded = bad + [_excluded(each.file, reason, each.listener) for each in counted
                      if (reason := _inattention(key, each))]
    for each in excluded:
        log.warning("answers in `%s` are left out: %s", each["file"], each["reason"])
    heard = [each for each in counted if not _inattention(key, each)]
    return _counts(key, heard, excluded) | _scores(key, heard, seed, bootstrap_samples)


def still_hold(scores: dict, out: Path, rows: Iterable[dict], required: bool) -> bool:
    """Tell whether `scores` are of what `rows` of items.jsonl score: the listening test in `out`, its sounds unchanged.

    When they are not it is an error if that is `required`, else a warning.
    """
    key = read_json(out / KEY_FILE) if (out / KEY_FILE).is_file() else {"test": "", "sounds": {}}
    now = {(row["id"], name): entry["audio_sha256"] for row in rows if row["take"] == 1
           for name, entry in row["systems"].items()}
    changed = sum(now.get((sound["id"], sound["system"]), sound["audio_sha256"]) != sound["audio_sha256"]
                  for sound in key["sounds"].values())
    if changed and required:
        raise UsageError(f"expected answers about the audio that is scored, but {changed} of its sounds have been made "
                         f"anew since the listening test in `{out}`", hint="score in another --out, and listen again")
    holds = not changed and key["test"] == scores["test"]
    if not holds:
        log.warning("what listeners said before is left out: it was about other sounds")
    return holds


def _usable(key: dict, files: Sequence[Path]) -> tuple[list[Answers], list[dict]]:
    """Return the answers that count, one session a listener, and what is wrong with the other files."""
    read, bad = [], []
    for file in files:
        try:
            read.append(read_answers(file, key))
        except _BadAnswersError as error:
            bad.append(_excluded(file, str(error)))
    newest: dict[tuple[str, str], Answers] = {}
    for each in sorted(read, key=lambda answers: answers.exported):
        if older := newest.get((each.listener, each.session)):
            log.info("`%s` is an older export of what `%s` holds", older.file.name, each.file.name)
        newest[each.listener, each.session] = each
    first: dict[str, Answers] = {}
    for each in sorted(newest.values(), key=lambda answers: answers.started):
        if (known := first.setdefault(each.listener, each)) is not each:
            bad.append(_excluded(each.file, f"listener `{each.listener}` answered twice; what was begun first, in "
                                            f"`{known.file.name}`, counts", each.listener))
    return list(first.values()), bad


def _excluded(file: Path, reason: str, listener: str | None = None) -> dict:
    return {"file": file.name, "listener": listener, "reason": reason}


def read_answers(file: Path, key: dict) -> Answers:
    """Read one exported file, checked against the key of the test; raise `ValueError` with all that is wrong."""
    try:
        value = json.loads(file.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise _BadAnswersError(f"it is not JSON ({str(error)[:80]})") from None
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise _BadAnswersError("it holds no answers to a listening test of halle")
    if value.get("format_version") != FORMAT_VERSION:
        raise _BadAnswersError(f"expected format_version {FORMAT_VERSION}, got `{value.get('format_version')}`")
    if value.get("test") != key["test"]:
        raise _BadAnswersError(f"expected answers to the test `{key['test']}`, got those to `{value.get('test')}`")
    texts = [value.get(name) for name in ("listener", "session", "started", "exported")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise _BadAnswersError("expected a listener, a session, and when it was started and exported")
    return Answers(file, texts[0].strip(), *texts[1:], _ratings(value.get("ratings"), key))


def _ratings(rows: object, key: dict) -> dict[str, dict[str, int]]:
    """Check the ratings of a file: known codes, each once, and a whole number of 1 to 5 for every question."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise _BadAnswersError("there is no rating in it")
    codes = [row.get("code") for row in rows]
    unknown = [str(code) for code in codes if not isinstance(code, str) or code not in key["sounds"]]
    if unknown:
        raise _BadAnswersError(f"expected codes of this test, got {_listed(unknown)}")
    if len(set(codes)) < len(codes):
        raise _BadAnswersError(f"{_listed(sorted({code for code in codes if codes.count(code) > 1}))} is rated twice")
    ratings = {row["code"]: {asked: row.get(asked) for asked in key["sounds"][row["code"]]["questions"]}
               for row in rows}
    wrong = [f"{asked} `{rating}` of `{code}`" for code, given in ratings.items() for asked, rating in given.items()
             if isinstance(rating, bool) or rating not in (1, 2, 3, 4, 5)]
    if wrong:
        raise _BadAnswersError(f"expected ratings of 1, 2, 3, 4 or 5, got {_listed(wrong, quoted=False)}")
    return ratings


def _listed(values: Sequence[str], quoted: bool = True) -> str:
    shown = ", ".join(f"`{value}`" if quoted else value for value in values[:_NAMED])
    return shown + (f" and {len(values) - _NAMED} more" if len(values) > _NAMED else "")


def _inattention(key: dict, answers: Answers) -> str:
    """Return why a listener's ratings are not believed, or ''."""
    checks = [rating["naturalness"] for code, rating in answers.ratings.items() if key["sounds"][code]["check"]]
    failed = sum(rating > CHECK_PASSED for rating in checks)
    return f"failed {failed} of {len(checks)} attention checks: speech played backwards was called natural" \
        if failed else ""


def _counts(key: dict, heard: Sequence[Answers], excluded: Sequence[dict]) -> dict:
    asked = min(key["per_listener"] or len(key["sounds"]), len(key["sounds"]))
    unfinished = [{"file": each.file.name, "listener": each.listener, "rated": len(each.ratings), "of": asked}
                  for each in heard if len(each.ratings) < asked]
    for each in unfinished:
        log.warning("`%s` rated %d of %d sounds; these count", each["listener"], each["rated"], each["of"])
    ratings = sum(not key["sounds"][code]["check"] for each in heard for code in each.ratings)
    return {"test": key["test"], "listeners": len(heard), "ratings": ratings, "utterances": key["utterances"],
            "excluded": list(excluded), "unfinished": unfinished, "without_sound": key["without_sound"],
            "loudness_lufs": key["loudness_lufs"]}


def _scores(key: dict, heard: Sequence[Answers], seed: int, bootstrap_samples: int) -> dict:
    """Return QMOS and SMOS of every system, and their differences where the same listener rated both."""
    given = {name: rating_matrices(key, heard, question) for name, question in QUESTIONS.items()}
    systems = list(given["qmos"])
    scores = {system: {name: mean_opinion(given[name][system], seed, bootstrap_samples) for name in QUESTIONS}
              for system in systems}
    others = [system for system in systems if system != RECORDINGS]
    pairs = [(system, RECORDINGS) for system in others if RECORDINGS in systems]
    pairs += [(system, others[0]) for system in others[1:]]
    differences = [{"system": system, "against": against, "score": name, **found}
                   for system, against in pairs for name in QUESTIONS
                   if (found := mean_opinion(given[name][system] - given[name][against], seed,
                                             bootstrap_samples))["value"] is not None]
    return {"systems": scores, "differences": differences}


def rating_matrices(key: dict, heard: Sequence[Answers], question: str) -> dict[str, np.ndarray]:
    """Return each system's ratings, float64 [listeners, utterances]; not a number where there is none."""
    sounds = {code: sound for code, sound in key["sounds"].items() if not sound["check"]}
    utterances = {name: index for index, name in enumerate(sorted({sound["id"] for sound in sounds.values()}))}
    matrices = {system: np.full((len(heard), len(utterances)), np.nan) for system in key["systems"]}
    for listener, answers in enumerate(heard):
        for code, rating in answers.ratings.items():
            if code in sounds and question in rating:
                sound = sounds[code]
                matrices[sound["system"]][listener, utterances[sound["id"]]] = rating[question]
    return matrices


def mean_opinion(ratings: np.ndarray, seed: int = 0, bootstrap_samples: int = 1000) -> dict:
    """Return the mean of ratings [listeners, utterances] that are numbers, its interval, and of how many it is.

    Listeners and utterances are both drawn with replacement, so that the interval holds for other listeners and other
    texts. It is None for fewer than two of either.
    """
    there = ~np.isnan(ratings)
    ratings = ratings[there.any(axis=1)][:, there.any(axis=0)]
    counts = dict(zip(("listeners", "utterances"), ratings.shape, strict=True)) | {"ratings": int(there.sum())}
    if not there.any():
        return {"value": None, "interval": None, **counts}
    there, interval = ~np.isnan(ratings), None
    if min(ratings.shape) > 1:
        generator = np.random.default_rng(seed)
        drawn = [generator.multinomial(count, np.full(count, 1 / count), bootstrap_samples) for count in ratings.shape]
        total = np.einsum("nl,nu,lu->n", *drawn, np.where(there, ratings, 0.0), optimize=True)
        number = np.einsum("nl,nu,lu->n", *drawn, there.astype(float), optimize=True)
        tail = (1.0 - CONFIDENCE) / 2.0
        interval = np.quantile(total[number > 0] / number[number > 0], [tail, 1.0 - tail]).tolist()
    return {"value": float(ratings[there].mean()), "interval": interval, **counts}
