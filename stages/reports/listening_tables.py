"""QMOS and SMOS of a listening test as files for spreadsheets and papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from stages.metrics.sounds import RECORDINGS
from stages.reports.latex import Cell, booktabs_table, escape

LISTENING_CSV = "listening.csv"
OPINIONS = {"qmos": "QMOS", "smos": "SMOS"}
_COLUMNS = ("system", "against", "score", "value", "low", "high", "ratings", "listeners", "utterances")


def listening_csv(test: dict, basis: Mapping[str, object]) -> str:
    """Return a line for each system and score, then for each difference from the system `against`.

    Every line repeats `basis`, what the evaluation rests on, and how the listening test was held.
    """
    told = {"test": test["test"], "loudness_lufs": test["loudness_lufs"], "unfinished": len(test["unfinished"]),
            "excluded": "; ".join(f"{each['file']}: {each['reason']}" for each in test["excluded"])}
    lines = [{"system": system, "score": name, **scores[name]}
             for system, scores in test["systems"].items() for name in OPINIONS]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*_COLUMNS, *told, *basis], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for line in (*lines, *test["differences"]):
        low, high = line["interval"] or (None, None)
        writer.writerow({**line, "low": low, "high": high, **told, **basis})
    return file.getvalue()


def listening_tex(test: dict, where: str) -> str:
    """Return a table for LaTeX, the best system in bold; `where`, LaTeX already, says what was evaluated."""
    best = {name: max((scores[name]["value"] for system, scores in test["systems"].items()
                       if system != RECORDINGS and scores[name]["value"] is not None), default=None)
            for name in OPINIONS}
    rows = [(escape(system), str(scores["qmos"]["ratings"]),
             [_cell(scores[name], None if system == RECORDINGS else best[name]) for name in OPINIONS])
            for system, scores in test["systems"].items()]
    caption = (f"Listening test {where}: naturalness (QMOS) and similarity of the voice (SMOS), 1 to 5. Below each "
               r"value its 95\,\% bootstrap interval over listeners and utterances.")
    return booktabs_table(caption, [Cell(rf"{title} $\uparrow$") for title in OPINIONS.values()], [("", rows)],
                          [escape(note) for note in _notes(test)])


def opinion_in_words(score: dict) -> str:
    """Return a mean opinion with its interval."""
    if score["value"] is None:
        return "–"
    return f"{score['value']:.2f}" + (" ({:.2f} to {:.2f})".format(*score["interval"]) if score["interval"] else "")


def _cell(score: dict, best: float | None) -> Cell:
    if score["value"] is None:
        return Cell("--")
    told = f"{score['value']:.2f}"
    interval = (f"[{', '.join(f'{end:.2f}' for end in score['interval'])}]",) if score["interval"] else ()
    return Cell(rf"\textbf{{{told}}}" if best is not None and told == f"{best:.2f}" else told, interval)


def _notes(test: dict) -> list[str]:
    notes = [f"n: ratings of naturalness. {test['listeners']} listeners, {test['utterances']} utterances, all sounds "
             f"at {test['loudness_lufs']:g} LUFS"]
    if lacking := [f"{system} {count}" for system, count in test["without_sound"].items() if count]:
        notes.append(f"Utterances without a sound to rate: {', '.join(lacking)}")
    if test["excluded"] or test["unfinished"]:
        notes.append(f"{len(test['excluded'])} files of answers left out, {len(test['unfinished'])} listeners did not "
                     "rate all sounds")
    return notes
