"""The page of an evaluation: scores with intervals and denominators, plots, and the worst utterances to listen to."""

from __future__ import annotations

from collections.abc import Sequence

from stages.reports import plots
from stages.reports.page import (
    article,
    facts,
    figure,
    figures,
    heading,
    page,
    paragraph,
    players,
    table,
)

SHOWN = 40  # utterances with players; the rest is in items.jsonl
NAMED = 5  # files of no utterance that are named


def evaluation_page(scores: dict, rows: Sequence[dict]) -> str:
    """Return report.html out of what scores.json and items.jsonl hold."""
    title = f"{scores['system']['name']} on {scores['set']['name']}"
    return page(title, [*_about(scores), *_score_tables(scores), *_plots(rows), *_listening(scores, rows)])


def worst_first(rows: Sequence[dict], most: int = SHOWN) -> list[dict]:
    """Return the rows to listen to: without output first, then by falling word error rate."""

    def badness(row: dict) -> tuple[bool, float]:
        rates = _word_error_rates(row)
        return row["status"] in ("missing", "failed"), rates[0] if rates else -1.0

    return sorted(rows, key=badness, reverse=True)[:most]


def _about(scores: dict) -> list[str]:
    counts = scores["counts"]
    made = f"{counts['scored']} scored"
    made += "".join(f", {counts[key]} {key}" for key in ("missing", "failed", "refused", "unfinished") if counts[key])
    chosen = scores["set"]
    about = {
        "setting": f"{scores['setting']} ({scores['setting_in_words']})",
        "system": scores["system"]["what"],
        "test set": f"{chosen['path']}, split {chosen['split']}, {chosen['utterances']} utterances",
        "evaluated": f"{chosen['evaluated']} utterances: {made}",
        "recogniser": f"{scores['recogniser']['name']} {scores['recogniser']['version']}",
        "text normaliser": f"{scores['normaliser']['name']} {scores['normaliser']['version']}",
        "seed": scores["seed"],
    }
    if scores["unknown_files"]:
        names = scores["unknown_files"]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        about["files of no utterance"] = ", ".join(names[:NAMED]) + more
    return [facts(about)]


def _score_tables(scores: dict) -> list[str]:
    rows = [_score_row(scores["metrics"][name], scores["recordings"].get(name)) for name in scores["metrics"]]
    caption = (f"Setting: {scores['setting']}. Intervals are 95 % bootstrap intervals over utterances. "
               "Utterances without output count as all words deleted in WER.")
    header = ("metric", "better", "output", "95 % interval", "recordings", "95 % interval", "utterances", "left out")
    parts = [heading("Scores"), table(caption, header, rows, numbers=(2, 3, 4, 5, 6))]
    if "wer" in scores["metrics"]:
        parts.append(_word_errors(scores))
    if scores["left_out"]:
        reasons = [(reason, str(count)) for reason, count in scores["left_out"].items()]
        parts += [heading("Utterances without a score or an output"),
                  table(f"Setting: {scores['setting']}. Every reason, and how often.", ("reason", "utterances"),
                        reasons, numbers=(1,), kind="narrow")]
    return parts


def _score_row(score: dict, recording: dict | None) -> tuple[str, ...]:
    counted = f"{score['denominator']} of {score['total']}"
    why = "; ".join(f"{count}: {reason}" for reason, count in score["reasons"].items())
    return (score["label"], score["better"], *_value_and_interval(score), *_value_and_interval(recording), counted, why)


def _value_and_interval(score: dict | None) -> tuple[str, str]:
    if score is None or score["value"] is None:
        return "–", "–"
    digits = score["digits"]
    interval = " to ".join(f"{end:.{digits}f}" for end in score["interval"] or ())
    return f"{score['value']:.{digits}f}", interval or "–"


def _word_errors(scores: dict) -> str:
    rows = []
    for name, of in (("metrics", "output"), ("recordings", "recordings")):
        score = scores[name].get("wer")
        if score and score["totals"]:
            totals = score["totals"]
            kinds = [f"{totals[kind]:.0f}" for kind in ("substitutions", "insertions", "deletions", "words")]
            rows.append((of, *kinds))
    header = ("", "substitutions", "insertions", "deletions", "words of the text")
    caption = f"Setting: {scores['setting']}. Words that {scores['recogniser']['name']} heard otherwise."
    return table(caption, header, rows, numbers=(1, 2, 3, 4), kind="narrow")


def _plots(rows: Sequence[dict]) -> list[str]:
    judged = [row for row in rows if row["status"] != "refused"]
    rates = [(row["reference_seconds"], *rate) for row in judged if (rate := _word_error_rates(row))]
    lengths = [(row["reference_seconds"], row["seconds"]) for row in judged if row["seconds"] is not None]
    drawn = []
    if rates:
        drawn.append(figure(plots.wer_against_duration(*zip(*rates, strict=True)), "Word error rate against duration"))
    if lengths:
        pairs = list(zip(*lengths, strict=True))
        drawn += [figure(plots.durations(*pairs), "Durations of outputs and recordings"),
                  figure(plots.duration_distributions(*pairs), "Distributions of durations; WD is the area between")]
    return [heading("Plots"), figures(drawn)] if drawn else []


def _listening(scores: dict, rows: Sequence[dict]) -> list[str]:
    shown = worst_first(rows)
    note = f"All {len(shown)} utterances, the worst first."
    if len(shown) < len(rows):
        note = f"The {len(shown)} worst of {len(rows)} utterances; all are in items.jsonl."
    note += " Outputs are synthetic; recordings and prompts are the test set's own."
    return [heading("Listen"), paragraph(note, "soft"), *(_utterance(row, scores) for row in shown)]


def _utterance(row: dict, scores: dict) -> str:
    parts = [paragraph(f"text: {row['text']}")]
    if row.get("output", {}).get("heard") is not None:
        parts.append(paragraph(f"heard by {scores['recogniser']['name']}: {row['output']['heard'] or '(nothing)'}"))
    if row["reason"]:
        parts.append(paragraph(f"{row['status']}: {row['reason']}", "bad"))
    elif not row["finished"]:
        parts.append(paragraph(f"unfinished: it stopped before the end of the text ({row['stop_reason']})", "bad"))
    parts.append(paragraph(_measured(row, scores), "soft"))
    parts.append(players(row["players"]) if row.get("players") else "")
    return article(row["id"], parts)


def _measured(row: dict, scores: dict) -> str:
    columns = {"recording": "reference_seconds", "output": "seconds", "of which prompt": "prompt_seconds"}
    told = [f"{name} {row[column]:.2f} s" for name, column in columns.items() if row[column]]
    rates = _word_error_rates(row)
    for name, measured in row.get("output", {}).get("metrics", {}).items():
        score = scores["metrics"].get(name)
        if score is None or name == "wer_mean":  # of one utterance, the same as its WER
            continue
        value = measured["value"]
        shown = f"no value ({measured['reason']})" if value is None else f"{value:.{score['digits']}f}"
        beside = f" (recording {rates[1]:.2f})" if name == "wer" and rates else ""
        told.append(f"{score['label']}: {shown}{beside}")
    return " · ".join(told)


def _word_error_rates(row: dict) -> tuple[float, float] | None:
    """Return the WER (%) of the output and of the recording, None when either was not measured."""
    rates = [row.get(system, {}).get("metrics", {}).get("wer", {}).get("value") for system in ("output", "recording")]
    return (rates[0], rates[1]) if None not in rates else None
