"""Recordings without transcripts: steps are done once, killed runs go on, and any number of processes gives one result.

Stand-ins do the steps (stand_in_steps.py), except `check`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import stand_in_steps
import torch
from tiny_corpora import record, settings

from stages.artifacts import storage
from stages.artifacts.manifest import read_manifest
from stages.artifacts.run_dir import Output
from stages.audio.io import audio_info
from stages.curate import plan, run
from stages.curation import chain
from stages.curation.readers import read_corpus
from stages.curation.throughput import MEASURED
from stages.curation.untranscribed import curate_untranscribed, open_work
from stages.curation.work import belongs_to
from stages.errors import BadInputsError, HalleError, MissingModelError, UsageError

OWN = ("config.json", "provenance.json", "checksums.json", "log.txt", "report.html")


@pytest.fixture(autouse=True)
def without_models(monkeypatch):
    monkeypatch.setattr(chain, "STEPS", stand_in_steps.STEPS)


@pytest.fixture
def source(tmp_path) -> Path:
    """Seven recordings: four good ones, one noise, one damaged and one twice."""
    folder = tmp_path / "src"
    for index, name in enumerate(("one", "sub/two", "three", "four", "noisy", "broken", "copy")):
        record(folder / f"{name}.wav", 3 if name == "copy" else index, 4.0 + 0.5 * (3 if name == "copy" else index))
    (folder / "broken.wav").write_bytes((folder / "broken.wav").read_bytes()[:-999])
    return folder


def config_of(source, out, **changes):
    return settings(source, out, **{"workers": 1, "max_bad": "1", **changes})


def results(out: Path) -> dict[str, str]:
    """Map the files of a result to their hashes, without the work that led there."""
    files = (file for file in out.rglob("*") if file.is_file() and file.name not in OWN)
    return {name: storage.sha256_file(file) for file in files
            if not (name := file.relative_to(out).as_posix()).startswith("work/")}


def runs_of(monkeypatch, *names: str) -> list[tuple[str, str]]:
    """Return a list that fills with (step, id) of what the named steps do from now on."""
    done = []

    def watched(step):
        def run_step(recording, inputs, config):
            done.append((step.name, recording.id))
            return step.run(recording, inputs, config)

        return type(step)(step.name, step.needs, step.settings, run_step, step.missing, step.beside)

    monkeypatch.setattr(chain, "STEPS", tuple(watched(step) if step.name in names else step for step in chain.STEPS))
    return done


def test_utterances_keep_where_they_come_from_and_all_seconds_are_accounted_for(source, tmp_path):
    summary = run(config_of(source, tmp_path / "out", license="CC0", validation_share=0, test_share=0))
    rows = storage.read_jsonl(tmp_path / "out" / "manifest.jsonl")
    assert [row["id"] for row in rows] == [f"{name}-{number:04d}" for name in ("copy", "one", "sub_two", "three")
                                          for number in (1, 2)]
    row = rows[5]
    assert {key: row[key] for key in ("source", "source_start", "license", "speaker", "language", "quality")} == {
        "source": "sub/two.wav", "source_start": 2.25, "license": "CC0", "speaker": "sub_two-B", "language": "en",
        "quality": 3.0}
    assert row["text"] == "sub_two 5 sub_two 6 sub_two 7 sub_two 8" and row["words"] == 8
    assert audio_info(read_manifest(tmp_path / "out").utterances[5].audio).duration == row["duration"] == 2.25
    statistics = storage.read_json(tmp_path / "out" / "statistics.json")
    assert statistics["dropped_seconds"] == {"DUPLICATE": 5.5, "LOW_QUALITY": 6.0, "TRUNCATED": 0.0}
    assert statistics["input_seconds"] == statistics["kept_seconds"] + 11.5 == 30.5
    rejected = {row["id"]: row["reason"] for row in storage.read_jsonl(tmp_path / "out" / "rejected.jsonl")}
    assert rejected == {"noisy": "LOW_QUALITY", "broken": "TRUNCATED", "four": "DUPLICATE"}
    assert row.items() >= {"sample_rate": 24_000, "split": "train", "duration": 2.25}.items()
    assert summary["steps"]["gate"]["done"] == 6 and summary["steps"]["vad"]["done"] == 5
    assert summary["steps"]["check"]["hours_per_hour"] > 0
    storage.verify_checksums(tmp_path / "out")


def test_lost_seconds_are_noticed(source, tmp_path, monkeypatch):
    def lossy(recording, inputs, config):
        found = stand_in_steps.cut(recording, inputs, config)
        return {**found, "utterances": found["utterances"][1:]}

    cut = chain.STEPS[-1]
    monkeypatch.setattr(chain, "STEPS", (*chain.STEPS[:-1], type(cut)("cut", cut.needs, cut.settings, lossy)))
    with pytest.raises(AssertionError, match="s kept and"):
        run(config_of(source, tmp_path / "out"))


def test_steps_can_be_run_one_after_the_other(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="step `vad` needs what `check` found, which 7 of 7") as caught:
        run(config_of(source, out, steps=("vad",)))
    assert caught.value.hint == "--steps check,vad"
    told = run(config_of(source, out, steps=("check", "gate")))
    assert told["steps"]["gate"]["done"] == 6 and not storage.is_complete(out)
    with pytest.raises(UsageError, match="`write` needs what `vad` and `diarize` and `transcribe` and `cut` found"):
        run(config_of(source, out, steps=("write",)))
    run(config_of(source, out, steps=("vad", "diarize", "transcribe", "cut")))
    run(config_of(source, out, steps=("write",)))
    run(config_of(source, tmp_path / "whole"))
    assert results(out) == results(tmp_path / "whole")


def test_a_finished_run_does_nothing_again(source, tmp_path, monkeypatch):
    config = config_of(source, tmp_path / "out")
    first = run(config)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.*") if file.suffix != ".txt"}
    done = runs_of(monkeypatch, "check", "gate", "vad", "diarize", "transcribe", "cut")
    assert run(config) == first
    assert done == [] and before == {file: file.stat().st_mtime_ns for file in before}


def test_a_changed_setting_redoes_its_step_and_what_follows(source, tmp_path, monkeypatch):
    config = config_of(source, tmp_path / "out", steps=("check", "gate", "vad", "diarize", "transcribe", "cut"))
    run(config)
    done = runs_of(monkeypatch, "check", "gate", "vad", "diarize", "transcribe", "cut")
    with pytest.raises(UsageError, match="`max_seconds` was"):
        run(config.model_copy(update={"max_seconds": 20.0}))
    run(config.model_copy(update={"max_seconds": 20.0, "allow_change": ("max_seconds",)}))
    assert done == []
    run(config.model_copy(update={"max_seconds": 20.0, "min_rate": 8000, "allow_change": ("max_seconds", "min_rate")}))
    assert {step for step, _ in done} == {"check", "gate", "vad", "diarize", "transcribe", "cut"}


def test_a_file_beside_a_recording_redoes_what_reads_it(source, tmp_path, monkeypatch):
    config = config_of(source, tmp_path / "out")
    run(config)
    done = runs_of(monkeypatch, "check", "gate", "vad", "diarize", "transcribe", "cut")
    (source / "sub" / "two.rttm").write_text("SPEAKER", encoding="utf-8")
    run(config)
    assert done == [("diarize", "sub_two"), ("cut", "sub_two")]
    (source / "sub" / "two.rttm").unlink()
    run(config)
    assert len(done) == 4


def test_a_new_recording_leaves_the_others_alone(source, tmp_path, monkeypatch):
    config = config_of(source, tmp_path / "out")
    run(config)
    record(source / "five.wav", 9, 7.0)
    done = runs_of(monkeypatch, "check", "cut")
    with pytest.raises(UsageError, match="`source` was"):
        run(config)
    run(config.model_copy(update={"allow_change": ("source",)}))
    assert done == [("check", "five"), ("cut", "five")]
    assert len(read_manifest(tmp_path / "out").utterances) == 10


def test_clips_of_another_cut_are_not_kept(source, tmp_path, monkeypatch):
    config = config_of(source, tmp_path / "out", validation_share=0, test_share=0)
    run(config)

    def later(recording, inputs, config):
        found = stand_in_steps.diarize(recording, inputs, config)
        (first, second) = found["turns"]
        return {"turns": [[first[0], first[1] + 0.5, "A"], [second[0] + 0.5, second[1], "B"]]}

    steps = tuple(type(step)("diarize", step.needs, lambda config: {"version": 2}, later) if step.name == "diarize"
                  else step for step in chain.STEPS)
    monkeypatch.setattr(chain, "STEPS", steps)
    run(config)
    first = read_manifest(tmp_path / "out").utterances[0]
    assert audio_info(first.audio).duration == first.duration == 3.25


def test_a_recording_that_cannot_be_decoded_by_a_later_step_is_dropped(source, tmp_path, monkeypatch):
    def vanished(recording, inputs, config):
        if recording.id == "one":
            audio_info(source / "nowhere.wav")
        return stand_in_steps.vad(recording, inputs, config)

    steps = tuple(type(step)("vad", step.needs, step.settings, vanished) if step.name == "vad" else step
                  for step in chain.STEPS)
    monkeypatch.setattr(chain, "STEPS", steps)
    run(config_of(source, tmp_path / "out", max_bad="2"))
    rejected = {row["id"]: row["reason"] for row in storage.read_jsonl(tmp_path / "out" / "rejected.jsonl")}
    assert rejected["one"] == "MISSING"


def test_too_many_damaged_recordings_stop_the_run_before_the_costly_steps(source, tmp_path, monkeypatch):
    done = runs_of(monkeypatch, "gate")
    with pytest.raises(BadInputsError, match="at most `0` of 7 recordings to be bad, got 1: 1 TRUNCATED"):
        run(config_of(source, tmp_path / "out", max_bad="0"))
    assert done == []
    assert [row["id"] for row in storage.read_jsonl(tmp_path / "out" / "rejected.jsonl")] == ["broken"]
    head = tmp_path / "out" / "work" / "check" / "broken.json"
    for reason, tried in (("TRUNCATED", "TRUNCATED"), ("NEEDS_AV", "TRUNCATED")):  # `av` may be there now
        head.write_text(head.read_text(encoding="utf-8").replace("TRUNCATED", reason), encoding="utf-8")
        with pytest.raises(BadInputsError, match=f"1 {tried}"):
            run(config_of(source, tmp_path / "out", max_bad="0"))
    with pytest.raises(BadInputsError, match=r"none of 7 recordings was accepted: .* TOO_SHORT"):
        run(config_of(source, tmp_path / "none", min_seconds=5.5, max_bad="7"))


def test_a_missing_model_is_named_before_anything_is_decoded(source, tmp_path, monkeypatch):
    def missing(config):
        return "the package `pyannote.audio`"

    steps = tuple(type(step)(step.name, step.needs, step.settings, step.run, missing) if step.name == "diarize"
                  else step for step in chain.STEPS)
    monkeypatch.setattr(chain, "STEPS", steps)
    with pytest.raises(MissingModelError, match="step `diarize` needs the package `pyannote") as caught:
        run(config_of(source, tmp_path / "out"))
    assert caught.value.hint == "choose another model, or do the others now: --steps check,gate,vad,transcribe"
    assert not (tmp_path / "out" / "work").exists()
    assert plan(config_of(source, tmp_path / "plan"))["missing_models"] == {"diarize": "the package `pyannote.audio`"}


def test_a_plan_counts_hours_and_estimates_from_what_was_measured(source, tmp_path):
    config = config_of(source, tmp_path / "out")
    found = plan(config)
    assert (found["layout"], found["recordings"], found["unreadable"]) == ("recordings", 7, 1)
    assert found["hours"] == pytest.approx(30.5 / 3600, abs=1e-4) and not (tmp_path / "out").exists()
    run(config.model_copy(update={"steps": ("check", "gate")}))
    estimate = plan(config)["estimate"]
    check, _, vad, _, transcribe, _, write = estimate["steps"]
    assert (write["step"], write["measured"]) == ("write", "elsewhere")
    assert (check["measured"], check["hours_left"], vad["measured"]) == ("here", 0.0, "elsewhere")
    assert transcribe["hours_for_186000"] == round(186_000 / MEASURED["transcribe pocketsphinx"])
    assert estimate["process_hours_for_186000"] == sum(step["hours_for_186000"] for step in estimate["steps"])
    other = config_of(source, tmp_path / "other", steps=("transcribe",), transcriber="another")
    (step,) = plan(other)["estimate"]["steps"]
    assert (step["measured"], step["hours_for_186000"]) == ("never", None)


# ---- kills and processes


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs fork and waitid")
@pytest.mark.parametrize("fatal", [4, 15, 41, 70, 82])
def test_a_run_killed_with_signal_9_ends_with_the_same_bytes(source, tmp_path, fatal):
    run(config_of(source, tmp_path / "whole"))
    config = config_of(source, tmp_path / "out")
    child = os.fork()
    if child == 0:
        flush, calls = os.fsync, []

        def deadly(*arguments):
            calls.append(1)
            if len(calls) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return flush(*arguments)

        os.fsync = deadly
        run(config)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert not storage.is_complete(config.out)
    run(config)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".halle-tmp-*"))


def test_several_workers_write_what_one_writes(source, tmp_path):
    run(config_of(source, tmp_path / "one"))
    run(config_of(source, tmp_path / "two", workers=2))
    assert results(tmp_path / "one") == results(tmp_path / "two")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of Unix")
def test_a_recording_that_kills_whoever_reads_it_is_dropped(source, tmp_path, monkeypatch):
    (source / "sub" / "two.wav").rename(tmp_path / "two.wav")
    run(config_of(source, tmp_path / "without", validation_share=0, test_share=0))
    (tmp_path / "two.wav").rename(source / "sub" / "two.wav")
    monkeypatch.setattr(chain, "STEPS", stand_in_steps.DEADLY)
    run(config_of(source, tmp_path / "out", workers=2, max_bad="2", validation_share=0, test_share=0))
    (dropped,) = [row for row in storage.read_jsonl(tmp_path / "out" / "rejected.jsonl") if row["id"] == "sub_two"]
    assert (dropped["reason"], dropped["detail"]) == ("DECODER_CRASH", "step `vad` died of it (SIGSEGV)")
    with_it, without = ((tmp_path / out / "manifest.jsonl").read_bytes() for out in ("out", "without"))
    assert with_it == without
    with pytest.raises(HalleError, match="`vad` died of each of 2 recordings"):
        run(config_of(source, tmp_path / "dead", workers=2, language="dead"))


class Thread:
    """Stands for one of several processes: a thread that waits for the others where a process would."""

    device = torch.device("cpu")

    def __init__(self, rank: int, barrier: threading.Barrier):
        self.rank, self.world_size, self.wait = rank, barrier.parties, barrier.wait

    def on_main(self, work):
        try:
            self.wait()
            result = work() if self.rank == 0 else None
            self.wait()
        except Exception:
            self.wait.__self__.abort()
            raise
        return result


@pytest.mark.parametrize("count", [2, 3, 8])
def test_any_number_of_processes_writes_what_one_writes(source, tmp_path, count):
    run(config_of(source, tmp_path / "one"))
    config = config_of(source, tmp_path / "many")
    corpus, barrier = read_corpus(config), threading.Barrier(count, timeout=60)
    done: list[tuple[int, int]] = []

    def work(rank: int) -> None:
        output = Output(tmp_path / "many", False)
        curate_untranscribed(corpus, config, output, open_work(corpus, config), Thread(rank, barrier))
        done.append((rank, len(list((tmp_path / "many" / "clips").glob("*.flac")))))

    (tmp_path / "many").mkdir()
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rank for rank, _ in done) == list(range(count)), "no process failed"
    assert results(tmp_path / "many") == results(tmp_path / "one")


def test_two_real_processes_write_what_one_writes(source, tmp_path):
    run(config_of(source, tmp_path / "one"))
    values = config_of(source, tmp_path / "two").model_dump(mode="json")
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent.parent), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         here / "curate_with_stand_ins.py", tmp_path / "config.json"],
        env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("decoded") == 7 and "rank 0 decoded" in finished.stdout
    assert "rank 1 decoded" in finished.stdout
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_every_recording_belongs_to_one_process():
    names = [f"episode {index}" for index in range(200)]
    for world_size in (1, 2, 8):
        owners = [[belongs_to(name, rank, world_size) for rank in range(world_size)] for name in names]
        assert all(sum(owner) == 1 for owner in owners)
        assert all(any(owner[rank] for owner in owners) for rank in range(world_size))
