"""The page of an evaluation: tables as a paper has them, plots, and the worst and best utterances to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.metrics.sounds import RECORDINGS
from stages.metrics.test_set import set_in_words
from stages.reports import evaluation_plots
from stages.reports.evaluation_items import item_articles, refused_items
from stages.reports.evaluation_tables import (
    basis_in_words,
    class_tables,
    difference_tables,
    score_in_words,
    score_tables,
    speaker_table,
    without_value,
)
from stages.reports.page import contents, details, facts, heading, page

__all__ = ["evaluation_page", "score_in_words"]

NAMED = 5  # files of no utterance that are named


def evaluation_page(scores: dict, rows: Sequence[dict], folder: Path | None = None) -> str:
    """Return report.html out of what scores.json and items.jsonl hold.

    The sounds below `folder` become part of the page, which then can be mailed: as many as keep it below about 14 MB,
    for the others the players look beside the page. Without a folder nothing is read and all are beside it.
    """
    body = [*score_tables(scores), *_by_duration(scores, rows), *evaluation_plots.duration_plots(scores, rows),
            *evaluation_plots.curve_plots(scores), *difference_tables(scores), *speaker_table(scores),
            *_waveforms(scores, rows, folder), *item_articles(scores, rows, folder), *without_value(scores),
            *_refused(rows)]
    systems = ", ".join(name for name in scores["systems"] if name != RECORDINGS)
    return page(f"{systems} on {scores['set']['name']}", [*_about(scores), contents(body), *body])


def _about(scores: dict) -> list[str]:
    about = {
        "setting": f"{scores['setting']} ({scores['setting_in_words']})",
        "test set": set_in_words(scores["set"]),
        "evaluated": f"{scores['set']['evaluated']} utterances, {sum(scores['refused'].values())} of them refused",
    }
    if protocol := scores.get("protocol"):
        about["protocol"] = "; ".join((f"{protocol['name']} ({protocol['paper']})", *protocol["notes"]))
    for name, system in scores["systems"].items():
        made = ", ".join(f"{count} {status}" for status, count in system["counts"].items() if count)
        about[name] = f"{system['what']}; {made}"
        if strangers := system.get("unknown_files"):
            more = f" and {len(strangers) - NAMED} more" if len(strangers) > NAMED else ""
            about[f"{name}: files of no utterance"] = ", ".join(strangers[:NAMED]) + more
    about["recogniser"], about["text normaliser"] = basis_in_words(scores)
    about["seed"] = f"{scores['seed']}" + (f", {scores['seeds']} takes" if scores.get("seeds", 1) > 1 else "")
    return [facts(about)]


def _by_duration(scores: dict, rows: Sequence[dict]) -> list[str]:
    parts = [*class_tables(scores), *evaluation_plots.errors_by_duration(scores, rows)]
    return [heading("By duration"), *parts] if parts else []


def _waveforms(scores: dict, rows: Sequence[dict], folder: Path | None) -> list[str]:
    row = evaluation_plots.longest_row(rows)
    return evaluation_plots.waveform_plot(scores, row, folder) if row and folder else []


def _refused(rows: Sequence[dict]) -> list[str]:
    refused = refused_items(rows)
    return [details(f"{len(refused)} utterances were refused", [facts(refused)])] if refused else []
