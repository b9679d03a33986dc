"""synth, eval and curate on several processes: the files of one, failures counted once, a kill that costs nothing."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import run_ranks, said
from tiny_chain import SPEECH, tiny_config
from tone_speech import ToneReader, make_hypotheses, make_set, settings

from stages import curate, evaluate, synth
from stages.artifacts import storage
from stages.artifacts.storage import read_json, read_jsonl, verify_checksums
from stages.speech import transcriber

OF_THE_RUN = {"config.json", "provenance.json", "log.txt", "checksums.json"}
METRICS = ("wer", "wer_mean", "duration_distance", "skipped_words")

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
              pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name not in OF_THE_RUN}


def die_at(number: int) -> None:
    """Have the second process killed when it writes the n-th line of a journal."""
    if os.environ.get("RANK") != "1":
        return
    append, calls = storage.append_jsonl, []

    def append_or_die(path, row):
        calls.append(path)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        append(path, row)

    storage.append_jsonl = append_or_die


# ---- eval


@pytest.fixture
def evaluation(tmp_path, monkeypatch):
    """Of eight utterances one is damaged; of a system's audio one is missing, and one no audio at all."""
    monkeypatch.setitem(transcriber._TRANSCRIBERS, "tone-reader", ToneReader)
    make_set(tmp_path / "set")
    (tmp_path / "set" / "clips" / "u2.wav").write_bytes(b"damaged")
    spoken = {"u0": (0, 5.0), "u1": (1, 5.5), "u3": (4, 6.5), "u5": (5, 1.0)}
    folder = make_hypotheses(tmp_path / "system", spoken)
    (folder / "u5.wav").write_bytes(b"no audio")
    return partial(settings, tmp_path, hypotheses=str(folder), metrics=METRICS, max_bad="1")


def test_an_evaluation_of_three_processes_is_that_of_one(evaluation, tmp_path):
    told = evaluate.run(evaluation(out=str(tmp_path / "one")))
    codes = run_ranks(3, lambda: evaluate.run(evaluation(out=str(tmp_path / "three"))), tmp_path / "log")
    assert codes == [0, 0, 0], said(tmp_path / "log")
    one, three = files_of(tmp_path / "one"), files_of(tmp_path / "three")
    assert three.keys() == one.keys() and {"made.jsonl", "measurements.jsonl", "report.html"} <= one.keys()
    assert [name for name in one if three[name] != one[name]] == []
    verify_checksums(tmp_path / "three")
    counts = read_json(tmp_path / "three" / "scores.json")["systems"]["system"]["counts"]
    assert counts == {"scored": 3, "missing": 1, "failed": 1, "unfinished": 0} and told["refused"] == 1
    log = (tmp_path / "three" / "log.txt").read_text(encoding="utf-8")
    assert log.count("`u2` refused") == 1


def test_too_many_bad_utterances_are_told_once_and_end_all_processes_with_the_code_of_one(evaluation, tmp_path):
    codes = run_ranks(3, lambda: evaluate.run(evaluation(max_bad="0")), tmp_path / "log")
    assert codes == [3, 3, 3], said(tmp_path / "log")
    assert said(tmp_path / "log").count("error:") == 1


def test_a_killed_process_ends_the_others_and_what_was_heard_is_not_heard_again(evaluation, tmp_path):
    heard = tmp_path / "heard"
    heard.mkdir()
    transcribe = ToneReader.transcribe

    def listen(self, waveform, sample_rate):
        (heard / f"{time.monotonic_ns()}").touch()
        return transcribe(self, waveform, sample_rate)

    evaluate.run(evaluation(out=str(tmp_path / "one")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToneReader, "transcribe", listen)
        began = time.monotonic()
        codes = run_ranks(2, lambda: (die_at(8), evaluate.run(evaluation())), tmp_path / "log")
        assert codes == [1, -signal.SIGKILL] and time.monotonic() - began < 120, said(tmp_path / "log")
        assert list((tmp_path / "out").glob("*.part-*"))
        codes = run_ranks(3, lambda: evaluate.run(evaluation()), tmp_path / "log")
    assert codes == [0, 0, 0], said(tmp_path / "log")
    sounds = {row["audio_sha256"] for row in read_jsonl(tmp_path / "out" / "transcripts.jsonl")}
    assert len(list(heard.iterdir())) == len(sounds) == 8
    own = {"made.jsonl", "transcripts.jsonl", "measurements.jsonl"}  # in the order in which it was done
    one, out = files_of(tmp_path / "one"), files_of(tmp_path / "out")
    assert out.keys() == one.keys()
    assert [name for name in one if name not in own and out[name] != one[name]] == []
    assert all(sorted(out[name].split(b"\n")) == sorted(one[name].split(b"\n")) for name in own)


# ---- synth


@pytest.fixture
def speaking(chain, tmp_path):
    """Six texts, one of which is no text."""
    texts = tmp_path / "texts"
    texts.mkdir()
    said = ("Good evening.", "The children did.", "Who?", "One.\n\nTwo.", "Thank you.")
    for name, text in zip("fbdac", said, strict=True):
        (texts / f"{name}.txt").write_text(text, encoding="utf-8")
    (texts / "e.txt").write_bytes(b"caf\xe9")
    return partial(tiny_config, "synth", text=str(texts), prompt=str(SPEECH / "prompt.ogg"), model=str(chain.model),
                   max_seconds=0.5, allow_unfinished=True, batch_size=2, max_bad="1", captions="srt")


def timeless(name: str, content: bytes):
    """Return a file without the times that its making took."""
    if not name.endswith((".json", "items.jsonl")):
        return content
    rows = [json.loads(line) for line in content.splitlines()] if name.endswith("l") else [json.loads(content)]
    taken = ("real_time_factor", "ar_seconds", "nar_seconds", "decode_seconds")
    return [{key: value for key, value in row.items() if key not in taken} for row in rows]


def assert_spoken_alike(folder: Path, other: Path) -> None:
    ours, theirs = files_of(folder), files_of(other)
    assert ours.keys() == theirs.keys() and len([name for name in ours if name.endswith(".wav")]) == 5
    assert [name for name in ours if timeless(name, ours[name]) != timeless(name, theirs[name])] == []


def test_texts_spoken_by_two_processes_and_after_a_kill_are_those_of_one(speaking, tmp_path):
    synth.run(speaking(out=str(tmp_path / "one")))
    codes = run_ranks(2, lambda: synth.run(speaking(out=str(tmp_path / "two"))), tmp_path / "log")
    assert codes == [0, 0], said(tmp_path / "log")
    assert_spoken_alike(tmp_path / "two", tmp_path / "one")
    assert [row["id"] for row in read_jsonl(tmp_path / "two" / "rejected.jsonl")] == ["e"]
    again = partial(synth.run, speaking(out=str(tmp_path / "killed")))
    codes = run_ranks(2, lambda: (die_at(2), again()), tmp_path / "log")
    assert codes == [1, -signal.SIGKILL], said(tmp_path / "log")
    spoken = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").glob("*.wav")}
    assert spoken and "part-1" in " ".join(file.name for file in (tmp_path / "killed").iterdir())
    assert again()["spoken_now"] < 5
    assert_spoken_alike(tmp_path / "killed", tmp_path / "one")


# ---- curate


def test_recordings_curated_by_three_processes_and_after_a_kill_are_those_of_one(recordings, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    rows = read_jsonl(recordings / "metadata.jsonl")[:9]
    for row in rows:
        (source / row["file_name"]).parent.mkdir(exist_ok=True)
        (source / row["file_name"]).write_bytes((recordings / row["file_name"]).read_bytes())
    (source / rows[4]["file_name"]).write_bytes(b"damaged")
    storage.write_jsonl(source / "metadata.jsonl", rows)
    configured = partial(tiny_config, "curate", source=str(source), max_bad="1")
    curate.run(configured(out=str(tmp_path / "one" / "data")))
    for name, killed_at in (("three", None), ("killed", 2)):
        config = configured(out=str(tmp_path / name / "data"))
        if killed_at:
            codes = run_ranks(2, lambda config=config: (die_at(2), curate.run(config)), tmp_path / "log")
            assert codes == [1, -signal.SIGKILL], said(tmp_path / "log")
        codes = run_ranks(3, lambda config=config: curate.run(config), tmp_path / "log")
        assert codes == [0, 0, 0], said(tmp_path / "log")
        one, many = files_of(tmp_path / "one" / "data"), files_of(tmp_path / name / "data")
        assert many.keys() == one.keys() and "rejected.jsonl" in one
        assert [file for file in one if many[file] != one[file]] == []
