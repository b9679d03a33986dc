"""Evaluations in other languages and with recognisers of `transformers`: what reaches the tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tone_speech import RATE, make_hypotheses, make_set, read, settings, tone

from stages import evaluate
from stages.artifacts.storage import read_journal
from stages.audio.io import write_audio
from stages.errors import MissingModelError, UsageError
from stages.metrics.opinion import DNSMOS
from stages.speech import transcriber
from stages.speech.transcriber import Transcript

sys.path.insert(0, str(Path(__file__).parent / "speech"))
from tiny_recognisers import save_ctc

CHINESE = ("今天天气很好", "我们去公园吧")


class ChineseReader:
    """Hear the first text in low tones, and of the second one character less."""

    name, version = "chinese-reader", "1"

    def transcribe(self, waveform, sample_rate):
        return Transcript(CHINESE[0] if len(waveform) < 4.2 * sample_rate else CHINESE[1][:-1])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(transcriber._TRANSCRIBERS, "chinese-reader", ChineseReader)
    monkeypatch.setattr(DNSMOS, "unavailable", lambda metric: "left out of these tests")


@pytest.fixture
def listening_to(tmp_path):
    """Two utterances of Chinese, and what someone's system made of them: in the first half a character too much."""
    make_set(tmp_path / "set", count=2, text=lambda index: CHINESE[index])
    return str(make_hypotheses(tmp_path / "theirs", {"u0": (0, 4.0), "u1": (1, 4.5)}))


def test_where_words_have_no_spaces_the_tables_have_character_error_rates(tmp_path, listening_to):
    evaluate.run(settings(tmp_path, hypotheses=listening_to, transcriber="chinese-reader", language="zh"))
    scores = read(tmp_path)[0]
    assert "wer" not in scores["metrics"]
    assert scores["metrics"]["cer"]["label"] == "CER (chinese-reader), %"
    theirs = scores["systems"]["theirs"]["scores"]
    assert theirs["cer"]["value"] == pytest.approx(100 / 12) and theirs["cer"]["totals"]["characters"] == 12
    assert theirs["skipped_words"]["value"] == pytest.approx(100 / 12)
    assert theirs["fillers"]["value"] is None
    assert scores["language"] == "zh" and "letters split" in scores["normaliser"]["name"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "CER" in page and "letters split" in page and "skipped characters" in page


def test_another_language_scores_anew_what_was_heard_before(tmp_path, listening_to):
    for language in ("zh", "de"):
        evaluate.run(settings(tmp_path, hypotheses=listening_to, transcriber="chinese-reader", language=language))
    scores = read(tmp_path)[0]
    assert scores["systems"]["theirs"]["scores"]["wer"]["totals"]["words"] == 2
    assert len(read_journal(tmp_path / "out" / "transcripts.jsonl")) == 2  # sounds; the recordings are the same


def test_pocketsphinx_refuses_another_language_before_anything_is_made(tmp_path, listening_to):
    with pytest.raises(UsageError, match="hears English only"):
        evaluate.run(settings(tmp_path, hypotheses=listening_to, transcriber="pocketsphinx", language="zh"))


def test_a_model_of_transformers_listens_once_and_gives_the_column_its_name(tmp_path, listening_to):
    model = save_ctc(tmp_path / "models" / "tiny-ctc")
    config = settings(tmp_path, hypotheses=listening_to, transcriber=str(model), metrics=("wer",))
    evaluate.run(config)
    scores = read(tmp_path)[0]
    assert scores["metrics"]["wer"]["label"] == "WER (tiny-ctc), %"
    assert scores["recogniser"]["name"] == "tiny-ctc" and "transformers" in scores["recogniser"]["version"]
    heard = read_journal(tmp_path / "out" / "transcripts.jsonl")
    assert len(heard) == 2 and all(line["recogniser"] == "tiny-ctc" for line in heard)
    version = scores["recogniser"]["version"]
    evaluate.run(config.model_copy(update={"metrics": ("wer", "fillers", "repeated_words")}))
    scores = read(tmp_path)[0]
    assert scores["recogniser"]["version"] == version and "fillers" in scores["systems"]["theirs"]["scores"]
    assert len(read_journal(tmp_path / "out" / "transcripts.jsonl")) == 2


def test_a_recogniser_that_is_not_here_is_named_before_anything_is_made(tmp_path, listening_to):
    with pytest.raises(MissingModelError, match="no recogniser `openai/whisper-large-v3`") as caught:
        evaluate.run(settings(tmp_path, hypotheses=listening_to, transcriber="openai/whisper-large-v3"))
    assert "hf download openai/whisper-large-v3" in caught.value.hint
    assert not (tmp_path / "out" / "audio").exists()


def test_the_default_recogniser_is_marked_wherever_it_is_named(tmp_path):
    text = "the morning train leaves at seven"
    make_set(tmp_path / "set", count=1, text=lambda index: text)
    write_audio(tmp_path / "theirs" / "u0.wav", tone(0, 1.0), RATE)
    evaluate.run(settings(tmp_path, hypotheses=str(tmp_path / "theirs"), transcriber="pocketsphinx", metrics=("wer",)))
    for name in ("report.html", "scores.tex", "scores.csv"):
        page = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert page.count("pocketsphinx") == page.count("pocketsphinx, ranking only") > 0
    described = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["metrics"]["wer"]
    assert described["label"] == "WER (pocketsphinx, ranking only), %"
