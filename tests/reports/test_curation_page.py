"""The page of a curation says what became of every second, and lets some clips be heard."""

from __future__ import annotations

import re

import numpy as np
import pytest
import soundfile

from stages.artifacts import storage
from stages.reports.curation import write_curation_report


@pytest.fixture
def curated(tmp_path):
    """Eight clips in one shard, and what was left out."""
    rows = []
    tone = 0.1 * np.sin(np.arange(8 * 4 * 16_000) / 20).astype(np.float32)
    (tmp_path / "shards").mkdir()
    soundfile.write(tmp_path / "shards" / "00000.flac", tone, 16_000)
    for index in range(8):
        rows.append({"id": f"ep-{index:04d}", "audio": "shards/00000.flac", "start": 4.0 * index, "duration": 4.0,
                     "speaker": "ep-A", "text": f"said <{index}> & so on", "split": "test" if index > 5 else "train",
                     "source": "ep.mp3", "source_start": 10.0 * index, "license": "CC BY 4.0"})
    storage.write_jsonl(tmp_path / "manifest.jsonl", rows)
    storage.write_jsonl(tmp_path / "rejected.jsonl", [
        {"id": "ep", "source": "ep.mp3", "reason": "NO_SPEECH", "detail": "0.00 to 8.00 s"},
        {"id": "ep-0009", "source": "ep.mp3", "reason": "DUPLICATE_TEXT", "detail": "93 % of it is in `one.mp3`"}])
    storage.write_json(tmp_path / "statistics.json", {
        "layout": "recordings", "inputs": 10, "recordings": 1, "clips": 8, "hours": 32 / 3600, "words": 32,
        "mean_seconds": 4.0, "sd_seconds": 0.0, "longest": {"id": "ep-0000", "seconds": 4.0}, "speakers": {"ep-A": {}},
        "sample_rates": {"8000": 2, "16000": 1}, "warnings": {"LOW_BIT_DEPTH": 2},
        "reasons": {"DUPLICATE_TEXT": 1, "NO_SPEECH": 1}, "input_seconds": 48.0, "kept_seconds": 32.0,
        "dropped_seconds": {"DUPLICATE_TEXT": 4.0, "NO_SPEECH": 12.0},
        "table": [{"name": "train-90s", "clips": 6, "mean_seconds": 4.0, "sd_seconds": 0.0, "hours": 0.01, "words": 24,
                   "longest_seconds": 4.0, "audio_rate": 8, "max_audio_tokens": 32, "max_text_tokens": 9,
                   "max_tokens": 41}]})
    return tmp_path


def page_of(folder, steps=None) -> str:
    return write_curation_report(folder, steps).read_text(encoding="utf-8")


def rows_of(html: str) -> list[list[str]]:
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    return [[re.sub("<[^>]*>", "", cell) for cell in row] for row in cells]


def test_kept_and_dropped_seconds_are_told_by_reason_the_costly_first(curated):
    rows = rows_of(page_of(curated))
    assert ["kept", "8", "32.0", "66.7 %", ""] in rows
    assert rows.index(["NO_SPEECH", "1", "12.0", "25.0 %", "ep: 0.00 to 8.00 s"]) < rows.index(
        ["DUPLICATE_TEXT", "1", "4.0", "8.3 %", "ep-0009: 93 % of it is in `one.mp3`"])
    assert ["train-90s", "6", "4.00 ± 0.00", "0.01", "24", "32†", "9", "41"] in rows


def test_sample_rates_and_odd_recordings_are_counted(curated):
    html = page_of(curated)
    assert "2 recordings of 8000 Hz, 1 recordings of 16000 Hz" in html and "2 LOW_BIT_DEPTH" in html


def test_five_clips_can_be_heard_with_their_words_source_and_licence(curated):
    html = page_of(curated)
    assert html.count("data:audio/mpeg;base64,") == 5
    assert len(set(re.findall(r"data:audio/mpeg;base64,([^\"]{2000})", html))) >= 2  # not all one stretch of the shard
    assert "said &lt;" in html and "CC BY 4.0" in html and "said <" not in html
    assert page_of(curated) == html


def test_durations_and_words_of_every_split_are_drawn_and_speeds_told(curated):
    html = page_of(curated, {"vad": {"done": 1, "dropped": 0, "hours": 0.0133, "hours_per_hour": 812.04},
                             "gate": {"done": 0, "dropped": 0, "hours": 0.0, "hours_per_hour": None}})
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == [
        "train: duration of 6 utterances, mean 4.0.", "train: words of 6 utterances, mean 5.0.",
        "test: duration of 2 utterances, mean 4.0.", "test: words of 2 utterances, mean 5.0."]
    assert ["vad", "1", "0", "0.01", "812.0"] in rows_of(html) and ["gate", "0", "0", "0.00", "–"] in rows_of(html)


def test_recordings_that_are_gone_are_said_to_be(curated):
    (curated / "shards" / "00000.flac").unlink()
    html = page_of(curated)
    assert "data:audio" not in html and html.count('class="bad"') == 5
