from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess

import numpy as np
import pytest

from stages.config.stage_configs import EvalConfig
from stages.metrics.comparison import compare_systems, describe, score_classes, score_system
from stages.metrics.registry import load_metric
from stages.reports.latex import escape
from stages.reports.tables import differences_csv, scores_csv, scores_tex, write_tables

EVIL = r"my_sys & 100% #1 $x$ {y} ~a^b \z <c> |d| [e]"
METRICS = [load_metric(name) for name in ("duration_distance", "wer", "utmos")]
CONFIG = EvalConfig(bootstrap_samples=50)


def entry(wrong=1, seconds=5.0, reference=5.0, status="scored"):
    spoken = status == "scored"
    numbers = {"output_seconds": seconds, "reference_seconds": reference}
    return {"status": status, "reason": "" if spoken else "no file", "seconds": seconds if spoken else None,
            "finished": spoken, "metrics": {
        "wer": {"value": 10.0 * wrong, "reason": "", "substitutions": wrong, "insertions": 0, "deletions": 0,
                "words": 10},
        "duration_distance": {"value": abs(seconds - reference), "reason": "", **numbers} if spoken else
                             {"value": None, "reason": "no output"},
        "utmos": {"value": None, "reason": "not on this machine: fetch_it & wait"}}}  # fmt: skip


def make_rows(takes, systems, texts=12):
    rng = np.random.default_rng(0)
    rows = []
    for text in range(texts):
        seconds = 5.0 if text < 8 else 40.0
        for take in range(1, takes + 1):
            said = {name: entry(int(rng.integers(0, most)), seconds + rng.normal(), seconds)
                    for name, most in systems.items()}
            if text == 0:
                said[list(systems)[-1]] = entry(10, status="missing")
            recordings = {"recordings": entry(0, seconds, seconds)} if take == 1 else {}
            rows.append({"id": f"u{text}", "take": take, "speaker": f"s{text % 2}", "refused": "",
                         "reference_seconds": seconds, "systems": recordings | said})
    return rows


def make_scores(takes=1, systems=None, **more):
    systems = systems or {"ours": 3, EVIL: 6}
    rows, names = make_rows(takes, systems), ["recordings", *systems]
    return {
        "setting": "continuation", "seed": 7, "seeds": takes, "refused": {"empty": 2}, "protocol": None,
        "set": {"name": "test_90s", "split": "test", "fingerprint": "0123456789abcdef", "evaluated": 14},
        "recogniser": {"name": "nvidia/stt_en", "version": "1.0_b"}, "packages": {"halle": "0.1.0"},
        "normaliser": {"name": "whisper-normalizer (English)", "version": "0.1"},
        "metrics": {metric.name: describe(metric, "nvidia/stt_en") for metric in METRICS},
        "systems": {name: {"what": name} | score_system(METRICS, rows, name, CONFIG) for name in names},
        "classes": score_classes(METRICS, rows, names, CONFIG),
        "differences": compare_systems(METRICS, rows, list(systems), CONFIG),
    } | more  # fmt: skip


def parse(text):
    return list(csv.DictReader(io.StringIO(text)))


def line_of(lines, **wanted):
    (line,) = [line for line in lines if all(line[name] == value for name, value in wanted.items())]
    return line


def test_the_csv_has_a_line_for_every_system_class_speaker_and_metric_with_all_it_rests_on():
    scores = make_scores()
    lines = parse(scores_csv(scores))
    assert len(lines) == 2 * 3 * (1 + 2 + 2) + 1 * 2 * (1 + 2 + 2), "recordings have no distance from themselves"
    overall = line_of(lines, system=EVIL, metric="wer", speaker="all", **{"class": "all"})
    score = scores["systems"][EVIL]["scores"]["wer"]
    assert float(overall["value"]) == score["value"]
    assert (float(overall["low"]), float(overall["high"])) == score["interval"] and overall["seed_low"] == ""
    assert (overall["denominator"], overall["total"], overall["texts"], overall["takes"]) == ("12", "12", "12", "1")
    for line in lines:
        assert (line["set"], line["setting"], line["recogniser"], line["recogniser_version"], line["normaliser"],
                line["normaliser_version"], line["halle_version"], line["seed"], line["protocol"]) == (
            "test_90s", "continuation", "nvidia/stt_en", "1.0_b", "whisper-normalizer (English)", "0.1", "0.1.0", "7",
            "")
    minutes = line_of(lines, system="ours", metric="wer", **{"class": "30-60 s"})
    assert minutes["denominator"] == "4" and float(minutes["value"]) == (
        scores["classes"]["30-60"]["ours"]["wer"]["value"])


def test_what_has_no_value_is_an_empty_cell_with_its_reason_and_never_0():
    lines = parse(scores_csv(make_scores()))
    utmos = line_of(lines, system="ours", metric="utmos", speaker="all", **{"class": "all"})
    assert (utmos["value"], utmos["low"], utmos["denominator"], utmos["total"]) == ("", "", "0", "12")
    assert utmos["without_value"] == "12: not on this machine: fetch_it & wait"
    lengths = line_of(lines, system=EVIL, metric="duration_distance", speaker="all", **{"class": "all"})
    assert (lengths["denominator"], lengths["total"], lengths["without_value"]) == ("11", "12", "1: no output")


def test_differences_have_a_line_a_pair():
    scores = make_scores(takes=2)
    lines = parse(differences_csv(scores))
    assert [(line["system"], line["against"], line["metric"]) for line in lines] == [
        ("ours", "recordings", "wer"), (EVIL, "recordings", "wer"),
        (EVIL, "ours", "duration_distance"), (EVIL, "ours", "wer")]
    assert [(line["pairs"], line["texts"]) for line in lines] == [("24", "12"), ("24", "12"), ("22", "11"),
                                                                  ("24", "12")]
    assert all(float(line["seed_low"]) < float(line["value"]) < float(line["seed_high"]) for line in lines)


def rows_of(tex):
    """Return the cells of every line that is a row of a tabular: `&` between, without those that are escaped."""
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in tex.splitlines() if line.endswith(r" \\")]


def test_the_recordings_are_no_competitor_even_with_the_best_systems_value():
    scores = make_scores(systems={"ours": 1, "theirs": 6})  # no errors, as in the recordings
    values = [scores["systems"][name]["scores"]["wer"]["value"] for name in ("recordings", "ours", "theirs")]
    assert values[0] == values[1] == 0 < values[2]
    first = {row[0].strip(): row[2].strip() for row in reversed(rows_of(scores_tex(scores)[:1500])) if len(row) > 2}
    assert (first["{recordings}"], first["{ours}"]) == ("0.00", r"\textbf{0.00}")


@pytest.mark.parametrize("takes", [1, 3])
def test_the_latex_table_has_systems_as_rows_metrics_with_arrows_intervals_and_notes(takes):
    scores = make_scores(takes)
    tex = scores_tex(scores)
    rows = [[cell.strip() for cell in row] for row in rows_of(tex)]
    assert rows[0] == ["{system}", "$n$", r"WER $\downarrow$", r"duration WD $\downarrow$"]
    assert rows[1] == ["", "", r"{\scriptsize nvidia/stt\_en, \%}", r"{\scriptsize s}"]
    ours = rows.index(next(row for row in rows if row[0] == "{ours}"))
    score = scores["systems"]["ours"]["scores"]["wer"]
    assert rows[ours][1] == ("12" if takes == 1 else r"$12\times3$")
    assert rows[ours][2] == rf"\textbf{{{score['value']:.2f}}}", "the best of two"
    low, high = score["interval"]
    assert rows[ours + 1][2] == rf"{{\scriptsize [{low:.2f}, {high:.2f}]}}"
    if takes > 1:
        low, high = score["seed_interval"]
        assert rows[ours + 2][2] == rf"{{\scriptsize \textit{{[{low:.2f}, {high:.2f}]}}}}"
    assert f"{{\\scriptsize {11 * takes} of {12 * takes}}}" in tex
    for told in ("Recogniser: nvidia/stt\\_en 1.0\\_b.", "Text normaliser: whisper-normalizer (English) 0.1.",
                 "split test, 14 utterances, fingerprint 0123456789ab.", "Halle 0.1.0, seed 7.", "In no value: 2 utt",
                 "Not measured: UTMOS (not on this machine: fetch\\_it \\& wait)."):
        assert told in tex
    assert r"\textit{4--10 s}" in tex and r"\textit{30--60 s}" in tex


def test_every_table_is_well_formed_and_no_special_of_a_name_is_left(tmp_path):
    tex = scores_tex(make_scores(protocol={"name": "halle"}))
    assert tex.count(r"\begin{table}") == tex.count(r"\end{table}") == 3
    for table in tex.split(r"\begin{table}")[1:]:
        columns = len(re.search(r"\\begin\{tabular\}\{(l r*|lr*)\}", table)[1])
        widths = {len(row) for row in rows_of(table) if "multicolumn" not in row[0]}
        assert widths == {columns}
        bare = re.sub(r"\\[\\{}]", "", table)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"(?<!\\)[#%~]", table.replace("\\%", ""))
    assert "Protocol: halle." in tex and escape(EVIL) in tex


def test_specials_are_escaped_and_control_characters_are_spaces():
    assert escape(r"a_b & 5% {x} \n") == r"a\_b \& 5\% \{x\} \textbackslash{}n"
    assert escape("a\nb\x00c--d") == "a b c-{}-d"


def test_many_metrics_are_spread_over_several_tables():
    scores = make_scores()
    for index in range(6):
        name = f"more{index}"
        scores["metrics"][name] = scores["metrics"]["wer"] | {"label": f"more {index}"}
        for told in scores["systems"].values():
            told["scores"][name] = told["scores"]["wer"]
    scores["classes"], scores["differences"] = {}, []
    tex = scores_tex(scores)
    assert tex.count(r"\begin{table}") == 2 and all(f"more {index} " in tex for index in range(6))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
@pytest.mark.parametrize("takes", [1, 3])
def test_latex_accepts_the_tables(tmp_path, takes):
    write_tables(tmp_path, make_scores(takes, {"ours": 3, EVIL: 6, "* [starred]": 9}))
    document = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}", r"\input{scores.tex}",
                r"\end{document}"]
    (tmp_path / "paper.tex").write_text("\n".join(document), encoding="utf-8")
    made = subprocess.run(["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"], cwd=tmp_path,
                          capture_output=True, text=True, encoding="latin-1", check=False, timeout=60)
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Missing character" not in made.stdout
