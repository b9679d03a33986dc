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


METRICS = {"wer": {"label": "WER (pocketsphinx), %", "unit": "%", "better": "lower", "digits": 2},
           "pesq": {"label": "PESQ", "unit": "", "better": "higher", "digits": 2}}  # fmt: skip


def score(value, **more):
    return {"value": value, "interval": [1.5, 9.25], "denominator": 3, "total": 4, "reasons": {}, "totals": {}} | more


def system(value, what="model: mini", **more):
    counts = {"scored": 3, "missing": 1, "failed": 0, "unfinished": 2}
    return {"what": what, "counts": counts, "left_out": {"missing: no file": 1}, "scores": {"wer": score(value)},
            "speakers": {}} | more  # fmt: skip


def entry(rate=10.0, status="scored", **more):
    spoken = status == "scored"
    return {"status": status, "reason": "" if spoken else "no file", "audio": None, "finished": spoken,
            "stop_reason": "end", "seconds": 2.0 if spoken else None, "prompt_seconds": 0.0, "heard": "hallo",
            "metrics": {"wer": {"value": rate, "reason": ""}}} | more  # fmt: skip


def row(name="a", rate=10.0, status="scored", **more):
    return {"id": name, "text": "hello", "refused": "", "reference_seconds": 2.5,
            "systems": {"recordings": entry(3.0), "mini": entry(rate, status)}} | more  # fmt: skip


def refused(name, why="empty"):
    return row(name, refused=why, systems={}, reference_seconds=None)


def scores(**more):
    return {"setting": "continuation", "setting_in_words": "the first seconds", "seed": 7, "refused": {"empty": 1},
            "set": {"name": "test-90s", "path": "data/test-90s", "split": "test", "utterances": 5, "evaluated": 4},
            "recogniser": {"name": "pocketsphinx", "version": "5"}, "normaliser": {"name": "whisper", "version": "1"},
            "metrics": METRICS, "differences": [],
            "systems": {"recordings": system(2.0, "recordings"), "mini": system(4.0)}} | more  # fmt: skip


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
    text = " ".join(parse(evaluation_page(scores(), [row()])).words).replace("\u00a0", " ")
    expected = ("mini on test-90s", "4.00 (1.50 to 9.25) [3 of 4]", "the first seconds", "WER (pocketsphinx), % ↓",
                "5 utterances", "1 of them refused", "1 missing", "2 unfinished", "WER (pocketsphinx), %: 10.00")
    assert [told for told in expected if told not in text] == []


def test_the_page_says_that_outputs_are_synthetic_and_names_strange_files():
    strangers = [f"stranger{index}.wav" for index in range(7)]
    systems = {"recordings": system(2.0), "theirs": system(4.0, unknown_files=strangers)}
    page = evaluation_page(scores(systems=systems), [])
    text = " ".join(parse(page).words)
    assert "Outputs are synthetic" in text
    assert "stranger4.wav and 2 more" in text and "stranger5.wav" not in text


def tables(html):
    """Return caption -> rows of cells."""
    found = {}
    for part in re.findall(r"<table.*?</table>", html, re.DOTALL):
        caption = re.search(r"<caption>(.*?)</caption>", part).group(1)
        rows = re.findall(r"<tr>(.*?)</tr>", part)
        found[caption] = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", each) for each in rows]
    return found


def comparison():
    """Scores of two codecs and two speakers."""
    totals = dict.fromkeys(("substitutions", "insertions", "deletions", "words"), 1)
    difference = {"metric": "wer", "value": 1.5, "interval": [-0.25, 3.0], "pairs": 4}
    of_speakers = {speaker: {"wer": score(value)} for speaker, value in (("ann", 1.0), ("bob", 7.0))}
    systems = {"recordings": system(2.0, scores={"wer": score(2.0, totals=totals)}, speakers=of_speakers),
               "teacher": system(4.0, scores={"wer": score(4.0), "pesq": score(3.5)}, speakers=of_speakers),
               "student": system(5.5, scores={"wer": score(5.5), "pesq": score(3.25)}, speakers=of_speakers)}
    return scores(systems=systems, differences=[{"system": "student", "against": "teacher", **difference}])


def test_every_table_names_its_setting():
    found = tables(evaluation_page(comparison(), []))
    assert len(found) == 5 and all(caption.startswith("Setting: continuation.") for caption in found)


def test_systems_are_rows_the_recordings_first_and_metrics_are_columns():
    header, *rows = next(iter(tables(evaluation_page(comparison(), [])).values()))
    assert header == ["system", "WER (pocketsphinx), %\u00a0↓", "PESQ\u00a0↑"]
    assert [cells[0] for cells in rows] == ["recordings", "teacher", "student"]
    assert rows[0][2] == "–" and rows[2][2].startswith("3.25 ")


def test_differences_are_shown_with_their_sign_and_interval():
    (_, *rows), = (rows for caption, rows in tables(evaluation_page(comparison(), [])).items() if "paired" in caption)
    assert rows == [["student", "teacher", "+1.50 (-0.25\u00a0to\u00a0+3.00)"]]


def test_every_speaker_has_a_row_for_every_system():
    (_, *rows), = (rows for caption, rows in tables(evaluation_page(comparison(), [])).items() if "speaker" in caption)
    assert [cells[:2] for cells in rows] == [[speaker, name] for speaker in ("ann", "bob")
                                             for name in ("recordings", "teacher", "student")]
    assert rows[5][2].startswith("7.00")


def test_no_text_of_the_user_becomes_a_tag():
    said = entry(100.0, "failed", reason=EVIL, heard=EVIL, stop_reason=EVIL)
    evil_row = row(EVIL, text=EVIL, speaker=EVIL, systems={"recordings": entry(), EVIL: said},
                   players={EVIL: f"audio/{EVIL}.wav"})  # fmt: skip
    evil_system = system(4.0, EVIL, left_out={EVIL: 1}, scores={"wer": score(4.0, reasons={EVIL: 1})},
                         speakers={EVIL: {"wer": score(4.0)}}, unknown_files=[EVIL])  # fmt: skip
    difference = {"system": EVIL, "against": EVIL, "metric": "wer", "value": 1.0, "interval": None, "pairs": 1}
    evil_scores = scores(
        setting=EVIL, setting_in_words=EVIL, seed=EVIL, refused={EVIL: 1}, differences=[difference],
        metrics={"wer": METRICS["wer"] | {"label": EVIL}}, recogniser={"name": EVIL, "version": EVIL},
        systems={"recordings": system(2.0), EVIL: evil_system},
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
    silent = score(None, interval=None, denominator=0, total=2, reasons={"the output is silent": 2})
    systems = {"recordings": system(2.0), "mini": system(4.0, scores={"wer": score(4.0), "pesq": silent})}
    found = tables(evaluation_page(scores(systems=systems), []))
    header, *_ = next(iter(found.values()))
    assert header == ["system", "WER (pocketsphinx), %\u00a0↓"]
    assert ["mini", "PESQ", "the output is silent", "2"] in list(found.values())[-1]


def test_what_has_no_output_is_shown_first_and_then_the_highest_error_rates():
    rows = [row("good", 1.0), row("none", 100.0, "missing"), row("bad", 250.0), refused("unjudged")]
    assert [each["id"] for each in worst_first(rows)] == ["none", "bad", "good", "unjudged"]
    assert [each["id"] for each in worst_first(rows, most=2)] == ["none", "bad"]


def test_a_long_list_is_cut_and_says_so():
    rows = [row(f"u{index}", float(index)) for index in range(90)]
    parsed = parse(evaluation_page(scores(), rows))
    assert sum(tag == "article" for tag, _ in parsed.opened) == 40
    assert "The 40 worst of 90 utterances" in " ".join(parsed.words)


def test_a_set_without_any_output_has_a_page_too():
    rows = [row("a", 100.0, "missing"), row("b", None, "missing"), refused("c")]
    assert "refused: empty" in " ".join(parse(evaluation_page(scores(), rows)).words)


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
