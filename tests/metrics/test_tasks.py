from __future__ import annotations

import json

import numpy as np
import pytest

from stages import evaluate
from stages.audio.io import audio_info, read_audio, write_audio
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics.set_layouts import read_listing
from stages.metrics.test_set import cases_to_judge, open_test_set

RATE = 8000
TEXTS = {"a": "The first text.", "b/2": "A bar | and a\ttab.", "c": "The third text."}


@pytest.fixture
def config(tmp_path):
    """A set of three recordings by one speaker, of different lengths, each in the second half of its file."""
    rows = []
    for number, (name, text) in enumerate(TEXTS.items()):
        seconds = 4.0 + number
        samples = np.concatenate([np.zeros(RATE), np.full(round(seconds * RATE), 0.1 * (number + 1))])
        write_audio(tmp_path / "set" / f"{number}.wav", samples.astype(np.float32), RATE)
        rows.append({"id": name, "audio": f"{number}.wav", "start": 1.0, "duration": seconds, "text": text,
                     "speaker": "ann", "split": "test"})  # fmt: skip
    (tmp_path / "set" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return EvalConfig(set=str(tmp_path / "set"), export_tasks=str(tmp_path / "tasks"), max_bad="3")


def read(folder):
    return [json.loads(line) for line in (folder / "tasks.jsonl").read_text(encoding="utf-8").splitlines()]


def test_tasks_have_the_prompts_that_a_model_would_have_under_the_names_that_outputs_need(tmp_path, config):
    told = evaluate.run(config)
    tasks = read(tmp_path / "tasks")
    assert told["tasks"] == 3 and [task["id"] for task in tasks] == ["a", "b%2F2", "c"]
    for task, case in zip(tasks, cases_to_judge(open_test_set(config), config, speaks=True), strict=True):
        assert (task["text"], task["prompt_text"]) == (case.text, case.prompt.text)
        info = audio_info(tmp_path / "tasks" / task["prompt"])
        assert (info.format, info.subtype, info.duration) == ("WAV", "PCM_16", case.prompt.duration)
        # what lies before `start` is not in it
        assert abs(read_audio(tmp_path / "tasks" / task["prompt"])).min() > 0.05
    assert not (tmp_path / "eval").exists() and "--hypotheses" in told["score_with"]


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.tsv", "meta.lst", ""])
def test_what_was_exported_is_a_test_set_in_every_form(tmp_path, config, name):
    evaluate.run(config)
    cases = read_listing(tmp_path / "tasks" / name).cases
    assert [case.id for case in cases] == ["a", "b%2F2", "c"]
    second = {"tasks.tsv": "A bar | and a tab.", "meta.lst": "A bar and a tab."}.get(name, TEXTS["b/2"])
    assert [case.text for case in cases] == [TEXTS["a"], second, TEXTS["c"]]
    for task, case in zip(read(tmp_path / "tasks"), cases, strict=True):
        assert case.prompt.audio == (tmp_path / "tasks" / task["prompt"]).resolve() and not case.refused
        assert case.prompt.text.split() == task["prompt_text"].replace("|", " " if name == "meta.lst" else "|").split()


def test_a_continuation_is_prompted_by_its_first_seconds_whose_words_nobody_knows(tmp_path, config):
    evaluate.run(config.model_copy(update={"setting": "continuation"}))
    tasks = read(tmp_path / "tasks")
    assert [audio_info(tmp_path / "tasks" / task["prompt"]).duration for task in tasks] == [3.0, 3.0, 3.0]
    assert {task["prompt_text"] for task in tasks} == {""} and not list((tmp_path / "tasks" / "prompts").glob("*.txt"))


def test_texts_without_a_prompt_are_tasks_too(tmp_path):
    (tmp_path / "mine.tsv").write_text("a\tone\nb\ttwo\n", encoding="utf-8")
    told = evaluate.run(EvalConfig(set=str(tmp_path / "mine.tsv"), export_tasks=str(tmp_path / "tasks")))
    assert (told["tasks"], told["without_prompt"]) == (2, 2)
    for name in ("tasks.tsv", "meta.lst"):
        assert [case.text for case in read_listing(tmp_path / "tasks" / name).cases] == ["one", "two"]


def test_a_damaged_prompt_is_counted_with_its_reason(tmp_path, config):
    (tmp_path / "set" / "0.wav").write_bytes(b"no sound")
    told = evaluate.run(config)
    assert sum(told["refused"].values()) == 3 - told["tasks"] > 0
    assert all("its prompt" in reason for reason in told["refused"])


def test_codecs_have_no_tasks(config):
    with pytest.raises(UsageError, match="cross-sentence or continuation"):
        evaluate.run(config.model_copy(update={"setting": "reconstruction"}))
