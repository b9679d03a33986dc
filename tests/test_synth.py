"""Many texts become a folder that continues where it stopped and reads back as a manifest."""

import gc
import json
import shutil
import tracemalloc

import pytest
import soundfile
import torch
from tiny_chain import SPEECH, tiny_config

from stages import evaluate, synth
from stages.artifacts.manifest import read_manifest
from stages.artifacts.storage import read_json, read_jsonl, verify_checksums
from stages.errors import BadInputsError, MissingModelError, UnfinishedSpeechError, UsageError
from stages.synthesis import listener
from stages.synthesis.batch import read_items
from stages.synthesis.long_script import paragraphs_of, sentences_of
from stages.synthesis.output import SpeechWriter

PROMPT = SPEECH / "prompt.ogg"


def many(chain, text, out, *overrides, **options):
    settings = {"text": text and str(text), "prompt": str(PROMPT), "model": str(chain.model), "out": str(out),
                "max_seconds": 0.5, "allow_unfinished": True, **options}
    return tiny_config("synth", *overrides, **settings)


def one(chain, out, **options):
    return many(chain, None, out, **options)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in (("b", "The children did."), ("a", "Good evening.\nThank you."), ("c.1", "One.\n\nTwo.")):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "notes.md").write_text("not to be read", encoding="utf-8")
    return folder


def rows_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def forbid_models(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(synth, "load_speech_model", refuse)


def test_a_folder_of_texts_becomes_a_manifest_with_reports_and_a_second_run_does_nothing(chain, texts, tmp_path,
                                                                                         monkeypatch):
    config = many(chain, texts, tmp_path / "out", captions="both")
    result = synth.run(config)
    assert (result["texts"], result["spoken_now"], result["rejected"]) == (3, 3, 0)
    manifest = read_manifest(tmp_path / "out")
    assert [(row.id, row.text) for row in manifest.utterances] == [
        ("a", "Good evening. Thank you."), ("b", "The children did."), ("c.1", "One. Two.")]
    for row in manifest.utterances:
        assert soundfile.info(row.audio).duration == pytest.approx(row.duration, abs=1e-3) and row.extra["synthetic"]
        assert read_json(tmp_path / "out" / "reports" / f"{row.id}.json")["text"] == row.text
        assert all((tmp_path / "out" / f"{row.id}.{kind}").is_file() for kind in ("srt", "vtt"))
    verify_checksums(tmp_path / "out")
    plan = evaluate.plan(tiny_config("eval", set=str(tmp_path / "out"), setting="reconstruction",
                                     codec=str(chain.codec), out=str(tmp_path / "eval")))
    assert plan["utterances"] == 3

    forbid_models(monkeypatch)
    assert synth.run(config)["spoken_now"] == 0
    assert synth.plan(config)["done"] == 3


def test_only_what_changed_is_spoken_again_and_what_was_taken_away_leaves_the_manifest(chain, texts, tmp_path,
                                                                                      monkeypatch):
    out = tmp_path / "out"
    synth.run(many(chain, texts, out))
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.wav")}
    (texts / "b.txt").write_text("Who did this?", encoding="utf-8")
    moved = texts.rename(tmp_path / "moved")
    (moved / "a.txt").unlink()
    assert synth.run(many(chain, moved, out))["spoken_now"] == 1
    after = {file.name: file.stat().st_mtime_ns for file in out.glob("*.wav")}
    assert {name for name in before if before[name] != after[name]} == {"b.wav"}
    assert [row.id for row in read_manifest(out).utterances] == ["b", "c.1"]
    with pytest.raises(UsageError, match=r"`sampling\.top_k` was `250`, is `5`"):
        synth.run(many(chain, moved, out, "sampling.top_k=5"))


def test_a_bad_item_does_not_stop_the_others(chain, texts, tmp_path):
    (texts / "empty.txt").write_text(" . \n", encoding="utf-8")
    (texts / "latin.txt").write_bytes(b"caf\xe9")
    out = tmp_path / "out"
    with pytest.raises(BadInputsError, match="2 of 5 texts were not spoken: `empty`") as caught:
        synth.run(many(chain, texts, out))
    assert caught.value.exit_code == 3
    assert {row["id"]: row["reason"] for row in read_jsonl(out / "rejected.jsonl")} == {
        "empty": "the text is empty after normalisation", "latin": "latin.txt:1: byte 0xE9 is not UTF-8"}
    assert len(read_manifest(out).utterances) == 3 and not (out / "checksums.json").exists()
    assert synth.run(many(chain, texts, out, max_bad="2"))["rejected"] == 2
    assert (out / "checksums.json").exists()
    (texts / "empty.txt").write_text("Now it says something.", encoding="utf-8")
    assert synth.run(many(chain, texts, out, max_bad="1"))["spoken_now"] == 1


def test_rows_bring_their_own_voices_and_bad_ones_are_told_apart(chain, tmp_path):
    shutil.copy(PROMPT, tmp_path / "voice.ogg")
    soundfile.write(tmp_path / "silent.wav", [0.0] * 96_000, 24_000)
    listed = rows_of(tmp_path / "list.jsonl", [
        {"id": "own", "text": "Hello.", "prompt": "voice.ogg", "prompt_text": "Behind the station."},
        {"id": "given/1", "text": "Hello."},
        {"id": "own", "text": "Again."},
        {"id": "silent", "text": "Hello.", "prompt": "silent.wav", "prompt_text": "x"},
        {"id": "lost", "text": "Hello.", "prompt": "nowhere.wav"},
        {"id": 7, "text": "Hello."},
        {"text": "Hello."},
    ])
    synth.run(many(chain, listed, tmp_path / "out", max_bad="5"))
    spoken = read_manifest(tmp_path / "out").utterances
    assert [(row.id, row.audio.name, row.speaker) for row in spoken] == [
        ("own", "own.wav", "voice.ogg"), ("given/1", "given%2F1.wav", "prompt.ogg")]
    reasons = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "rejected.jsonl")}
    assert list(reasons) == ["own (2)", "silent", "lost", "7", "row 7"]
    for name, words in (("own (2)", "its id `own` is that of `own` too"), ("silent", "nothing is heard"),
                        ("lost", "does not exist"), ("7", "expected text as `id`, got `7`"), ("row 7", "got nothing")):
        assert words in reasons[name]


def test_a_killed_run_goes_on_with_what_is_missing_and_the_result_is_the_same(chain, texts, tmp_path, monkeypatch):
    write, calls = SpeechWriter.write, []

    def fail_at_the_second(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SpeechWriter, "write", fail_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            synth.run(many(chain, texts, tmp_path / "killed"))
    assert not (tmp_path / "killed" / "manifest.jsonl").exists()
    assert synth.run(many(chain, texts, tmp_path / "killed"))["spoken_now"] == 2
    synth.run(many(chain, texts, tmp_path / "whole", batch_size=1))
    names = sorted(file.name for file in (tmp_path / "whole").glob("*.wav"))
    assert names == ["a.wav", "b.wav", "c.1.wav"]
    for name in (*names, "manifest.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_unfinished_texts_exit_with_8_and_are_spoken_again_with_a_higher_limit_only(chain, tmp_path):
    listed = rows_of(tmp_path / "list.jsonl", [{"id": str(n), "text": "Good evening."} for n in range(6)])
    config = many(chain, listed, tmp_path / "out", max_seconds=0.25, allow_unfinished=False)
    with pytest.raises(UnfinishedSpeechError, match="of 6 texts are not finished") as caught:
        synth.run(config)
    assert caught.value.exit_code == 8
    unfinished = [row["id"] for row in read_jsonl(tmp_path / "out" / "items.jsonl") if not row["finished"]]
    assert unfinished and synth.run(config.model_copy(update={"allow_unfinished": True}))["spoken_now"] == 0
    again = config.model_copy(update={"max_seconds": 0.5, "allow_unfinished": True, "allow_change": ("max_seconds",)})
    assert synth.run(again)["spoken_now"] == len(unfinished)


def test_memory_stays_flat_over_50_texts(chain, tmp_path, monkeypatch):
    sound, rate = soundfile.read(PROMPT)
    soundfile.write(tmp_path / "voice.wav", sound[: int(3.4 * rate)], rate)
    listed = rows_of(tmp_path / "list.jsonl", [{"id": f"{n:02d}", "text": "Good evening."} for n in range(50)])
    write, tensors, arrays, calls = SpeechWriter.write, [], [], []

    def measure(self, *arguments):
        calls.append(1)
        if len(calls) == 10:
            tracemalloc.start()  # from now on, numpy's arrays and Python's objects
        if len(calls) in (10, 50):
            gc.collect()
            tensors.append(sum(held.nbytes for held in gc.get_objects() if type(held) is torch.Tensor))
            arrays.append(tracemalloc.get_traced_memory()[0])
        return write(self, *arguments)

    monkeypatch.setattr(SpeechWriter, "write", measure)
    try:
        synth.run(many(chain, listed, tmp_path / "out", prompt=str(tmp_path / "voice.wav"), prompt_text="Behind it.",
                       max_seconds=0.25, batch_size=5))
    finally:
        tracemalloc.stop()
    assert len(calls) == 50
    a_speech = 3.5 * 24_000 * 4  # bytes, its prompt decoded; a batch holds five
    assert tensors[1] - tensors[0] < a_speech
    assert arrays[1] < 8 * a_speech


@pytest.mark.parametrize("options, message", [
    ({"out": ""}, "expected a folder for the speech of many texts"),
    ({"say": "Hello."}, "got both"),
    ({"text": "{empty}"}, "holds no text"),
    ({"text": "{broken}"}, "broken.jsonl:2: not a JSON object"),
    ({"explain_text": True}, "expected one text to explain"),
    ({"out": "speech.wav"}, "expected a folder for the speech of many texts, got `speech.wav`"),
])
def test_wrong_use_is_refused_before_anything_is_written(chain, texts, tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jsonl").write_text('{"id": "a", "text": "b"}\nnothing\n', encoding="utf-8")
    paths = {"empty": tmp_path / "empty", "broken": tmp_path / "broken.jsonl"}
    options = {key: value.format(**paths) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(UsageError, match=message):
        synth.run(many(chain, options.pop("text", texts), options.pop("out", tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["x.wav", "x.json", "x.srt"])
def test_somebody_else_s_file_is_not_written_over_and_restart_moves_it_aside(chain, tmp_path, name):
    config = one(chain, tmp_path / "x.wav", say="Good evening.", captions="srt", max_seconds=0.5)
    (tmp_path / name).write_text('{"my": "notes"}', encoding="utf-8")
    with pytest.raises(UsageError, match=f"{name}` is there already"):
        synth.run(config)
    synth.run(config.model_copy(update={"restart": True}))
    assert (tmp_path / f"{name}.old-1").read_text(encoding="utf-8") == '{"my": "notes"}'
    synth.run(config)  # speech of ours is replaced
    (tmp_path / "x.json").unlink()  # as if killed before the report
    synth.run(config)
    assert not (tmp_path / "x.wav.old-2").exists() and read_json(tmp_path / "x.json")["synthetic"]


def test_a_prompt_that_is_not_there_or_says_nobody_knows_what_is_refused_with_what_to_do(chain, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        synth.run(one(chain, tmp_path / "x.wav", say="Good evening.", prompt=str(tmp_path / "none.wav")))
    shutil.copy(PROMPT, tmp_path / "mute.ogg")
    with pytest.raises(UsageError, match="nothing tells what prompt") as caught:
        synth.run(one(chain, tmp_path / "x.wav", say="Good evening.", prompt=str(tmp_path / "mute.ogg"),
                      transcriber="none", prompt_text=None))
    assert "--prompt-text" in caught.value.hint


def test_captions_and_their_times_lie_beside_one_text_s_speech(chain, tmp_path):
    synth.run(one(chain, tmp_path / "x.wav", say="Good evening. Thank you.", captions="srt", max_seconds=4.0))
    report = read_json(tmp_path / "x.json")
    assert (tmp_path / "x.srt").read_text(encoding="utf-8").startswith("1\n00:00:0")
    assert [sentence["text"] for sentence in report["sentences"]] == ["Good evening.", "Thank you."]
    assert {sentence["timing"] for sentence in report["sentences"]} <= {"recogniser", "estimate"}
    assert report["recogniser"]["name"] == "pocketsphinx" and report["captions"] == ["x.srt"]


def test_without_the_usual_recogniser_captions_are_estimates_and_that_is_said(chain, tmp_path, caplog, monkeypatch):
    def missing(name):
        raise MissingModelError(f"`{name}` is not installed")

    monkeypatch.setattr(listener, "load_transcriber", missing)
    synth.run(one(chain, tmp_path / "x.wav", say="Good evening. Thank you.", captions="vtt",
                   prompt_text="Behind the station."))
    report = read_json(tmp_path / "x.json")
    assert {sentence["timing"] for sentence in report["sentences"]} == {"estimate"} and report["recogniser"] is None
    assert "will be estimates" in caplog.text


@pytest.mark.parametrize("wanted", [{"captions": "srt"}, {"verify": True}])
def test_a_chosen_recogniser_that_cannot_be_had_is_refused_before_anything_is_spoken(chain, tmp_path, wanted):
    config = one(chain, tmp_path / "x.wav", say="Hello.", transcriber="nobody", prompt_text="Behind the station.",
                 **wanted)
    for act in (synth.plan, synth.run):
        with pytest.raises(MissingModelError, match="got `nobody`"):
            act(config)
    assert list(tmp_path.iterdir()) == []


def test_captions_of_an_earlier_rendering_go_with_it_and_no_others(chain, tmp_path):
    spoken = {"say": "Good evening.", "max_seconds": 4.0, "transcriber": "none", "prompt_text": "Behind the station."}
    (tmp_path / "x.srt").write_text("mine", encoding="utf-8")
    synth.run(one(chain, tmp_path / "x.wav", captions="vtt", **spoken))
    assert (tmp_path / "x.vtt").is_file()
    synth.run(one(chain, tmp_path / "x.wav", **spoken))
    assert not (tmp_path / "x.vtt").exists() and (tmp_path / "x.srt").read_text(encoding="utf-8") == "mine"
    synth.run(one(chain, tmp_path / "x.wav", captions="both", **spoken))
    synth.run(one(chain, tmp_path / "x.wav", captions="vtt", **spoken))
    assert (tmp_path / "x.vtt").is_file() and not (tmp_path / "x.srt").exists()


def test_a_dry_run_leaves_a_torn_journal_as_it_is(chain, texts, tmp_path):
    config = many(chain, texts, tmp_path / "out")
    synth.run(config)
    journal = tmp_path / "out" / "items.jsonl"
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"id": "half')
    torn = journal.read_bytes()
    assert synth.plan(config)["done"] == 3 and journal.read_bytes() == torn
    synth.run(config)
    assert torn.startswith(journal.read_bytes()) and journal.read_bytes() != torn


def test_every_row_that_cannot_be_a_file_or_be_read_is_refused_and_no_other(tmp_path):
    given = [{"id": "x", "text": "One."}, {"id": "X", "text": "Two."}, {"id": "X (2)", "text": "Three."},
             {"id": "half", "text": "a \ud800"}, {"id": " ", "text": "Four."}, {"id": "é" * 50, "text": "Five."},
             {"id": "nul", "text": "a\0b c"}]
    items = read_items(many_settings(rows_of(tmp_path / "list.jsonl", given)))
    assert [(item.id, item.text) for item in items if not item.problem] == [
        ("x", "One."), ("X (2)", "Three."), ("é" * 50, "Five."), ("nul", "ab c")]
    problems = {item.id: item.problem for item in items if item.problem}
    assert list(problems) == ["X (3)", "half", " "]
    for problem, words in zip(problems.values(), ("too (upper", "lone surrogate", "id is empty"),
                              strict=True):
        assert words in problem


def many_settings(text):
    return tiny_config("synth", text=str(text), prompt=str(PROMPT))


def test_a_control_character_is_told_once_however_many_sentences_there_are(caplog):
    text = synth.read_text(tiny_config("synth", say="One\x07 is. Two is. Three\x00 is.\n\nFour is."))
    assert [part for _, paragraph in paragraphs_of(text) for part in sentences_of(paragraph)] == [
        "One is.", "Two is.", "Three is.", "Four is."]
    assert caplog.messages == ["removed 2 control characters from a text"]


@pytest.mark.parametrize("out, given", [("voice.wav", "voice.wav"), ("script.wav", "script.json")])
def test_what_is_given_to_be_read_is_never_replaced(tmp_path, monkeypatch, out, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"`{given}` would be replaced"):
        synth.output_path(tiny_config("synth", text=str(tmp_path / "script.json"), prompt="./voice.wav", out=out))


def test_a_dry_run_notices_a_recogniser_that_cannot_be_had(chain, tmp_path):
    config = one(chain, tmp_path / "x.wav", say="Hello.", verify=True, transcriber="nobody")
    with pytest.raises(MissingModelError, match="got `nobody`"):
        synth.plan(config)
