"""The page of an evaluation: tables in the paper's form, plots of all systems, players, and nothing that runs."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from stages.audio.io import write_audio
from stages.reports.evaluation import evaluation_page
from stages.reports.evaluation_items import EMBEDDED_BYTES, best_items, embed, to_mp3, worst_items
from stages.reports.evaluation_plots import longest_row
from stages.reports.page import Cell, player, table

EVIL = "</p><script>alert('x')</script>\"&'"
RATE = 16_000
METRICS = {"wer": {"label": "WER (pocketsphinx), %", "unit": "%", "better": "lower", "digits": 2},
           "pesq": {"label": "PESQ", "unit": "", "better": "higher", "digits": 2},
           "fillers": {"label": "fillers", "unit": "", "better": "neither", "digits": 1}}  # fmt: skip


def score(value, **more):
    return {"value": value, "interval": [1.5, 9.25], "seed_interval": None, "denominator": 3, "total": 4,
            "reasons": {}, "totals": {}} | more  # fmt: skip


def system(value, what="model: mini", **more):
    counts = {"scored": 3, "missing": 1, "failed": 0, "unfinished": 2}
    return {"what": what, "counts": counts, "left_out": {"missing: no file": 1}, "scores": {"wer": score(value)},
            "speakers": {}} | more  # fmt: skip


def entry(rate=10.0, status="scored", **more):
    spoken = status == "scored"
    return {"status": status, "reason": "" if spoken else "no file", "audio": None, "finished": spoken,
            "stop_reason": "end", "seconds": 2.0 if spoken else None, "prompt_seconds": 0.0,
            "heard": "hallo" if spoken else None, "heard_words": [],
            "metrics": {"wer": {"value": rate, "reason": ""}}} | more  # fmt: skip


def row(name="a", rate=10.0, status="scored", **more):
    return {"id": name, "take": 1, "text": "hello", "refused": "", "reference_seconds": 2.5, "prompt_audio": None,
            "speaker": "ann", "systems": {"recordings": entry(3.0), "mini": entry(rate, status)}} | more  # fmt: skip


def refused(name, why="empty"):
    return row(name, refused=why, systems={}, reference_seconds=None)


def scores(**more):
    return {"setting": "continuation", "setting_in_words": "the first seconds", "seed": 7, "refused": {"empty": 1},
            "set": {"name": "test-90s", "path": "data/test-90s", "split": "test", "utterances": 5, "evaluated": 4},
            "recogniser": {"name": "pocketsphinx", "version": "5"}, "language": "en",
            "normaliser": {"name": "whisper", "version": "1"}, "metrics": METRICS, "differences": [], "classes": {},
            "systems": {"recordings": system(2.0, "recordings"), "mini": system(4.0)}} | more  # fmt: skip


def comparison(**more):
    """Scores of two codecs and two speakers."""
    totals = dict.fromkeys(("substitutions", "insertions", "deletions"), 1) | {"words": 8}
    difference = {"metric": "wer", "value": 1.5, "interval": [-0.25, 3.0], "seed_interval": None, "pairs": 4}
    of_speakers = {speaker: {"wer": score(value)} for speaker, value in (("ann", 1.0), ("bob", 7.0))}
    systems = {"recordings": system(2.0, scores={"wer": score(2.0, totals=totals)}, speakers=of_speakers),
               "teacher": system(4.0, scores={"wer": score(4.0), "pesq": score(3.25)}, speakers=of_speakers),
               "student": system(5.5, scores={"wer": score(5.5), "pesq": score(3.5)}, speakers=of_speakers)}
    return scores(systems=systems, differences=[{"system": "student", "against": "teacher", **difference}], **more)


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.opened, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.opened.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


class Tables(HTMLParser):
    """caption -> rows of cells, each a list of its texts; `strong` are the texts in bold."""

    def __init__(self, html):
        super().__init__()
        self.found, self.strong, self.tags = {}, [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([])
            self.heads = dict(attrs).get("scope")

    def handle_endtag(self, tag):
        self.tags.reverse()
        self.tags.remove(tag)
        self.tags.reverse()
        if tag == "table":
            self.found[self.caption] = self.rows

    def handle_data(self, data):
        if "caption" in self.tags:
            self.caption += data
        elif {"td", "th"} & set(self.tags):
            self.rows[-1][-1].append(data)
            if "b" in self.tags:
                self.strong.append(data)


def table_of(html, begins):
    (rows,) = (rows for caption, rows in Tables(html).found.items() if caption.startswith(begins))
    return rows


# tables


def test_the_page_tells_values_intervals_denominators_setting_and_recogniser():
    text = Tags(evaluation_page(scores(), [row()])).text
    expected = ("mini on test-90s", "4.00 1.50 to 9.25", "3 of 4 outputs", "the first seconds",
                "WER (pocketsphinx), % ↓", "5 utterances", "1 of them refused", "1 missing",
                "2 unfinished", "WER 10.00 %", "whisper, version 1")
    assert [told for told in expected if told not in text] == []


def test_under_every_table_of_scores_stand_recogniser_and_normaliser_with_versions():
    html = evaluation_page(comparison(classes={"0-4": {"teacher": {"wer": score(1.0)}},
                                               "4-10": {"teacher": {"wer": score(2.0)}}}), [])  # fmt: skip
    captions = re.findall("<caption><span>(.*?)</span>", html)
    notes = re.findall('</table></div><p class="soft">(.*?)</p>', html)
    assert len(captions) == 6 and all("continuation" in caption for caption in captions)
    assert len(notes) == 5, "under the table of reasons none is needed"
    for note in notes:
        assert re.search("Heard by pocketsphinx.*, version 5; text normalised by whisper, version 1", note)


def test_systems_are_rows_the_recordings_first_and_metrics_are_columns():
    header, *rows = table_of(evaluation_page(comparison(), []), "Scores,")
    assert [cell[0] for cell in header] == ["system", "WER (pocketsphinx), %\u00a0↓", "PESQ\u00a0↑"]
    assert [cells[0][0] for cells in rows] == ["recordings", "teacher", "student"]
    assert rows[0][2] == ["–"] and rows[2][2][0] == "3.50"


def test_the_best_system_of_each_column_is_bold_and_the_recordings_are_no_competitor():
    html = evaluation_page(comparison(), [])
    part = html[html.index("Scores, continuation") : html.index("Heard by")]
    assert re.findall("<b>(.*?)</b>", part) == ["4.00", "3.50"]
    alone = evaluation_page(scores(), [])
    assert "<b>" not in alone, "one system has nothing to be better than"


def test_a_metric_that_is_neither_better_high_nor_low_has_no_arrow_and_no_winner():
    both = {name: system(4.0, scores={"fillers": score(value)}) for name, value in (("a", 3.0), ("b", 4.0))}
    header, *_ = table_of(html := evaluation_page(scores(systems=both), []), "Further measures")
    assert header[1] == ["fillers"] and "<b>3.0" not in html and "<b>4.0" not in html


def test_denominators_stand_in_the_cells_where_they_differ():
    systems = {"recordings": system(2.0, scores={"wer": score(2.0, denominator=4)}), "mini": system(4.0)}
    _, recordings, mini = table_of(evaluation_page(scores(systems=systems), []), "Scores")
    assert recordings[1][-1] == "n\u00a0=\u00a04" and mini[1][-1] == "n\u00a0=\u00a03 of 4"


def test_intervals_over_seeds_are_told_apart_from_those_over_texts():
    systems = {"mini": system(4.0, scores={"wer": score(4.0, seed_interval=[3.5, 4.5])})}
    _, mini = table_of(evaluation_page(scores(systems=systems, seeds=3), []), "Scores")
    assert mini[1][1:3] == ["1.50 to 9.25", "seeds: 3.50 to 4.50"]


def test_differences_are_shown_with_their_sign_and_interval_and_are_bold_where_it_does_not_hold_0():
    compared = comparison()
    sure = compared["differences"][0] | {"against": "recordings", "value": -2.0, "interval": [-3.0, -1.0]}
    compared["differences"].append(sure)
    parsed = Tables(evaluation_page(compared, []))
    _, *rows = parsed.found["Differences, continuation"]
    assert rows == [[["student"], ["teacher"], ["+1.50", "−0.25 to +3.00"]],
                    [["student"], ["recordings"], ["−2.00", "−3.00 to −1.00"]]]  # fmt: skip
    assert "−2.00" in parsed.strong and "+1.50" not in parsed.strong


def test_classes_of_duration_are_columns_and_one_alone_has_no_table():
    classes = {"4-10": {"recordings": {"wer": score(2.0)}, "mini": {"wer": score(3.0)}},
               "180+": {"mini": {"wer": score(44.0, denominator=1)}}}  # fmt: skip
    rows = table_of(evaluation_page(scores(classes=classes), []), "WER (pocketsphinx), %\u00a0↓ by duration")
    assert rows[0] == [["system"], ["4–10 s"], ["180+ s"]]
    assert rows[1][2] == ["–"] and rows[2][2][0] == "44.00"
    assert "by duration of" not in evaluation_page(scores(classes={"4-10": classes["4-10"]}), [])


def test_every_speaker_has_a_row_for_every_system_on_a_click():
    html = evaluation_page(comparison(), [])
    _, *rows = table_of(html, "Scores of each speaker")
    assert [[cell[0] for cell in cells[:2]] for cells in rows] == [
        [speaker, name] for speaker in ("ann", "bob") for name in ("recordings", "teacher", "student")]
    assert rows[5][2][0] == "7.00"
    assert re.search("<details><summary>Scores of 2 speakers</summary><div[^>]*><table", html)


def test_errors_are_counted_in_words_or_in_characters():
    _, recordings = table_of(evaluation_page(comparison(), []), "Words heard otherwise")
    assert recordings == [["recordings"], ["1", "12.50 %"], ["1", "12.50 %"], ["1", "12.50 %"], ["8"]]
    totals = {"substitutions": 1, "insertions": 0, "deletions": 2, "characters": 10}
    chinese = scores(metrics={"cer": METRICS["wer"] | {"label": "CER"}}, language="zh",
                     systems={"mini": system(4.0, scores={"cer": score(30.0, totals=totals)})})  # fmt: skip
    spoken = row(text="你好", systems={"mini": entry(heard="你号", metrics={"cer": {"value": 50.0, "reason": ""}})})
    html = evaluation_page(chinese, [spoken])
    assert table_of(html, "Characters heard otherwise")[1][3] == ["2", "20.00 %"]
    assert "worst of mini: CER 50.00 %" in Tags(html).text and "好→号" in Tags(html).text


def test_values_that_are_missing_are_told_with_their_reasons_and_not_as_zero():
    silent = score(None, interval=None, denominator=0, total=2, reasons={"the output is silent": 2})
    systems = {"recordings": system(2.0), "mini": system(4.0, scores={"wer": score(4.0), "pesq": silent})}
    html = evaluation_page(scores(systems=systems), [])
    assert [cell[0] for cell in table_of(html, "Scores")[0]] == ["system", "WER (pocketsphinx), %\u00a0↓"]
    assert [["mini"], ["PESQ"], ["the output is silent"], ["2"]] in table_of(html, "Every reason")


def test_a_listening_test_has_its_opinions_on_the_page_and_says_who_was_left_out():
    def opinion(value):
        return {"value": value, "interval": [3.0, 4.0], "listeners": 3, "utterances": 5, "ratings": 15}

    nobody = {"value": None, "interval": None, "listeners": 0, "utterances": 0, "ratings": 0}
    test = {"systems": {"recordings": {"qmos": opinion(4.5), "smos": nobody},
                        "mini": {"qmos": opinion(3.5), "smos": opinion(3.25)}},
            "listeners": 3, "ratings": 45, "unfinished": [], "excluded": [{"file": "x", "reason": "y"}],
            "differences": [{"system": "mini", "against": "recordings", "score": "qmos", **opinion(-1.0)}]}  # fmt: skip
    html = evaluation_page(scores(listening=test), [])
    _, recordings, mini = table_of(html, "Listening test")
    assert [cells[1][0] for cells in (recordings, mini)] == ["4.50", "3.50"]
    assert (recordings[2], mini[2][0]) == (["–"], "3.25")
    assert "by 3 listeners in 45 ratings" in Tags(html).text and "left out: 1" in Tags(html).text
    assert "Listening test" not in evaluation_page(scores(), [])


def test_strange_files_are_named():
    strangers = [f"stranger{index}.wav" for index in range(7)]
    text = Tags(evaluation_page(scores(systems={"theirs": system(4.0, unknown_files=strangers)}), [])).text
    assert "stranger4.wav and 2 more" in text and "stranger5.wav" not in text


# items


def test_what_has_no_output_is_shown_first_and_then_the_highest_error_rates():
    rows = [row("good", 1.0), row("none", 100.0, "missing"), row("bad", 250.0), row("fine", 0.0), refused("unjudged")]
    shown = worst_items(scores(), rows)
    assert [(each.row["id"], each.why) for each in shown] == [
        ("none", "worst of mini: missing"), ("bad", "worst of mini: WER 250.00\u00a0%"),
        ("good", "worst of mini: WER 1.00\u00a0%")]  # fmt: skip
    assert [each.row["id"] for each in worst_items(scores(), rows, most=2)] == ["none", "bad"]


def test_every_system_has_its_turn_among_the_worst_and_an_utterance_is_shown_once():
    rows = [row(name, systems={"one": entry(one), "two": entry(two)})
            for name, one, two in (("a", 90.0, 5.0), ("b", 80.0, 40.0), ("c", 70.0, 0.0))]  # fmt: skip
    rows.append(row("a", take=2, systems={"one": entry(95.0)}))
    shown = worst_items(scores(systems={"one": system(1.0), "two": system(1.0)}), rows)
    assert [(each.row["id"], each.row["take"], each.why.split(":")[0]) for each in shown] == [
        ("a", 2, "worst of one"), ("b", 1, "worst of two"), ("c", 1, "worst of one")]


def test_the_best_are_of_low_rates_complete_and_rather_long():
    rows = [row("short", 0.0), row("long", 0.0, reference_seconds=60.0), row("none", 100.0, "failed"), row("bad", 50.0)]
    assert [each.row["id"] for each in best_items(scores(), rows, most=3)] == ["long", "short", "bad"]
    worst = worst_items(scores(), rows, most=2)
    assert [each.row["id"] for each in best_items(scores(), rows, but=worst)] == ["long", "short"]


def test_of_a_small_set_a_third_is_left_for_the_best():
    parsed = Tags(evaluation_page(scores(), [row(f"u{index}", 10.0 + index) for index in range(6)]))
    worst, best = parsed.text[parsed.text.index("Worst 4 of 6 utterances") :].split("Best 2 of 6 utterances")
    assert [f"u{index}" in worst for index in range(6)] == [False, False, True, True, True, True]
    assert [f"u{index}" in best for index in range(6)] == [True, True, False, False, False, False]


def test_systems_that_say_nothing_anew_in_a_further_take_stand_beside_it():
    rows = [row("a", 10.0), row("a", 60.0, take=2, systems={"mini": entry(60.0)})]
    text = Tags(evaluation_page(scores(), rows)).text
    item = text[text.index("worst of mini: WER 60.00 %") :]
    assert re.search(r"recordings 2\.0 s · WER 3\.00 %.*mini, take 2 of 2 2\.0 s · WER 60\.00 %", item)


def test_a_long_list_is_cut_and_says_so():
    parsed = Tags(evaluation_page(scores(), [row(f"u{index}", float(index)) for index in range(90)]))
    assert sum(tag == "article" for tag, _ in parsed.opened) == 12
    assert "8 of 90 utterances" in parsed.text and "Outputs are synthetic" in parsed.text


def test_a_set_without_any_output_or_recording_has_a_page_too():
    rows = [row("a", 100.0, "missing"), row("b", None, "missing", reference_seconds=None,
                                            systems={"mini": entry(None, "missing")}), refused("c")]  # fmt: skip
    text = Tags(evaluation_page(scores(systems={"mini": system(None)}), rows)).text
    assert "1 utterances were refused c empty" in text and "missing: no file" in text
    assert longest_row([refused("c")]) is None


# sounds


def tone(seconds, hertz=300.0, rate=RATE):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def with_sounds(folder, name="a", seconds=1.0):
    """A row whose prompt, recording and output lie in `folder`."""
    paths = {"prompt": f"prompts/{name}.wav", "recordings": f"recordings/{name}.wav", "mini": f"audio/mini/{name}.wav"}
    for path in paths.values():
        write_audio(folder / path, tone(seconds), RATE)
    systems = {system: entry(10.0, audio=paths[system], seconds=seconds) for system in ("recordings", "mini")}
    return row(name, systems=systems, prompt_audio=paths["prompt"], reference_seconds=seconds)


def sources(html):
    return [attributes["src"] for tag, attributes in Tags(html).opened if tag == "audio"]


def test_sounds_are_part_of_the_page_and_are_what_lies_on_disk(tmp_path):
    html = evaluation_page(scores(), [with_sounds(tmp_path)], tmp_path)
    assert len(sources(html)) == 3
    for source in sources(html):
        kind, _, data = source.partition(",")
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        assert kind == "data:audio/mpeg;base64" and rate == RATE
        assert np.abs(heard).max() == pytest.approx(0.3, rel=0.1) and len(heard) >= RATE


def test_too_many_sounds_stay_beside_the_page_whole_items_at_once(tmp_path):
    rows = [with_sounds(tmp_path, name, seconds) for name, seconds in (("a", 2.0), ("b", 4.0), ("c", 1.0))]
    items = [[each["prompt_audio"], each["systems"]["mini"]["audio"]] for each in rows]
    found = embed(tmp_path, items, limit=32_000)
    assert set(found) == {*items[0], *items[2]} and 0 < sum(map(len, found.values())) <= 32_000
    assert EMBEDDED_BYTES * 4 / 3 < 15e6, "a page that can be mailed"
    assert sources(evaluation_page(scores(), rows))[0].endswith(".wav")


@pytest.mark.parametrize("rate", [8_000, 17_000, 48_000])
def test_every_sample_rate_becomes_one_that_browsers_play(tmp_path, rate):
    write_audio(tmp_path / "a.wav", tone(0.5, rate=rate), rate)
    heard, played = soundfile.read(io.BytesIO(to_mp3(tmp_path / "a.wav")))
    assert played in (8_000, 22_050, 24_000) and abs(played - min(rate, 24_000)) < 6_000
    assert np.abs(heard).max() > 0.2


def test_waveforms_lie_over_one_time_and_sentences_have_colours(tmp_path):
    spoken = with_sounds(tmp_path, seconds=4.0) | {"text": "Hello there. Good bye."}
    words = [["hello", 0.2, 0.8], ["there", 1.0, 1.6], ["good", 2.4, 3.0], ["bye", 3.0, 3.6]]
    spoken["systems"]["mini"]["heard_words"] = words
    html = evaluation_page(scores(), [spoken], tmp_path)
    drawn = re.findall('<svg class="waveform".*?</svg>', html)
    assert len(drawn) == 3
    assert [re.findall("look-([0-9])", svg) for svg in drawn] == [["0"], ["0"], ["1", "2"]]
    border = [float(x) for x in re.findall(r"M([0-9.]+) ", drawn[2])]
    assert border == [0.0, pytest.approx(900 * 2.0 / 4.0)]
    assert "Waveforms" not in evaluation_page(scores(), [spoken]), "without a folder no sound is read"


# safety


def test_no_text_of_the_user_becomes_a_tag(tmp_path):
    said = entry(100.0, "failed", reason=EVIL, heard=EVIL, stop_reason=EVIL)
    spoken = entry(50.0, heard=EVIL, heard_words=[[EVIL, 0.0, 1.0]], audio=f"audio/{EVIL}.wav")
    rows = [row(EVIL, text=EVIL, speaker=EVIL, systems={"recordings": entry(), EVIL: said}),
            row("b", text=EVIL, systems={"recordings": entry(), EVIL: spoken}), refused(EVIL, EVIL)]  # fmt: skip
    evil_system = system(4.0, EVIL, left_out={EVIL: 1}, scores={"wer": score(4.0, reasons={EVIL: 1})},
                         speakers={EVIL: {"wer": score(4.0)}}, unknown_files=[EVIL])  # fmt: skip
    difference = {"system": EVIL, "against": EVIL, "metric": "wer", "value": 1.0, "interval": None, "pairs": 1}
    points = [{"x": 1.0, "value": 0.5, "interval": None, "denominator": 1}]
    curve = {"label": EVIL, "x_label": EVIL, "y_label": EVIL, "caption": EVIL, "systems": {EVIL: points}}
    html = evaluation_page(scores(
        setting=EVIL, setting_in_words=EVIL, seed=EVIL, refused={EVIL: 1}, differences=[difference],
        metrics={"wer": METRICS["wer"] | {"label": EVIL}}, recogniser={"name": EVIL, "version": EVIL},
        protocol={"name": EVIL, "paper": EVIL, "settings": {}, "notes": [EVIL]}, curves={EVIL: curve},
        classes={"4-10": {EVIL: {"wer": score(4.0)}}, "10-30": {EVIL: {"wer": score(4.0)}}},
        systems={"recordings": system(2.0), EVIL: evil_system},
    ), rows, tmp_path)  # fmt: skip
    assert "script" not in {tag for tag, _ in Tags(html).opened} and "<script" not in html
    assert EVIL in "".join(Tags(html).words)


def test_newlines_and_markup_of_other_kinds_in_names_are_text():
    name = "two\nlines [/x] {0} %s"
    text = Tags(evaluation_page(scores(systems={name: system(4.0)}), [row(systems={name: entry(50.0)})])).text
    assert "two lines [/x] {0} %s: WER 50.00 %" in text


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    html = evaluation_page(comparison(), [with_sounds(tmp_path)], tmp_path)
    places = [attributes[name] for _, attributes in Tags(html).opened for name in ("src", "href") if name in attributes]
    assert places and all(place.startswith(("data:", "#")) for place in places)
    assert not re.search(r"https?://", html) and "<link" not in html and "<script" not in html
    anchors = {attributes["id"] for _, attributes in Tags(html).opened if "id" in attributes}
    assert {place[1:] for place in places if place.startswith("#")} == anchors


def test_pictures_tables_and_players_say_what_they_are(tmp_path):
    html = evaluation_page(comparison(), [with_sounds(tmp_path)], tmp_path)
    for tag, attributes in Tags(html).opened:
        if tag == "audio" or attributes.get("role") in ("img", "region"):
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert html.count("<table") == html.count("<caption") > 3


def test_importing_the_reports_loads_no_library_for_plots():
    code = "import sys, stages.reports.evaluation; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cells_and_paths_are_escaped():
    cells = ["<b>", Cell("<b>", strong=True), Cell("", ("<b>",))]
    assert table("<b>", ["<b>"] * 3, [cells], note="<b>").count("&lt;b&gt;") == 9
    assert table("c", ["h"], [[Cell("<b>", strong=True)]]).count("<b>") == 1
    assert 'src="a%22%20b%231.wav"' in player("x", 'a" b#1.wav')
