"""The scores of an evaluation as files for spreadsheets and papers: scores.csv, differences.csv and scores.tex."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.artifacts.storage import write_text
from stages.reports.latex import Cell, Group, booktabs_table, escape
from stages.reports.listening_tables import LISTENING_CSV, listening_csv, listening_tex
from stages.speech.transcriber import recogniser_in_words

TABLES = SCORES_CSV, DIFFERENCES_CSV, SCORES_TEX = "scores.csv", "differences.csv", "scores.tex"
ALL = "all"  # classes and speakers together
MOST_COLUMNS = 5  # of metrics, side by side on the page of a paper
_RECORDINGS = "recordings"
_PAPER_ORDER = ("wer", "cer", "speaker_similarity", "duration_distance", "dnsmos", "utmos")  # Tables 4 and 5
_ARROWS = {"lower": r"$\downarrow$", "higher": r"$\uparrow$"}
_OVER_SEEDS = {False: "", True: ", in italics that over seeds"}
_INTERVALS = ("low", "high", "seed_low", "seed_high")
_SCORE_COLUMNS = ("system", "class", "speaker", "metric", "label", "unit", "better", "value", *_INTERVALS,
                  "denominator", "total", "texts", "takes", "without_value")
_DIFFERENCE_COLUMNS = ("system", "against", "metric", "label", "unit", "better", "value", *_INTERVALS, "pairs", "texts")


def write_tables(out: Path, scores: dict) -> None:
    """Write the tables of what scores.json holds into the folder `out`."""
    write_text(out / SCORES_CSV, scores_csv(scores))
    write_text(out / DIFFERENCES_CSV, differences_csv(scores))
    write_text(out / SCORES_TEX, scores_tex(scores))
    (out / LISTENING_CSV).unlink(missing_ok=True)
    if scores.get("listening"):
        write_text(out / LISTENING_CSV, listening_csv(scores["listening"], _basis(scores)))


def scores_csv(scores: dict) -> str:
    """Return a line for each system, class of duration or speaker, and metric; of what has no value, the reasons.

    Every line repeats what the value rests on (test set, setting, recogniser, versions), so lines of several
    evaluations can be put together.
    """
    return _to_csv(_SCORE_COLUMNS, _score_lines(scores), scores)


def differences_csv(scores: dict) -> str:
    """Return a line for each pair of systems and metric: the value of `system` less that of `against`."""
    lines = ({"system": found["system"], "against": found["against"], **_of_metric(found["metric"], scores),
              "value": found["value"], **_ends(found), "pairs": found["pairs"], "texts": found["texts"]}
             for found in scores["differences"])
    return _to_csv(_DIFFERENCE_COLUMNS, lines, scores)


def _to_csv(columns: Sequence[str], lines: Iterator[dict], scores: dict) -> str:
    basis = _basis(scores)
    file = io.StringIO()
    writer = csv.DictWriter(file, [*columns, *basis], lineterminator="\n")
    writer.writeheader()
    writer.writerows(line | basis for line in lines)
    return file.getvalue()


def _score_lines(scores: dict) -> Iterator[dict]:
    for system, told in scores["systems"].items():
        yield from _lines_of(told["scores"], scores, {"system": system, "class": ALL, "speaker": ALL})
        for speaker, theirs in told["speakers"].items():
            yield from _lines_of(theirs, scores, {"system": system, "class": ALL, "speaker": speaker})
    for name, systems in scores["classes"].items():
        for system, found in systems.items():
            # with the unit, for spreadsheets take 4-10 for a day in April
            yield from _lines_of(found, scores, {"system": system, "class": _class_in_words(name), "speaker": ALL})


def _lines_of(found: dict[str, dict], scores: dict, where: dict) -> Iterator[dict]:
    for metric, score in found.items():
        counts = {name: score[name] for name in ("denominator", "total", "texts", "takes")}
        yield {**where, **_of_metric(metric, scores), "value": score["value"], **_ends(score), **counts,
               "without_value": "; ".join(f"{count}: {reason}" for reason, count in score["reasons"].items())}


def _of_metric(name: str, scores: dict) -> dict:
    metric = scores["metrics"][name]
    return {"metric": name, "label": metric["label"], "unit": metric["unit"], "better": metric["better"]}


def _ends(score: dict) -> dict:
    ends = [*(score["interval"] or (None, None)), *(score["seed_interval"] or (None, None))]
    return dict(zip(_INTERVALS, ends, strict=True))


def _basis(scores: dict) -> dict:
    """Return what every value of an evaluation rests on."""
    return {
        "set": scores["set"]["name"], "split": scores["set"]["split"], "set_fingerprint": scores["set"]["fingerprint"],
        "setting": scores["setting"], "protocol": (scores.get("protocol") or {}).get("name"),
        "recogniser": recogniser_in_words(scores["recogniser"]["name"]),
        "recogniser_version": scores["recogniser"]["version"],
        "normaliser": scores["normaliser"]["name"], "normaliser_version": scores["normaliser"]["version"],
        "halle_version": scores["packages"].get("halle"), "seed": scores["seed"],
    }  # fmt: skip


def _class_in_words(name: str) -> str:
    return f"{name} s" if name[0].isdigit() else name


def scores_tex(scores: dict) -> str:
    """Return tables for LaTeX in the form of the paper's: systems are rows, metrics are columns with arrows.

    Each value has its interval and, where outputs lack one, its denominator below it. Further tables hold the classes
    of duration, if there are several, and the differences.
    """
    systems = {name: told["scores"] for name, told in scores["systems"].items()}
    metrics = _measured(scores["metrics"], systems)
    where = f"on {escape(scores['set']['name'])} ({escape(scores['setting'])})"
    intervals = r"Below each value its 95\,\% bootstrap interval over texts" + _OVER_SEEDS[scores["seeds"] > 1] + "."
    parts = ["% Written by halle eval. Needs \\usepackage{booktabs}; names that are not Latin, LuaLaTeX or XeLaTeX.\n"]
    parts += _tables(f"Scores {where}. {intervals}", [("", _score_rows(systems, metrics, scores))], metrics, scores)
    if len(scores["classes"]) > 1:
        groups = [(escape(_class_in_words(name)).replace("-", "--"), _score_rows(found, metrics, scores))
                  for name, found in scores["classes"].items()]
        parts += _tables(f"Scores by duration of the recording, {where}. {intervals}", groups, metrics, scores)
    if scores["differences"]:
        compared = [name for name in metrics if any(name == found["metric"] for found in scores["differences"])]
        caption = (f"Differences {where}, of the outputs that both systems have; bold where the interval over texts "
                   f"does not hold 0. {intervals}")
        parts += _tables(caption, [("", _difference_rows(compared, scores))], compared, scores)
    if scores.get("listening"):
        parts.append(listening_tex(scores["listening"], where))
    return "\n".join(parts)


def _measured(metrics: dict[str, dict], systems: dict[str, dict]) -> list[str]:
    """Return the names of the metrics that have a value, those of the paper's tables first."""
    names = [name for name in metrics if any(each.get(name, {}).get("value") is not None for each in systems.values())]
    return sorted(names, key=lambda name: _PAPER_ORDER.index(name) if name in _PAPER_ORDER else len(_PAPER_ORDER))


def _tables(caption: str, groups: Sequence[Group], metrics: Sequence[str], scores: dict) -> Iterator[str]:
    """Yield a table for every few metrics; all of them hold all rows and all notes."""
    for first in range(0, len(metrics), MOST_COLUMNS):
        chosen = metrics[first : first + MOST_COLUMNS]
        header = [_header(scores["metrics"][name]) for name in chosen]
        here = [(heading, [(name, count, cells[first : first + MOST_COLUMNS]) for name, count, cells in rows])
                for heading, rows in groups]
        yield booktabs_table(caption, header, here, _notes(scores))


def _header(metric: dict) -> Cell:
    """Return the heading's two lines: the name with its arrow, and what the label says besides."""
    label, unit = metric["label"], f", {metric['unit']}" if metric["unit"] else ""
    name, _, model = label.removesuffix(unit).partition(" (")
    below = ", ".join(filter(None, (model.removesuffix(")"), metric["unit"])))
    arrow = _ARROWS.get(metric["better"], "")
    return Cell(f"{escape(name)} {arrow}".rstrip(), (escape(below),) if below else ())


def _score_rows(systems: dict[str, dict], metrics: Sequence[str], scores: dict) -> list[tuple[str, str, list[Cell]]]:
    best = {name: _best(systems, name, scores["metrics"][name]) for name in metrics}
    return [(escape(system), _count(found),
             [_cell(found.get(name), scores["metrics"][name]["digits"], best[name] if system != _RECORDINGS else None)
              for name in metrics])
            for system, found in systems.items()]


def _best(systems: dict[str, dict], metric: str, described: dict) -> str | None:
    """Return the best system's value as it is printed; none where only one system has any, or none is better.

    The recordings are no competitor.
    """
    if described["better"] not in _ARROWS:
        return None
    values = [found[metric]["value"] for system, found in systems.items()
              if system != _RECORDINGS and found.get(metric, {}).get("value") is not None]
    if len(values) < 2:
        return None
    return _number((min if described["better"] == "lower" else max)(values), f".{described['digits']}f")


def _cell(score: dict | None, digits: int, best: str | None) -> Cell:
    if score is None or score["value"] is None:
        return Cell("--")
    told = _number(score["value"], f".{digits}f")
    some = f"{score['denominator']} of {score['total']}" if score["denominator"] < score["total"] else ""
    return Cell(rf"\textbf{{{told}}}" if told == best else told, _below(score, f".{digits}f", some))


def _below(score: dict, form: str, denominator: str) -> tuple[str, ...]:
    """Return the intervals over texts and over seeds, and the denominator."""
    over_texts, over_seeds = (f"[{', '.join(_number(end, form) for end in score[name])}]" if score[name] else ""
                              for name in ("interval", "seed_interval"))
    return tuple(filter(None, (over_texts, over_seeds and rf"\textit{{{over_seeds}}}", denominator)))


def _number(value: float, form: str) -> str:
    """Return the number with a minus sign in place of a hyphen."""
    return f"{value:{form}}".replace("-", "$-$").replace("+", "$+$")


def _count(found: dict[str, dict]) -> str:
    """Return of how many texts, and takes of each, a system's outputs are."""
    texts, takes = (max((score[name] for score in found.values()), default=0) for name in ("texts", "takes"))
    return str(texts) if takes < 2 else rf"${texts}\times{takes}$"


def _difference_rows(metrics: Sequence[str], scores: dict) -> list[tuple[str, str, list[Cell]]]:
    found = {(each["system"], each["against"], each["metric"]): each for each in scores["differences"]}
    rows = []
    for pair in dict.fromkeys(key[:2] for key in found):
        here = [found.get((*pair, name)) for name in metrics]
        texts = max(each["texts"] for each in here if each)
        cells = [_difference_cell(each, texts, scores) for each in here]
        rows.append((f"{escape(pair[0])} $-$ {escape(pair[1])}", str(texts), cells))
    return rows


def _difference_cell(found: dict | None, texts: int, scores: dict) -> Cell:
    if found is None:
        return Cell("--")
    form = f"+.{scores['metrics'][found['metric']]['digits']}f"
    told, interval = _number(found["value"], form), found["interval"]
    clear = interval and not interval[0] <= 0.0 <= interval[1]
    some = f"{found['texts']} texts" if found["texts"] < texts else ""
    return Cell(rf"\textbf{{{told}}}" if clear else told, _below(found, form, some))


def _notes(scores: dict) -> list[str]:
    """Return what a reader must know to read the values."""
    basis = _basis(scores)
    notes = [f"Protocol: {basis['protocol']}"] if basis["protocol"] else []
    notes += [f"Test set: {basis['set']}, split {basis['split']}, {scores['set']['evaluated']} utterances, fingerprint "
              f"{basis['set_fingerprint'][:12]}",
              "n: texts, times takes; `k of n' where only k outputs have a value",
              "Without output, all words count as deleted in WER",
              f"Recogniser: {basis['recogniser']} {basis['recogniser_version']}",
              f"Text normaliser: {basis['normaliser']} {basis['normaliser_version']}",
              f"Halle {basis['halle_version'] or '(version unknown)'}, seed {basis['seed']}"]
    if refused := sum(scores["refused"].values()):
        notes.append(f"In no value: {refused} utterances that could not be evaluated")
    notes += [f"Not measured: {label} ({why})" for label, why in not_measured(scores).items()]
    return [escape(note) for note in notes]


def not_measured(scores: dict) -> dict[str, str]:
    """Return why metrics that were asked for have no value of any system, by their labels."""
    systems = {name: told["scores"] for name, told in scores["systems"].items()}
    measured = _measured(scores["metrics"], systems)
    return {metric["label"]: "; ".join(dict.fromkeys(reason for found in systems.values()
                                                     for reason in found.get(name, {}).get("reasons", ())))
            for name, metric in scores["metrics"].items() if name not in measured}
