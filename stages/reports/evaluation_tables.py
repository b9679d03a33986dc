"""The tables of an evaluation's page, in the form of the paper's: systems are rows, the recordings first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.metrics.sounds import RECORDINGS
from stages.reports.page import Cell, details, heading, table
from stages.speech.transcriber import recogniser_in_words

# The columns of Tables 3 to 5, as far as they are measured; every further metric has its place in a second table.
PAPER_COLUMNS = ("wer", "cer", "pesq", "stoi", "speaker_similarity", "duration_distance", "dnsmos", "utmos")
SHOWN_SPEAKERS = 40  # the rest is in scores.json
_ARROWS = {"lower": "\u2193", "higher": "\u2191"}
_OPINIONS = {"qmos": "QMOS", "smos": "SMOS"}
_EMPTY = "\u2013"


@dataclass(frozen=True)
class Column:
    """A metric's heading, and how its values are written; `better` is lower, higher or neither."""

    label: str
    better: str = ""
    digits: int = 2

    @property
    def title(self) -> str:
        return f"{self.label}\u00a0{_ARROWS[self.better]}" if self.better in _ARROWS else self.label


def score_in_words(score: dict | None, metric: dict) -> str:
    """Return a score with its interval, and how many utterances it is of when some have no value."""
    if score is None or score["value"] is None:
        return _EMPTY
    digits = metric["digits"]
    told = f"{score['value']:.{digits}f}"
    if score["interval"]:
        told += f" ({' to '.join(f'{end:.{digits}f}' for end in score['interval'])})"
    if score["denominator"] < score["total"]:
        told += f" [{score['denominator']} of {score['total']}]"
    return told


def measured_metrics(scores: dict) -> tuple[list[str], list[str]]:
    """Return the names of the metrics that have a value for any system: the paper's in its order, and the others."""
    measured = [name for name in scores["metrics"]
                if any(system["scores"].get(name, {}).get("value") is not None
                       for system in scores["systems"].values())]
    main = [name for name in PAPER_COLUMNS if name in measured]
    return main, [name for name in measured if name not in main]


def error_rate(scores: dict) -> str:
    """Return the name of the metric that counts errors: of words, or of characters where words have no spaces."""
    return next((name for name in ("wer", "cer") if name in scores["metrics"]), "")


def score_tables(scores: dict) -> list[str]:
    """Return the main table, the further metrics, and what listeners said."""
    main, further = measured_metrics(scores)
    systems = {name: system["scores"] for name, system in scores["systems"].items()}
    columns = {name: _column(scores, name) for name in (*main, *further)}
    parts = [heading("Scores")]
    if main:
        parts.append(_score_table(scores, f"Scores, {scores['setting']}", systems, {n: columns[n] for n in main}))
    if further:
        parts.append(_score_table(scores, f"Further measures, {scores['setting']}", systems,
                                  {name: columns[name] for name in further}))
    return parts + _word_errors(scores) + _listening_table(scores)


def class_tables(scores: dict) -> list[str]:
    """Return a table a metric: systems as rows, classes of duration as columns; all but the first are folded."""
    if len(scores["classes"]) < 2:
        return []
    main, further = measured_metrics(scores)
    found = [system for systems in scores["classes"].values() for system in systems.values()]
    drawn = [_class_table(scores, name) for name in (*main, *further)
             if any(_has_value(system.get(name)) for system in found)]
    rest = [details(f"{len(drawn) - 1} other measures by duration", drawn[1:])] if len(drawn) > 1 else []
    return [*drawn[:1], *rest]


def difference_tables(scores: dict) -> list[str]:
    """Return the paired differences of the paper's metrics, then of the others."""
    main, further = ([found for name in names for found in scores["differences"] if found["metric"] == name]
                     for names in measured_metrics(scores))
    parts = [_difference_table(scores, "Differences", main)] if main else []
    if further:
        parts.append(details("Differences of further measures",
                             [_difference_table(scores, "Differences of further measures", further)]))
    return [heading("Differences"), *parts] if parts else []


def speaker_table(scores: dict) -> list[str]:
    """Return the scores of each speaker alone, on a click; nothing for one speaker."""
    speakers = list(dict.fromkeys(name for system in scores["systems"].values() for name in system["speakers"]))
    if not speakers:
        return []
    main, further = measured_metrics(scores)
    columns = {name: _column(scores, name) for name in main or further}
    lines = [((speaker, system), [found["speakers"].get(speaker, {}).get(name) for name in columns])
             for speaker in speakers[:SHOWN_SPEAKERS] for system, found in scores["systems"].items()]
    rest = (f" The first {SHOWN_SPEAKERS} of {len(speakers)} speakers; all are in scores.json."
            if len(speakers) > SHOWN_SPEAKERS else "")
    grid, note = _grid(lines, list(columns.values()))
    shown = table(f"Scores of each speaker, {scores['setting']}",
                  ("speaker", "system", *(column.title for column in columns.values())), grid,
                  numbers=range(2, len(columns) + 2), heads=2, note=_note(scores, note, rest))
    return [heading("Speakers"), details(f"Scores of {len(speakers)} speakers", [shown])]


def without_value(scores: dict) -> list[str]:
    """Return every reason why something is not in the tables, and how often."""
    reasons = [("all", "all", reason, count) for reason, count in scores["refused"].items()]
    for name, system in scores["systems"].items():
        reasons += [(name, "all", reason, count) for reason, count in system["left_out"].items()]
        reasons += [(name, scores["metrics"][metric]["label"], reason, count)
                    for metric, score in system["scores"].items() for reason, count in score["reasons"].items()]
    if not reasons:
        return []
    rows = [(*told, str(count)) for *told, count in reasons]
    shown = table(f"Every reason why a value or an output is missing, {scores['setting']}",
                  ("system", "metric", "reason", "utterances"), rows, numbers=(3,), kind="narrow", heads=2)
    return [heading("Without a value"), shown if len(rows) <= 12 else details(f"{len(rows)} reasons", [shown])]


def _column(scores: dict, name: str) -> Column:
    metric = scores["metrics"][name]
    return Column(metric["label"], metric["better"], metric["digits"])


def _score_table(scores: dict, caption: str, systems: dict[str, dict], columns: dict[str, Column]) -> str:
    """Return systems as rows and metrics as columns."""
    lines = [((system,), [found.get(name) for name in columns]) for system, found in systems.items()]
    grid, note = _grid(lines, list(columns.values()), best=True)
    return table(caption, ("system", *(column.title for column in columns.values())), grid,
                 numbers=range(1, len(columns) + 1), note=_note(scores, note))


def _class_table(scores: dict, name: str) -> str:
    classes, column = scores["classes"], _column(scores, name)
    lines = [((system,), [found.get(system, {}).get(name) for found in classes.values()])
             for system in scores["systems"] if any(name in found.get(system, {}) for found in classes.values())]
    grid, note = _grid(lines, [column] * len(classes), best=True)
    header = ("system", *(each.replace("-", "\u2013") + " s" if each[0].isdigit() else each for each in classes))
    return table(f"{column.title} by duration of the recording, {scores['setting']}", header, grid,
                 numbers=range(1, len(header)), note=_note(scores, note))


def _difference_table(scores: dict, title: str, differences: Sequence[dict]) -> str:
    pairs = [pair for pair in dict.fromkeys((found["system"], found["against"]) for found in scores["differences"])
             if any(pair == (found["system"], found["against"]) for found in differences)]
    names = list(dict.fromkeys(found["metric"] for found in differences))
    of = {(found["system"], found["against"], found["metric"]): found for found in differences}
    rows = [(*pair, *(_difference_cell(of.get((*pair, name)), _column(scores, name)) for name in names))
            for pair in pairs]
    counts = {found["pairs"] for found in differences}
    over = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(min(counts))
    note = _note(scores, f"The system's value minus the other's, over the outputs that have both values (n = {over}), "
                         "with 95 % intervals of a paired bootstrap. Bold: the interval does not hold 0, so it is "
                         "hardly chance.", intervals=False)
    header = ("system", "minus", *(_column(scores, name).title for name in names))
    return table(f"{title}, {scores['setting']}", header, rows, numbers=range(2, len(header)), heads=2, note=note)


def _difference_cell(found: dict | None, column: Column) -> Cell:
    if found is None:
        return Cell(_EMPTY)
    intervals = [found["interval"], found.get("seed_interval")]
    low, high = found["interval"] or (0.0, 0.0)
    return Cell(_signed(f"{found['value']:+.{column.digits}f}"), _intervals_in_words(intervals, column.digits, "+"),
                strong=low > 0 or high < 0)


def _listening_table(scores: dict) -> list[str]:
    """Return QMOS and SMOS of a listening test, and their differences."""
    test = scores.get("listening")
    if not test:
        return []
    opinions = [name for name in _OPINIONS if any(each[name]["value"] is not None for each in test["systems"].values())]
    columns = [Column(_OPINIONS[name], "higher") for name in opinions]
    lines = [((system,), [_opinion(found[name]) for name in opinions]) for system, found in test["systems"].items()]
    grid, _ = _grid(lines, columns, best=True)
    note = (f"Mean opinions of 1 to 5 by {test['listeners']} listeners in {test['ratings']} ratings, with 95 % "
            "bootstrap intervals over listeners and utterances.")
    if test["unfinished"]:
        note += f" Listeners who did not rate all sounds: {len(test['unfinished'])}."
    if test["excluded"]:
        note += f" Files of answers that were left out: {len(test['excluded'])}; scores.json says why."
    parts = [table("Listening test: naturalness (QMOS) and similarity of the voice (SMOS)",
                   ("system", *(column.title for column in columns)), grid, numbers=range(1, len(columns) + 1),
                   kind="narrow", note=note)]
    rows = [(found["system"], found["against"], _OPINIONS[found["score"]], _difference_cell(found, columns[0]))
            for found in test["differences"] if found["value"] is not None]
    if rows:
        parts.append(table("Differences where the same listener rated both", ("system", "minus", "of", "difference"),
                           rows, numbers=(3,), kind="narrow", heads=2,
                           note="Bold: the 95 % interval does not hold 0."))
    return [heading("Listening test"), *parts]


def _opinion(found: dict) -> dict:
    """Return a mean opinion as a score."""
    return {"value": found["value"], "interval": found["interval"], "denominator": found["ratings"],
            "total": found["ratings"]}


def _word_errors(scores: dict) -> list[str]:
    kinds, unit = ("substitutions", "insertions", "deletions"), "characters" if error_rate(scores) == "cer" else "words"
    rows = []
    for name, system in scores["systems"].items():
        totals = system["scores"].get(error_rate(scores), {}).get("totals")
        if totals:
            each = [Cell(f"{totals[kind]:.0f}", (f"{100 * totals[kind] / totals[unit]:.2f} %",)) for kind in kinds]
            rows.append((name, *each, f"{totals[unit]:.0f}"))
    header = ("system", "substituted", "inserted", "deleted", f"{unit} of the texts")
    note = _note(scores, f"Counts, and per cent of the {unit} of the texts.", intervals=False)
    return [table(f"{unit.capitalize()} heard otherwise, {scores['setting']}", header, rows, numbers=(1, 2, 3, 4),
                  kind="narrow", note=note)] if rows else []


def _grid(
    lines: Sequence[tuple[tuple[str, ...], Sequence[dict | None]]], columns: Sequence[Column], best: bool = False
) -> tuple[list[tuple], str]:
    """Return rows of cells out of (what a row is of, its scores), and what is to be said of their denominators.

    Denominators stand in the cells where they differ. With `best`, the best system of each column is strong when
    there are several; the recordings are no competitor.
    """
    counts = {(score["denominator"], score["total"]) for _, found in lines for score in found if _has_value(score)}
    winners = [_best([found[index] for head, found in lines if head[-1] != RECORDINGS], column) if best else ""
               for index, column in enumerate(columns)]
    rows = []
    for head, found in lines:
        cells = [_score_cell(score, column, len(counts) > 1, winner if head[-1] != RECORDINGS else "")
                 for score, column, winner in zip(found, columns, winners, strict=True)]
        rows.append((*head, *cells))
    note = "n: outputs with a value, of how many." if len(counts) > 1 else \
        "".join(f"n = {value} of {total} outputs in every cell." for value, total in counts)
    return rows, note + (" Bold: the best system." if any(winners) else "")


def _score_cell(score: dict | None, column: Column, counted: bool, winner: str) -> Cell:
    if not _has_value(score):
        return Cell(_EMPTY)
    told = _signed(f"{score['value']:.{column.digits}f}")
    notes = _intervals_in_words([score["interval"], score.get("seed_interval")], column.digits)
    if counted:
        of = f" of {score['total']}" if score["denominator"] < score["total"] else ""
        notes = (*notes, f"n\u00a0=\u00a0{score['denominator']}{of}")
    return Cell(told, notes, strong=told == winner)


def _best(found: Iterable[dict | None], column: Column) -> str:
    """Return the best of several values as it is written; nothing when there is one, or no better and worse."""
    values = [score["value"] for score in found if _has_value(score)]
    if len(values) < 2 or column.better not in _ARROWS:
        return ""
    return _signed(f"{(min if column.better == 'lower' else max)(values):.{column.digits}f}")


def _intervals_in_words(intervals: Sequence[Sequence[float] | None], digits: int, sign: str = "") -> tuple[str, ...]:
    """Return the interval over texts, and the one over seeds if there is one."""
    told = [_signed(f"{interval[0]:{sign}.{digits}f} to {interval[1]:{sign}.{digits}f}") if interval else ""
            for interval in intervals]
    return tuple(prefix + text for prefix, text in zip(("", "seeds: "), told, strict=True) if text)


def _signed(number: str) -> str:
    return number.replace("-", "\u2212")


def _has_value(score: dict | None) -> bool:
    return score is not None and score["value"] is not None


def _note(scores: dict, *told: str, intervals: bool = True) -> str:
    """Return what a table's values rest on, which stands under it: a table is often all that is read."""
    parts = [part for part in told if part]
    if intervals:
        seeds = f", and over {scores['seeds']} seeds" if scores.get("seeds", 1) > 1 else ""
        parts.append(f"Small: 95 % bootstrap intervals over texts{seeds}.")
    recogniser, normaliser = basis_in_words(scores)
    if scores["recogniser"]["version"]:  # somebody listened
        parts.append(f"Heard by {recogniser}; text normalised by {normaliser}; "
                     "what has no output counts as all deleted.")
    return " ".join(" ".join(parts).split())


def basis_in_words(scores: dict) -> tuple[str, str]:
    """Return recogniser and text normaliser, on which every error rate rests, with their versions."""
    listener, normaliser = scores["recogniser"], scores["normaliser"]
    names = recogniser_in_words(listener["name"]), normaliser["name"]
    versions = listener["version"], normaliser["version"]
    recogniser, normalised_by = (", version ".join(filter(None, each)) for each in zip(names, versions, strict=True))
    return recogniser, normalised_by
