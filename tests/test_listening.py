"""A listening test through `halle eval`: the page, its answers, and what becomes of them."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from stages import evaluate
from stages.artifacts.storage import verify_checksums
from stages.audio.io import write_audio
from stages.config.stage_configs import EvalConfig
from stages.errors import BadInputsError, UsageError

RATE = 8000
TEXTS = ["one two three", "four five six", "seven eight nine"]


def speak(path, index, pitch):
    time = np.arange(4 * RATE) / RATE
    write_audio(path, (0.3 * np.sin(2 * np.pi * (pitch + 10 * index) * time)).astype(np.float32), RATE)


@pytest.fixture
def settings(tmp_path):
    """Two systems that lie there already; of the second, one output is missing."""
    rows = []
    for index, text in enumerate(TEXTS):
        speak(tmp_path / "set" / f"u{index}.wav", index, 200)
        speak(tmp_path / "good" / f"u{index}.wav", index, 300)
        rows.append({"id": f"u{index}", "audio": f"u{index}.wav", "duration": 4.0, "text": text, "speaker": "ann",
                     "split": "test"})  # fmt: skip
    for index in range(2):
        speak(tmp_path / "poor" / f"u{index}.wav", index, 400)
    (tmp_path / "set" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def make(**changes):
        return EvalConfig(**{"set": str(tmp_path / "set"), "out": str(tmp_path / "out"), "device": "cpu",
                             "hypotheses": (str(tmp_path / "good"), str(tmp_path / "poor")),
                             "metrics": ("duration_distance",), "bootstrap_samples": 50} | changes)  # fmt: skip

    return make


def answer(tmp_path, listener, of=lambda system: 3):
    """Write what a listener exports who gives every sound of a system the same rating."""
    key = json.loads((tmp_path / "out" / "listening-key.json").read_text(encoding="utf-8"))
    ratings = [{"code": code, **dict.fromkeys(sound["questions"], of(sound["system"]))}
               for code, sound in key["sounds"].items()]
    value = {"format_version": 1, "kind": "halle listening answers", "test": key["test"], "listener": listener,
             "session": listener, "started": "2025", "exported": "2025", "ratings": ratings}
    path = tmp_path / "answers" / f"{listener}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def scores(tmp_path):
    return json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))


def test_answers_to_the_page_become_scores_in_every_table_and_stay_there(tmp_path, settings):
    result = evaluate.run(settings(listening_test=True))
    assert result["listening_test"] == str(tmp_path / "out" / "listening-test.html")
    assert "listening" not in scores(tmp_path)
    key = json.loads((tmp_path / "out" / "listening-key.json").read_text(encoding="utf-8"))
    assert key["without_sound"] == {"recordings": 0, "good": 0, "poor": 1} and len(key["sounds"]) == 8
    for listener, less in (("ann", 0), ("bob", 1)):
        answer(tmp_path, listener, of=lambda system, less=less: {"recordings": 5, "good": 4, "poor": 2}[system] - less)
    result = evaluate.run(settings(listening_answers=(str(tmp_path / "answers"),)))
    told = scores(tmp_path)["listening"]
    assert {name: each["qmos"]["value"] for name, each in told["systems"].items()} == {
        "recordings": 4.5, "good": 3.5, "poor": 1.5}
    assert result["systems"]["good"]["QMOS"] == "3.50 (3.00 to 4.00)"
    lines = list(csv.DictReader((tmp_path / "out" / "listening.csv").open(encoding="utf-8")))
    assert [(each["system"], each["value"]) for each in lines if each["score"] == "smos" and not each["against"]] == [
        ("recordings", "4.5"), ("good", "3.5"), ("poor", "1.5")]
    assert {each["ratings"] for each in lines if each["system"] == "poor"} == {"4"}
    tex = (tmp_path / "out" / "scores.tex").read_text(encoding="utf-8")
    listened = tex[tex.index("Listening test"):]
    assert listened.count("textbf") == 2 and r"\textbf{3.50}" in listened  # the better system, not the recordings
    assert "poor 1" in tex and "2 listeners" in tex
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "QMOS" in page and "2 listeners" in page
    verify_checksums(tmp_path / "out")
    evaluate.run(settings(metrics=("duration_distance", "peak_memory")))  # another metric, no answers given again
    assert scores(tmp_path)["listening"] == told


def test_bad_answers_are_refused_before_anything_is_done_and_in_a_dry_run(tmp_path, settings):
    evaluate.run(settings(listening_test=True))
    answer(tmp_path, "ann", of=lambda system: 6)
    before = (tmp_path / "out" / "scores.json").read_bytes()
    given = settings(listening_answers=(str(tmp_path / "answers"),))
    for act in (evaluate.run, evaluate.plan):
        with pytest.raises(BadInputsError, match="expected ratings of 1, 2, 3, 4 or 5"):
            act(given)
    assert (tmp_path / "out" / "scores.json").read_bytes() == before
    verify_checksums(tmp_path / "out")


def test_answers_about_audio_that_was_made_anew_since_are_refused_and_old_ones_left_out(tmp_path, settings, caplog):
    evaluate.run(settings(listening_test=True))
    given = settings(listening_answers=(answer(tmp_path, "ann"),))
    evaluate.run(given)
    speak(tmp_path / "good" / "u1.wav", 1, 350)
    with pytest.raises(UsageError, match="1 of its sounds have been made anew"):
        evaluate.run(given)
    evaluate.run(settings())
    assert "listening" not in scores(tmp_path) and "other sounds" in caplog.text
    assert not (tmp_path / "out" / "listening.csv").exists()


def test_another_test_is_made_once_the_old_one_is_moved_away(tmp_path, settings):
    evaluate.run(settings(listening_test=True))
    with pytest.raises(UsageError, match="other sounds or settings"):
        evaluate.run(settings(listening_test=True, listening={"utterances": 1}))
    for name in ("listening-test.html", "listening-key.json"):
        shutil.move(tmp_path / "out" / name, tmp_path / name)
    evaluate.run(settings(listening_test=True, listening={"utterances": 1}))
    assert json.loads((tmp_path / "out" / "listening-key.json").read_text(encoding="utf-8"))["utterances"] == 1
