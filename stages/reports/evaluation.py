"""The page of an evaluation: a row of scores a system, their differences, and the worst utterances to listen to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.audio.io import write_audio
from stages.metrics.scoring import RECORDINGS, SCORED, read_recording
from stages.metrics.test_set import Case, file_stem, set_in_words
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

SHOWN = 40  # utterances with players, and speakers with scores; the rest is in items.jsonl and scores.json
NAMED = 5  # files of no utterance that are named
_ARROWS = {"lower": "↓", "higher": "↑"}


def evaluation_page(scores: dict, rows: Sequence[dict]) -> str:
    """Return report.html out of what scores.json and items.jsonl hold."""
    systems = ", ".join(name for name in scores["systems"] if name != RECORDINGS)
    body = [*_about(scores), *_score_tables(scores), *_plots(scores, rows), *_listening(scores, rows)]
    return page(f"{systems} on {scores['set']['name']}", body)


def worst_first(rows: Sequence[dict], most: int = SHOWN) -> list[dict]:
    """Return the rows to listen to: without an output first, then by the falling word error rate of any system."""

    def badness(row: dict) -> tuple[bool, float]:
        entries = [entry for _, entry in _outputs(row)]
        rates = [rate for entry in entries if (rate := _word_error_rate(entry)) is not None]
        return any(entry["status"] != SCORED for entry in entries), max(rates, default=-1.0)

    return sorted(rows, key=badness, reverse=True)[:most]


def with_players(out: Path, rows: Sequence[dict], cases: Sequence[Case]) -> list[dict]:
    """Return the rows, those that the page shows with `players`: label -> path below `out` of every output, the
    recording and the prompt. Recordings and prompts are written there."""
    case_of = {case.utterance.id: case for case in cases}
    shown = {row["id"] for row in worst_first(rows) if not row["refused"] and row["id"] in case_of}
    return [row | {"players": _players_of(out, row, case_of[row["id"]])} if row["id"] in shown else row
            for row in rows]


def _players_of(out: Path, row: dict, case: Case) -> dict[str, str]:
    found = {system: entry["audio"] for system, entry in _outputs(row) if entry["audio"]}
    for label, utterance in (("recording", case.utterance), ("prompt", case.prompt)):
        if utterance is not None:
            found[label] = f"recordings/{file_stem(utterance.id)}.wav"
            sound = read_recording(utterance)
            write_audio(out / found[label], sound.waveform, sound.sample_rate)
    return found


def score_in_words(score: dict | None, metric: dict) -> str:
    """Return a score with its interval, and how many utterances it is of when some have no value."""
    if score is None or score["value"] is None:
        return "–"
    digits = metric["digits"]
    told = f"{score['value']:.{digits}f}"
    if score["interval"]:
        told += f" ({' to '.join(f'{end:.{digits}f}' for end in score['interval'])})"
    if score["denominator"] < score["total"]:
        told += f" [{score['denominator']} of {score['total']}]"
    return told


def _outputs(row: dict) -> Iterator[tuple[str, dict]]:
    return ((name, entry) for name, entry in row["systems"].items() if name != RECORDINGS)


def _about(scores: dict) -> list[str]:
    about = {
        "setting": f"{scores['setting']} ({scores['setting_in_words']})",
        "test set": set_in_words(scores["set"]),
        "evaluated": f"{scores['set']['evaluated']} utterances, {sum(scores['refused'].values())} of them refused",
    }
    for name, system in scores["systems"].items():
        made = ", ".join(f"{count} {status}" for status, count in system["counts"].items() if count)
        about[name] = f"{system['what']}: {made}"
        if strangers := system.get("unknown_files"):
            more = f" and {len(strangers) - NAMED} more" if len(strangers) > NAMED else ""
            about[f"{name}: files of no utterance"] = ", ".join(strangers[:NAMED]) + more
    return [facts(about | {
        "recogniser": f"{scores['recogniser']['name']} {scores['recogniser']['version']}",
        "text normaliser": f"{scores['normaliser']['name']} {scores['normaliser']['version']}",
        "seed": scores["seed"],
    })]


def _score_tables(scores: dict) -> list[str]:
    systems = {name: system["scores"] for name, system in scores["systems"].items()}
    measured = [name for name in scores["metrics"]
                if any(each.get(name, {}).get("value") is not None for each in systems.values())]
    header = ("system", *(_column(scores["metrics"][name]) for name in measured))
    rows = [(system, *_cells(each, measured, scores)) for system, each in systems.items()]
    caption = _caption(scores, "In brackets 95 % bootstrap intervals over utterances. Utterances without output "
                               "count as all words deleted in WER.")
    parts = [heading("Scores"), table(caption, header, rows, numbers=range(1, len(header)))]
    parts += _difference_table(scores, measured)
    parts += _speaker_table(scores, measured)
    parts += _word_errors(scores)
    return [*parts, *_without_value(scores)]


def _caption(scores: dict, told: str) -> str:
    return f"Setting: {scores['setting']}. {told}"


def _column(metric: dict) -> str:
    return f"{metric['label']}\u00a0{_ARROWS.get(metric['better'], '')}"


def _cells(found: dict[str, dict], measured: Sequence[str], scores: dict) -> list[str]:
    return [_unbroken(score_in_words(found.get(name), scores["metrics"][name])) for name in measured]


def _unbroken(words: str) -> str:
    """Return the words so that a narrow cell breaks before an interval and not inside it."""
    return words.replace(" to ", "\u00a0to\u00a0").replace(" of ", "\u00a0of\u00a0")


def _difference_table(scores: dict, measured: Sequence[str]) -> list[str]:
    pairs = list(dict.fromkeys((found["system"], found["against"]) for found in scores["differences"]))
    told = {(found["system"], found["against"], found["metric"]): _difference_in_words(found, scores)
            for found in scores["differences"]}
    compared = [name for name in measured if any((*pair, name) in told for pair in pairs)]
    if not compared:
        return []
    header = ("system", "minus", *(_column(scores["metrics"][name]) for name in compared))
    rows = [(*pair, *(told.get((*pair, name), "–") for name in compared)) for pair in pairs]
    caption = _caption(scores, "Differences over the utterances that both have, with 95 % intervals of a paired "
                               "bootstrap: one that holds 0 may be chance.")
    return [heading("Differences"), table(caption, header, rows, numbers=range(2, len(header)))]


def _difference_in_words(found: dict, scores: dict) -> str:
    digits = scores["metrics"][found["metric"]]["digits"]
    interval = " to ".join(f"{end:+.{digits}f}" for end in found["interval"] or ())
    return _unbroken(f"{found['value']:+.{digits}f}" + (f" ({interval})" if interval else ""))


def _speaker_table(scores: dict, measured: Sequence[str]) -> list[str]:
    speakers = list(dict.fromkeys(name for system in scores["systems"].values() for name in system["speakers"]))
    if not speakers:
        return []
    rows = [(speaker, name, *_cells(system["speakers"].get(speaker, {}), measured, scores))
            for speaker in speakers[:SHOWN] for name, system in scores["systems"].items()]
    rest = f" The first {SHOWN} of {len(speakers)} speakers; all are in scores.json." if len(speakers) > SHOWN else ""
    header = ("speaker", "system", *(_column(scores["metrics"][name]) for name in measured))
    caption = _caption(scores, f"In brackets 95 % bootstrap intervals over a speaker's utterances.{rest}")
    return [heading("Speakers"), table(caption, header, rows, numbers=range(2, len(header)))]


def _word_errors(scores: dict) -> list[str]:
    rows = []
    for name, system in scores["systems"].items():
        if totals := system["scores"].get("wer", {}).get("totals"):
            kinds = [f"{totals[kind]:.0f}" for kind in ("substitutions", "insertions", "deletions", "words")]
            rows.append((name, *kinds))
    header = ("system", "substitutions", "insertions", "deletions", "words of the text")
    caption = _caption(scores, f"Words that {scores['recogniser']['name']} heard otherwise.")
    return [table(caption, header, rows, numbers=(1, 2, 3, 4), kind="narrow")] if rows else []


def _without_value(scores: dict) -> list[str]:
    """Return every reason why something is not in the tables above, and how often."""
    reasons = [("all", "all", reason, count) for reason, count in scores["refused"].items()]
    for name, system in scores["systems"].items():
        reasons += [(name, "all", reason, count) for reason, count in system["left_out"].items()]
        reasons += [(name, scores["metrics"][metric]["label"], reason, count)
                    for metric, score in system["scores"].items() for reason, count in score["reasons"].items()]
    if not reasons:
        return []
    caption = _caption(scores, "Every reason why a value or an output is missing, and for how many utterances.")
    rows = [(*told, str(count)) for *told, count in reasons]
    return [heading("Without a value"),
            table(caption, ("system", "metric", "reason", "utterances"), rows, numbers=(3,), kind="narrow")]


def _plots(scores: dict, rows: Sequence[dict]) -> list[str]:
    judged = [row for row in rows if not row["refused"]]
    drawn = []
    for system in [name for name in scores["systems"] if name != RECORDINGS]:
        rates = [(row["reference_seconds"], *(_word_error_rate(row["systems"][name]) for name in (system, RECORDINGS)))
                 for row in judged]
        rates = [each for each in rates if None not in each]
        if rates:
            caption = f"Word error rate against duration: {system}"
            drawn.append(figure(plots.wer_against_duration(*zip(*rates, strict=True)), caption))
        lengths = [(row["reference_seconds"], seconds) for row in judged
                   if (seconds := row["systems"][system]["seconds"]) is not None]
        if lengths and scores["setting"] != "reconstruction":  # there, they are the same
            pairs = list(zip(*lengths, strict=True))
            drawn += [figure(plots.durations(*pairs), "Durations of outputs and recordings"),
                      figure(plots.duration_distributions(*pairs),
                             "Distributions of durations; WD is the area between")]
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
    if row["refused"]:
        parts.append(paragraph(f"refused: {row['refused']}", "bad"))
    for name, entry in row["systems"].items():
        parts += _said(name, entry, scores)
    parts.append(players(row["players"]) if row.get("players") else "")
    return article(row["id"], parts)


def _said(name: str, entry: dict, scores: dict) -> list[str]:
    """Return the paragraphs on one system's output of one utterance."""
    parts = []
    if entry["heard"] is not None:
        parts.append(paragraph(f"{name}, heard by {scores['recogniser']['name']}: {entry['heard'] or '(nothing)'}"))
    if entry["reason"]:
        parts.append(paragraph(f"{name} {entry['status']}: {entry['reason']}", "bad"))
    elif not entry["finished"]:
        stopped = f"it stopped before the end of the text ({entry['stop_reason']})"
        parts.append(paragraph(f"{name} unfinished: {stopped}", "bad"))
    columns = {"": "seconds", "prompt ": "prompt_seconds"}
    told = [f"{label}{entry[column]:.2f} s" for label, column in columns.items() if entry[column]]
    for metric, measured in entry["metrics"].items():
        described = scores["metrics"].get(metric)
        if described is None or metric == "wer_mean" or measured["value"] is None:  # of one utterance the same as WER
            continue
        told.append(f"{described['label']}: {measured['value']:.{described['digits']}f}")
    return [*parts, paragraph(f"{name}: {' · '.join(told)}", "soft")] if told else parts


def _word_error_rate(entry: dict) -> float | None:
    return entry["metrics"].get("wer", {}).get("value")
