from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from stages.reports import plots
from stages.reports.evaluation import evaluation_page, worst_first
from stages.reports.page import players, table

EVIL = "</p><script>alert('x')</script>\"&'"


def metric(value, label="WER (pocketsphinx), %", **more):
    return {"label": label, "unit": "%", "better": "lower", "digits": 2, "value": value, "interval": [1.5, 9.25],
            "denominator": 3, "total": 4, "reasons": {}, "totals": {}} | more  # fmt: skip


def wer(value):
    return {"wer": {"value": value, "reason": ""}}


def row(name="a", rate=10.0, status="scored", **more):
    spoken = status == "scored"
    return {"id": name, "text": "hello", "status": status, "reason": "" if spoken else "no file", "finished": spoken,
            "stop_reason": "end", "seconds": 2.0 if spoken else None, "prompt_seconds": 0.0,
            "reference_seconds": 2.5, "output": {"heard": "hallo", "metrics": wer(rate)},
            "recording": {"heard": "hello", "metrics": wer(3.0)}} | more  # fmt: skip


def scores(**more):
    counts = {"scored": 3, "missing": 1, "failed": 0, "refused": 0, "unfinished": 2}
    return {"setting": "continuation", "setting_in_words": "the first seconds", "seed": 7, "counts": counts,
            "system": {"name": "mini", "what": "model: mini"}, "left_out": {"missing: no file": 1},
            "set": {"name": "test-90s", "path": "data/test-90s", "split": "test", "utterances": 5, "evaluated": 4},
            "recogniser": {"name": "pocketsphinx", "version": "5"}, "normaliser": {"name": "whisper", "version": "1"},
            "unknown_files": [],
            "metrics": {"wer": metric(4.0)}, "recordings": {"wer": metric(2.0)}} | more  # fmt: skip


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.opened, self.words = [], []

    def handle_starttag(self, tag, attrs):
        self.opened.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def parse(html):
    parser = Tags()
    parser.feed(html)
    return parser


def test_the_page_tells_values_intervals_denominators_setting_and_recogniser():
    text = " ".join(parse(evaluation_page(scores(), [row()])).words)
    expected = ("mini on test-90s", "4.00", "1.50 to 9.25", "3 of 4", "the first seconds", "WER (pocketsphinx), %",
                "5 utterances", "1 missing", "2 unfinished", "10.00 (recording 3.00)")  # fmt: skip
    assert [told for told in expected if told not in text] == []


def test_the_page_says_that_outputs_are_synthetic_and_names_strange_files():
    strangers = [f"stranger{index}.wav" for index in range(7)]
    text = " ".join(parse(evaluation_page(scores(unknown_files=strangers), [row()])).words)
    assert "Outputs are synthetic" in text
    assert "stranger4.wav and 2 more" in text and "stranger5.wav" not in text


def test_every_table_names_its_setting():
    parsed = parse(evaluation_page(scores(metrics={"wer": metric(4.0, totals=dict.fromkeys(
        ("substitutions", "insertions", "deletions", "words"), 1))}), [row()]))
    tables = sum(tag == "table" for tag, _ in parsed.opened)
    assert tables == 3 == " ".join(parsed.words).count("Setting: continuation.")


def test_no_text_of_the_user_becomes_a_tag():
    evil_row = row(EVIL, text=EVIL, status="failed", reason=EVIL, speaker=EVIL, stop_reason=EVIL,
                   output={"heard": EVIL, "metrics": wer(100.0)}, players={EVIL: f"audio/{EVIL}.wav"})  # fmt: skip
    evil_scores = scores(
        setting=EVIL, setting_in_words=EVIL, seed=EVIL, left_out={EVIL: 1}, system={"name": EVIL, "what": EVIL},
        metrics={"wer": metric(4.0, EVIL, reasons={EVIL: 1}, better=EVIL)}, recogniser={"name": EVIL, "version": EVIL},
    )  # fmt: skip
    html = evaluation_page(evil_scores, [evil_row])
    parsed = parse(html)
    tags = {tag for tag, _ in parsed.opened}
    assert "script" not in tags and "<script" not in html
    assert EVIL in "".join(parsed.words)


def test_the_page_needs_nothing_from_elsewhere_but_the_audio_beside_it():
    html = evaluation_page(scores(), [row(players={"output": "audio/a b#1.wav"})])
    sources = [attrs["src"] for _, attrs in parse(html).opened if "src" in attrs]
    assert [s for s in sources if not s.startswith("data:image/png;base64,")] == ["audio/a%20b%231.wav"]
    assert not re.search(r"https?://", html) and "<link" not in html


def test_values_that_are_missing_are_told_with_their_reasons_and_not_as_zero():
    silent = metric(None, "PESQ", interval=None, denominator=0, total=2, reasons={"the output is silent": 2})
    text = " ".join(parse(evaluation_page(scores(metrics={"pesq": silent}, recordings={}), [row()])).words)
    assert "2: the output is silent" in text and "0 of 2" in text and "0.00" not in text


def test_what_has_no_output_is_shown_first_and_then_the_highest_error_rates():
    rows = [row("good", 1.0), row("none", 100.0, "missing"), row("bad", 250.0), row("unjudged", None, "refused")]
    assert [each["id"] for each in worst_first(rows)] == ["none", "bad", "good", "unjudged"]
    assert [each["id"] for each in worst_first(rows, most=2)] == ["none", "bad"]


def test_a_long_list_is_cut_and_says_so():
    rows = [row(f"u{index}", float(index)) for index in range(90)]
    parsed = parse(evaluation_page(scores(), rows))
    assert sum(tag == "article" for tag, _ in parsed.opened) == 40
    assert "The 40 worst of 90 utterances" in " ".join(parsed.words)


def test_a_set_without_any_output_has_a_page_too():
    rows = [row("a", 100.0, "missing"), row("b", None, "refused", output={"heard": None, "metrics": {}})]
    refused = {"id": "c", "text": "", "status": "refused", "reason": "empty", "finished": False, "stop_reason": "",
               "seconds": None, "prompt_seconds": None, "reference_seconds": None}  # fmt: skip
    assert "refused: empty" in " ".join(parse(evaluation_page(scores(), [*rows, refused])).words)


def decoded(png):
    from matplotlib.image import imread

    return imread(io.BytesIO(png))


@pytest.mark.parametrize("count", [1, 2, 50])
def test_plots_are_pictures_for_any_number_of_utterances(count):
    seconds = np.linspace(1, 90, count).tolist()
    drawn = [plots.wer_against_duration(seconds, seconds, seconds), plots.durations(seconds, seconds),
             plots.duration_distributions(seconds, seconds)]  # fmt: skip
    for png in drawn:
        picture = decoded(png)
        assert picture.shape[1] > 400 and picture[..., :3].min() < 0.5


def test_groups_hold_neighbouring_lengths_and_all_points():
    x = np.array([5.0, 1, 3, 2, 4, 6, 8, 7])
    means_x, means_y = plots.grouped_means(x, x * 10, most_groups=2, least=2)
    np.testing.assert_allclose(means_x, [2.5, 6.5])
    np.testing.assert_allclose(means_y, [25, 65])


def test_importing_the_reports_does_not_load_matplotlib():
    code = "import sys, stages.reports.evaluation; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cells_and_paths_are_escaped():
    assert "&lt;b&gt;" in table("c", ["h"], [["<b>"]])
    assert "%22" in players({"x": 'a".wav'})
