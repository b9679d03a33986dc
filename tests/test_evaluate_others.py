"""`halle eval` of other people's systems: without a manifest, against lists, and whatever is wrong with their audio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tone_speech import (
    RATE,
    TEXTS,
    FakeCodec,
    FakePipeline,
    ToneReader,
    make_hypotheses,
    make_set,
    read,
    read_one,
    settings,
    tone,
)

from stages import evaluate
from stages.audio.io import write_audio
from stages.config.stage_configs import EvalConfig
from stages.errors import BadInputsError
from stages.metrics.languages import normalise
from stages.speech import transcriber
from stages.synthesis.sources import Prompter, Source

ROOT = Path(__file__).parents[1]
FAST = {"transcriber": "tone-reader", "device": "cpu", "bootstrap_samples": 50,
        "metrics": ("wer", "speaker_similarity", "duration_distance", "fillers_in_text")}


@pytest.fixture(autouse=True)
def tone_reader(monkeypatch):
    monkeypatch.setitem(transcriber._TRANSCRIBERS, "tone-reader", ToneReader)


@pytest.fixture
def five(tmp_path):
    """Five files from elsewhere: the words of three lie beside them, one of them says something else."""
    folder = make_hypotheses(tmp_path / "five", {f"f{index}": (index, 2.0 + index) for index in range(5)})
    for index, text in {0: TEXTS[0], 1: TEXTS[1], 2: TEXTS[3]}.items():
        (folder / f"f{index}.txt").write_text(text, encoding="utf-8")
    return folder


def test_five_foreign_files_are_scored_without_a_manifest(tmp_path, five):
    told = evaluate.run(EvalConfig(hypotheses=str(five), out=str(tmp_path / "out"), **FAST))
    assert told["files"] == {"five": "5 matched, 0 missing, 0 of no utterance scored here"} and told["utterances"] == 5
    scores, rows = read(tmp_path)
    assert list(scores["systems"]) == ["five"] and {row["reference_seconds"] for row in rows.values()} == {None}
    measured = scores["systems"]["five"]["scores"]
    assert (measured["wer"]["denominator"], measured["wer"]["total"]) == (3, 5) and measured["wer"]["value"] > 0
    assert rows["f0"]["systems"]["five"]["metrics"]["wer"]["value"] == 0.0
    for metric, name, reason in (("wer", "f3", "no text"), ("fillers_in_text", "f4", "no text"),
                                 ("duration_distance", "f0", "no recording")):
        entry = rows[name]["systems"]["five"]["metrics"][metric]
        assert entry["value"] is None and reason in entry["reason"]
    assert set(scores["classes"]) == {"0-4", "4-10"}  # by what was said: nobody knows how long it should be
    assert (tmp_path / "out" / "report.html").is_file()


def test_the_command_takes_foreign_audio_alone(five):
    command = [sys.executable, "-m", "halle_cli", "eval", "--hypotheses", five.name, "--dry-run", "--json"]
    done = subprocess.run(command, cwd=five.parent, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
                          text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert plan["utterances"] == 5 and plan["writes"][0] == "eval/five/scores.json"


@pytest.mark.parametrize("name, lines", [
    ("mine.tsv", ["f0\t" + TEXTS[0], "f1\t" + TEXTS[1] + "\tann.wav", "gone\t" + TEXTS[2]]),
    ("meta.lst", [f"f0|Words of Ann.|ann.wav|{TEXTS[0]}", f"f1|Words of Ann.|ann.wav|{TEXTS[1]}|f1.wav",
                  f"gone|Words of Ann.|ann.wav|{TEXTS[2]}"]),
])  # fmt: skip
def test_lists_of_texts_are_what_audio_is_scored_against(tmp_path, five, name, lines):
    for index, sound in ((0, "ann"), (1, "f1")):
        write_audio(tmp_path / "lists" / f"{sound}.wav", tone(index, 3.0), RATE)
    (tmp_path / "lists" / name).write_text("\n".join(lines), encoding="utf-8")
    told = evaluate.run(EvalConfig(set=str(tmp_path / "lists" / name), hypotheses=str(five), out=str(tmp_path / "out"),
                                   **FAST))
    assert told["files"] == {"five": "2 matched, 1 missing, 3 of no utterance scored here"}
    scores, rows = read(tmp_path)
    system = scores["systems"]["five"]
    assert system["unknown_files"] == ["f2.wav", "f3.wav", "f4.wav"] and system["counts"]["missing"] == 1
    assert system["scores"]["wer"]["value"] == pytest.approx(100 / 3) and system["scores"]["wer"]["denominator"] == 3
    assert rows["gone"]["systems"]["five"]["metrics"]["wer"]["value"] == 100.0
    if name == "meta.lst":
        assert [rows[key]["reference_seconds"] for key in ("f0", "f1")] == [None, 3.0]
        assert {row["prompt"] for row in rows.values()} == {"ann"}


def test_a_model_speaks_a_list_with_the_prompts_that_it_gives(tmp_path, monkeypatch):
    write_audio(tmp_path / "ann.wav", tone(5, 4.0), RATE)
    (tmp_path / "ann.txt").write_text(TEXTS[5], encoding="utf-8")
    (tmp_path / "mine.tsv").write_text(f"a\t{TEXTS[0]}\tann.wav\nb\t{TEXTS[1]}\tann.wav\n", encoding="utf-8")
    pipeline = FakePipeline()
    monkeypatch.setattr(evaluate, "find_sources", lambda config, cases: (Source(
        "model", "a model", "m" * 64, lambda device: Prompter(pipeline, FakeCodec(), config), speaks=True),))
    evaluate.run(EvalConfig(set=str(tmp_path / "mine.tsv"), out=str(tmp_path / "out"), **FAST))
    assert [asked.prompt.name for asked in pipeline.asked] == ["ann", "ann"]
    assert read_one(tmp_path)[0]["counts"]["scored"] == 2


def test_prompts_without_their_words_are_refused_to_a_model(tmp_path, monkeypatch):
    write_audio(tmp_path / "ann.wav", tone(5, 4.0), RATE)
    (tmp_path / "mine.tsv").write_text(f"a\t{TEXTS[0]}\tann.wav\n", encoding="utf-8")
    monkeypatch.setattr(evaluate, "find_sources", lambda config, cases: (Source("model", "a model", "m" * 64, None),))
    with pytest.raises(BadInputsError, match="what its prompt says is not known"):
        evaluate.run(EvalConfig(set=str(tmp_path / "mine.tsv"), out=str(tmp_path / "out"), **FAST))


def test_texts_without_prompts_are_refused_to_a_model(tmp_path, monkeypatch):
    (tmp_path / "mine.tsv").write_text(f"a\t{TEXTS[0]}\n", encoding="utf-8")
    monkeypatch.setattr(evaluate, "find_sources", lambda config, cases: (Source("model", "a model", "m" * 64, None),))
    with pytest.raises(BadInputsError, match="has no other utterance"):
        evaluate.run(EvalConfig(set=str(tmp_path / "mine.tsv"), out=str(tmp_path / "out"), **FAST))


def test_what_is_exported_for_another_system_is_scored_with_the_same_set(tmp_path):
    make_set(tmp_path / "set", count=3)
    config = settings(tmp_path, **{key: FAST[key] for key in ("metrics",)})
    told = evaluate.run(config.model_copy(update={"export_tasks": str(tmp_path / "tasks")}))
    tasks = [json.loads(line) for line in (tmp_path / "tasks" / "tasks.jsonl").read_text(encoding="utf-8").splitlines()]
    for task in tasks:
        write_audio(tmp_path / "theirs" / f"{task['id']}.wav", tone(TEXTS.index(task["text"]), 4.0), RATE)
    evaluate.run(config.model_copy(update={"hypotheses": (str(tmp_path / "theirs"),)}))
    system, _ = read_one(tmp_path)
    assert told["tasks"] == system["counts"]["scored"] == 3 and system["scores"]["wer"]["value"] == 0.0


def test_outputs_that_crash_or_fool_metrics_elsewhere_have_a_value_or_a_reason(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.2, 2 * RATE)
    sounds = {"silence": np.zeros(RATE), "one sample": np.ones(1), "too loud": 3.0 * tone(0, 1.0),
              "80 bursts": noise * (np.arange(len(noise)) // 100 % 2), "good": tone(4, 1.0)}  # fmt: skip
    make_set(tmp_path / "set", seconds=lambda index: 1.0)
    (tmp_path / "theirs").mkdir()
    for index, samples in enumerate(sounds.values()):
        soundfile.write(tmp_path / "theirs" / f"u{index}.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
    (tmp_path / "theirs" / "u5.wav").write_bytes(b"")
    metrics = ("wer", "pesq", "stoi")  # the others have tests of their own for such sounds
    evaluate.run(settings(tmp_path, hypotheses=str(tmp_path / "theirs"), setting="reconstruction", metrics=metrics))
    system, rows = read_one(tmp_path)
    found = dict(zip([*sounds, "no bytes"], rows.values(), strict=True))
    for measured in [each for row in rows.values() for each in row["metrics"].values()]:
        assert measured["reason"] if measured["value"] is None else np.isfinite(measured["value"])
    assert [row["status"] for row in rows.values()] == ["scored"] * 5 + ["failed"]
    assert system["scores"]["wer"]["denominator"] == 6
    for name in ("silence", "one sample", "no bytes"):
        assert found[name]["metrics"]["wer"]["value"] == 100.0
        assert found[name]["metrics"]["stoi"]["value"] is found[name]["metrics"]["pesq"]["value"] is None
    assert found["good"]["metrics"]["wer"]["value"] == 0.0


@pytest.mark.parametrize("written, said", [
    ("It costs $1,234.56.", "it costs one thousand two hundred thirty four dollars and fifty six cents"),
    ("In 1999 some 30 of 42 came.", "in nineteen ninety nine some thirty of forty two came"),
    ("The 2nd of 21 people", "the second of twenty one people"),
])  # fmt: skip
def test_numbers_and_their_words_are_the_same_to_the_normaliser(written, said):
    assert normalise(written) == normalise(said)
