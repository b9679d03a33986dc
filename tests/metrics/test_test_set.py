from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.manifest import Utterance
from stages.config.stage_configs import EvalConfig
from stages.errors import BadInputsError, UsageError
from stages.metrics.cases import (
    SETTING_IN_WORDS,
    Case,
    choose_prompt,
    cut_prompt,
    file_stem,
    plan_cases,
    refuse_bad_set,
    setting_in_words,
)
from stages.metrics.test_set import (
    cases_to_judge,
    find_test_set,
    open_test_set,
    read_test_set,
    set_in_words,
    set_of_outputs,
)


def utterance(name, duration=5.0, speaker="ann", text=None, split="test"):
    words = text or f"words of {name}"
    recording = Utterance(name, Path(f"/{name}.wav"), 0.0, duration, speaker, words, split)
    return Case(name, words, speaker, recording, split=split)


def config(setting="cross-sentence", seed=0, **more):
    return EvalConfig(setting=setting, max_prompt_seconds=10.0, seed=seed, **more)


def manifest(folder, *names, split="test"):
    folder.mkdir(parents=True)
    rows = [{"id": n, "audio": f"{n}.wav", "duration": 1.0, "text": n, "split": split} for n in names]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_a_set_is_found_as_a_folder_or_by_name_below_the_data_root(tmp_path, monkeypatch):
    folder = manifest(tmp_path / "data" / "mine", "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HALLE_DATA", raising=False)
    assert find_test_set("mine").resolve() == folder
    assert find_test_set(str(folder)) == folder
    assert find_test_set("mine", data_root=str(tmp_path / "data")) == folder
    monkeypatch.setenv("HALLE_DATA", str(manifest(tmp_path / "other" / "mine", "b").parent))
    assert find_test_set("mine") == tmp_path / "other" / "mine"


@pytest.mark.parametrize("name", ["test-90s", "test-180s"])
def test_the_papers_test_sets_say_what_they_are_and_where_to_put_them(tmp_path, name):
    with pytest.raises(UsageError, match=r"MinutesSpeech.*authors of HALL-E") as caught:
        find_test_set(name, str(tmp_path))
    assert str(tmp_path / name) in caught.value.hint


def test_another_missing_set_is_refused_with_the_places_that_were_tried(tmp_path):
    with pytest.raises(UsageError, match=r"no test set `nothing`.*manifest\.jsonl"):
        find_test_set("nothing", str(tmp_path))
    with pytest.raises(UsageError, match="expected a test set"):
        find_test_set("")


def test_the_rows_marked_test_are_taken_and_all_when_there_are_none(tmp_path):
    folder = manifest(tmp_path / "set", "a", "b")
    with (folder / "manifest.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "c", "audio": "c.wav", "duration": 1, "text": "c", "split": "train"}) + "\n")
    ids = {split: [u.id for u in read_test_set(folder, split).cases] for split in (None, "train", "all")}
    assert ids == {None: ["a", "b"], "train": ["c"], "all": ["a", "b", "c"]}
    only_train = manifest(tmp_path / "train", "a", split="train")
    assert read_test_set(only_train).split == "all"
    with pytest.raises(UsageError, match="test, train or all, got `dev`"):
        read_test_set(folder, "dev")


@pytest.fixture
def columns(tmp_path):
    """Two speakers, two sets and two splits; one row has no set, and only one has a number."""
    rows = [("a", "ann", "test", {"set": "short"}), ("b", "bob", "test", {"set": "short", "take": 2}),
            ("c", "ann", "test", {"set": "long"}), ("d", "ann", "test", {}),
            ("e", "bob", "train", {"set": "short"})]  # fmt: skip
    lines = [json.dumps({"id": name, "audio": f"{name}.wav", "duration": 1, "text": name, "speaker": speaker,
                         "split": split, **extra}) for name, speaker, split, extra in rows]  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("only, split, ids", [
    ((), None, "abcd"), (("set=short",), None, "ab"), (("set=short",), "all", "abe"),
    (("set=short,long",), None, "abc"),
    (("set=short", "speaker=ann"), None, "a"), (("take=2",), None, "b"), (("split=train",), None, "e"),
    (("split=test,train", "speaker=bob"), None, "be"), (("set=short,other",), None, "ab"),
])  # fmt: skip
def test_only_takes_the_rows_for_which_all_conditions_hold(columns, only, split, ids):
    assert "".join(row.id for row in read_test_set(columns, split, only).cases) == ids


def test_the_fingerprint_of_a_set_is_that_of_its_manifest(columns):
    assert read_test_set(columns, None, ["set=short"]).fingerprint == read_test_set(columns).fingerprint


@pytest.mark.parametrize("only, message", [
    (("sets=short",), "out of speaker, split, set, take after --only, got `sets`"),
    (("set=medium",), "no utterance has `set=medium`; what there is of set: long, short$"),
    (("set=long", "speaker=bob"), "no utterance has `set=long` and `speaker=bob`; .* short; speaker: ann, bob"),
    (("set",), "expected COLUMN=VALUE after --only, got `set`"), (("set=",), "got `set=`"), (("=x",), "got `=x`"),
])  # fmt: skip
def test_an_only_that_finds_nothing_is_refused_with_what_there_is(columns, only, message):
    with pytest.raises(UsageError, match=message):
        read_test_set(columns, None, only)


def test_of_many_values_twenty_are_named(tmp_path):
    lines = [json.dumps({"id": f"u{n}", "audio": "a.wav", "duration": 1, "text": "a", "speaker": f"s{n:02}"})
             for n in range(23)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UsageError, match="s18, s19 and 3 more"):
        read_test_set(tmp_path, None, ["speaker=x"])


def test_a_set_is_told_with_its_conditions():
    chosen = {"path": "data/mine", "split": "test", "utterances": 3}
    assert set_in_words(chosen) == "data/mine, split test, 3 utterances"
    only = ["set=short", "speaker=a,b"]
    assert set_in_words(chosen | {"only": only}) == (
        "data/mine, split test, only set=short, only speaker=a,b, 3 utterances")


def test_a_prompt_is_another_text_of_the_same_speaker_of_suitable_length():
    target = utterance("target", text="the same words")
    others = [utterance("twin", text="the same words "), utterance("short", 1.0), utterance("long", 30.0),
              utterance("wordless", text="..."), utterance("good", 4.0), target]  # fmt: skip
    assert choose_prompt(target, others, config()).id == "good"
    assert choose_prompt(target, others[:-2], config()) is None


def test_prompts_depend_on_the_seed_and_not_on_how_many_utterances_are_asked_for():
    utterances = [utterance(f"u{index}") for index in range(30)]
    prompts = [[case.prompt.id for case in plan_cases(utterances, config(seed=seed))] for seed in (0, 0, 1)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert all(prompt != target.id for prompt, target in zip(prompts[0], utterances, strict=True))


def test_prompts_stay_within_a_speaker():
    utterances = [utterance(f"u{index}", speaker=f"s{index % 3}") for index in range(30)]
    cases = plan_cases(utterances, config())
    assert all(case.prompt.speaker == case.speaker for case in cases)


def test_a_speaker_without_a_second_utterance_is_prompted_from_the_rest_of_the_manifest():
    rest = [utterance("before", speaker="bob"), utterance("other", speaker="eve")]
    (case,) = plan_cases([utterance("alone", speaker="bob")], config(), rest)
    assert case.prompt.id == "before" and not case.refused


def test_what_a_setting_cannot_do_is_refused_with_a_reason():
    alone = utterance("alone", speaker="bob")
    utterances = [alone, utterance("x"), utterance("y"), utterance("empty", text=" "), utterance("brief", 2.5)]

    def refused(setting):
        return {case.id: case.refused for case in plan_cases(utterances, config(setting)) if case.refused}

    assert refused("reconstruction") == {"empty": "the reference text is empty"}
    assert set(refused("continuation")) == {"empty", "brief"}
    assert "not longer than the prompt of 3 s" in refused("continuation")["brief"]
    assert set(refused("cross-sentence")) == {"empty", "alone"}
    assert "`bob` has no other utterance" in refused("cross-sentence")["alone"]


def test_too_many_refused_utterances_stop_the_evaluation_with_their_reasons():
    cases = plan_cases([utterance("a", text="..."), utterance("b"), utterance("c")], config("reconstruction"))
    reasons = [case.refused for case in cases if case.refused]
    refuse_bad_set(reasons, len(cases), most=1)
    with pytest.raises(BadInputsError, match=r"most 0 of 3 .*, got 1: 1: the reference text has no word left"):
        refuse_bad_set(reasons, len(cases), most=0)


def test_a_prompt_is_the_first_seconds_of_the_waveform():
    waveform = np.arange(100)
    np.testing.assert_array_equal(cut_prompt(waveform, 10, 3.0), np.arange(30))


@pytest.mark.parametrize("name", ["plain-1_a.b", "two words", "a/b", "..", "../../etc", "a:b?*", "ü", "100%", "你" * 90,
                                  "x" * 5000])
def test_every_id_has_a_file_name_inside_the_folder(tmp_path, name):
    path = tmp_path / f"{file_stem(name)}.wav"
    assert path.parent == tmp_path and path.resolve().parent == tmp_path.resolve()
    path.touch()
    assert file_stem("plain-1_a.b") == "plain-1_a.b"


def test_different_ids_have_different_file_names():
    ids = ["a/b", "a%2Fb", "a b", "a%20b", "..", "%2E%2E", "你" * 90, "你" * 91, "x" * 180, "x" * 181]
    assert len({file_stem(name) for name in ids}) == len(ids)


def test_each_setting_is_told_in_words_and_given_audio_is_not_said_to_be_prompted():
    told = {setting_in_words(EvalConfig(setting=s)) for s in ("cross-sentence", "continuation", "reconstruction")}
    assert len(told) == 3
    assert "prompted as its makers say" in setting_in_words(EvalConfig(hypotheses="x", setting="continuation"))


def test_a_prompt_that_the_set_gives_is_taken_and_only_where_prompts_are_other_recordings():
    given = utterance("given", 2.0).recording
    case = replace(utterance("a"), prompt=given)
    others = [utterance("b"), utterance("c")]
    assert plan_cases([case, *others], config())[0].prompt is given
    assert [planned.prompt for planned in plan_cases([case], config("continuation"))] == [None]


def test_texts_alone_can_be_judged_but_not_be_spoken_without_a_prompt():
    text = Case("a", "words that nobody recorded")
    refused = [plan_cases([text], config(setting))[0].refused for setting in SETTING_IN_WORDS]
    assert "no other utterance" in refused[0] and all("no recording of it" in reason for reason in refused[1:])
    assert not any(plan_cases([text], config(setting), speaks=False)[0].refused for setting in SETTING_IN_WORDS)


def test_sound_without_a_text_can_be_judged_but_not_be_spoken():
    sound = replace(utterance("a"), text="")
    assert not plan_cases([sound], config("reconstruction"))[0].refused
    assert plan_cases([sound], config("continuation"))[0].refused == "there is no text to speak"
    assert not plan_cases([sound], config("continuation"), speaks=False)[0].refused


def test_given_audio_is_judged_by_the_voice_that_a_model_would_be_prompted_with():
    cases = [utterance("a"), utterance("b"), utterance("alone", speaker="bob")]
    spoken, given = (plan_cases(cases, config(), speaks=speaks) for speaks in (True, False))
    assert [case.prompt for case in spoken] == [case.prompt for case in given]
    assert given[0].prompt is not None and spoken[2].refused and not given[2].refused


def test_lists_and_folders_of_audio_are_found_as_test_sets_and_other_folders_are_not(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "data" / "sounds").mkdir(parents=True)
    (tmp_path / "data" / "sounds" / "a.wav").touch()
    (tmp_path / "data" / "texts.tsv").write_text("a\tone\n", encoding="utf-8")
    for name in ("sounds", "texts.tsv"):
        assert find_test_set(name, str(tmp_path / "data")) == tmp_path / "data" / name
    with pytest.raises(UsageError, match="no test set"):
        find_test_set(str(tmp_path / "empty"), str(tmp_path / "data"))


def test_without_a_set_the_outputs_of_all_folders_are_judged_by_the_texts_beside_them(tmp_path):
    for folder, name, text in (("one", "a", "first"), ("one", "b", None), ("two", "b", "second"), ("two", "c", None)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.wav").write_bytes(b"nobody decodes it")
        if text:
            (tmp_path / folder / f"{name}.txt").write_text(text, encoding="utf-8")
    folders = [tmp_path / "one", tmp_path / "two"]
    found = open_test_set(EvalConfig(hypotheses=tuple(map(str, folders))))
    assert [(case.id, case.text, case.recording) for case in found.cases] == [
        ("a", "first", None), ("b", "second", None), ("c", "", None)]
    (tmp_path / "two" / "a.txt").write_text("another", encoding="utf-8")
    (tmp_path / "two" / "a.wav").touch()
    with pytest.raises(UsageError, match="`a` has another text in"):
        set_of_outputs(folders)
    with pytest.raises(UsageError, match="expected audio files"):
        set_of_outputs([tmp_path / "nothing"])


def test_the_lines_of_texts_out_of_bounds_are_refused_where_the_setting_asks_for_it(tmp_path):
    folder = manifest(tmp_path / "set", "a", "much " * 20, "ordinary words")  # one second each
    found = read_test_set(folder)

    def refused(**more):
        asked = config("reconstruction", max_bad="3", **more)
        return [bool(case.refused) for case in cases_to_judge(found, asked, speaks=True)]

    for name in ("a.wav", "much " * 20 + ".wav", "ordinary words.wav"):
        (folder / name).touch()
    assert refused() == [False, False, False] and refused(text_limits="curate") == [True, True, False]
    assert refused(text_limits="none") == [False, False, False]


def test_rows_can_be_chosen_of_a_set_only(tmp_path):
    (tmp_path / "a.wav").touch()
    with pytest.raises(UsageError, match="got --hypotheses alone"):
        open_test_set(EvalConfig(hypotheses=str(tmp_path), only=("speaker=ann",)))


def test_a_prompt_of_which_nobody_knows_the_words_is_refused():
    """Behind no words a text is a continuation: what the model says is not the text."""
    silent, known = (Utterance(name, Path(f"/{name}.wav"), 0.0, 5.0, "guest", words, "test")
                     for name, words in (("silent", ""), ("known", "words that are known")))
    cases = [replace(utterance(name), prompt=prompt) for name, prompt in (("a", silent), ("b", known))]
    refused = [case.refused for case in plan_cases(cases, config())]
    assert "what its prompt says is not known" in refused[0] and not refused[1]
    assert not any(case.refused for case in plan_cases(cases, config(), speaks=False)), "audio is judged all the same"
