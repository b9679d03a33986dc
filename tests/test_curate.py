"""`halle curate` as a whole: what it writes, what it refuses, and that a killed run ends like an unkilled one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from tiny_corpora import audio_folder, record, sentence, settings, voice, write_lines

import stages.curation.clips
import stages.curation.transcribed
from stages.artifacts import storage
from stages.artifacts.lock import lock_output
from stages.artifacts.manifest import read_manifest
from stages.audio.io import audio_info, read_audio
from stages.curate import plan, run
from stages.curation.screening import Measurement
from stages.errors import BadInputsError, LockedError, UsageError


def results(out: Path) -> dict[str, str]:
    """Map every file that the result consists of to its hash; settings and provenance name paths and times."""
    own = ("config.json", "provenance.json", "checksums.json", "log.txt", "report.html")
    files = (file for file in out.rglob("*") if file.is_file() and file.name not in own)
    return {file.relative_to(out).as_posix(): storage.sha256_file(file) for file in files}


def rejected(out: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in storage.read_jsonl(out / "rejected.jsonl")}


def test_a_run_writes_clips_manifest_and_statistics(tmp_path):
    source = audio_folder(tmp_path / "src", 6)
    record(source / "u01.wav", 1, rate=48_000)
    (source / "u02.wav").write_bytes(b"RIFF")
    out = tmp_path / "out"
    summary = run(settings(source, out, max_bad="1"))
    assert (summary["inputs"], summary["accepted"], summary["rejected"]) == (6, 5, 1)
    manifest = read_manifest(out)
    assert [u.id for u in manifest.utterances] == ["u00", "u01", "u03", "u04", "u05"]
    second = manifest.utterances[1]
    assert (second.text, second.speaker, second.start, second.duration) == (sentence(1), "s1", 0.0, 3.0)
    assert (second.extra["source"], second.extra["sample_rate"]) == ("u01.wav", 24_000)
    info = audio_info(second.audio)
    assert (info.sample_rate, info.channels, info.format, info.num_samples) == (24_000, 1, "FLAC", 72_000)
    assert np.abs(read_audio(second.audio) - voice(1))[2000:-2000].max() < 0.01
    assert rejected(out) == {"u02": "NOT_AUDIO"}
    statistics = storage.read_json(out / "statistics.json")
    assert statistics["reasons"] == {"NOT_AUDIO": 1} and statistics["bad_audio"] == 1
    assert (statistics["clips"], statistics["hours"], statistics["mean_seconds"]) == (5, 0.0042, 3.0)
    assert {name: values["clips"] for name, values in statistics["speakers"].items()} == {"s0": 2, "s1": 3}
    storage.verify_checksums(out)
    assert not (out / "journal.jsonl").exists()


def test_joined_utterances_hold_their_pieces_and_pauses(tmp_path):
    source = audio_folder(tmp_path / "src", 8, seconds=2.0)
    summary = run(settings(source, tmp_path / "out", join_seconds=(4.0, 7.0), validation_share=0, test_share=0))
    assert summary["accepted"] + summary["rejected"] == 8 and summary["clips"] >= 2
    for utterance in read_manifest(tmp_path / "out").utterances:
        joined = utterance.extra["joined"]
        assert len({int(name[1:]) % 2 for name in joined}) == 1, "one speaker"
        assert utterance.text == " ".join(sentence(int(name[1:])) for name in joined)
        assert 4.0 <= utterance.duration <= 7.0
        waveform, position = read_audio(utterance.audio), 0
        for name, pause in zip(joined, [*utterance.extra["pauses"], 0.0], strict=True):
            piece = waveform[position : position + 48_000]
            assert np.abs(piece - voice(int(name[1:]), 2.0))[200:-200].max() < 1e-3
            position += 48_000 + round(pause * 24_000)
            assert not waveform[position - round(pause * 24_000) : position].any()
        assert position == len(waveform)


def test_references_point_to_the_originals(tmp_path):
    source = audio_folder(tmp_path / "src", 3)
    row = {"file_name": "u01.wav", "text": "a part of it", "start": 1.0, "duration": 1.5}
    write_lines(source / "metadata.jsonl", row)
    run(settings(source, tmp_path / "out", clips="reference"))
    (utterance,) = read_manifest(tmp_path / "out").utterances
    assert utterance.audio == (source / "u01.wav").resolve()
    assert (utterance.start, utterance.duration) == (1.0, 1.5)
    assert not (tmp_path / "out" / "clips").exists()
    again = run(settings(tmp_path / "out", tmp_path / "clips"))
    assert (again["layout"], again["clips"]) == ("manifest", 1)
    (clip,) = read_manifest(tmp_path / "clips").utterances
    part = read_audio(utterance.audio, start=utterance.start, duration=utterance.duration)
    assert np.abs(read_audio(clip.audio) - part).max() < 1e-3


def test_too_much_bad_audio_stops_the_run_and_keeps_what_was_found(tmp_path):
    source = audio_folder(tmp_path / "src", 4)
    for name in ("u00.wav", "u01.wav"):
        (source / name).write_bytes(b"")
    config = settings(source, tmp_path / "out")
    with pytest.raises(BadInputsError, match="at most `10%` of 4 recordings to be bad, got 2: 2 EMPTY_FILE"):
        run(config)
    assert rejected(tmp_path / "out") == {"u00": "EMPTY_FILE", "u01": "EMPTY_FILE"}
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    assert run(config.model_copy(update={"max_bad": "2"}))["accepted"] == 2


def test_ordinary_filters_do_not_count_as_bad(tmp_path):
    source = audio_folder(tmp_path / "src", 4)
    for index in range(3):
        record(source / f"u{index:02d}.wav", index, seconds=0.5)
    assert run(settings(source, tmp_path / "out", max_bad="0"))["reasons"] == {"TOO_SHORT": 3}
    with pytest.raises(BadInputsError, match="none of 4 recordings was accepted: 4 TOO_SHORT"):
        run(settings(source, tmp_path / "none", min_seconds=5.0))


def test_a_second_run_decodes_nothing_and_changes_nothing(tmp_path, monkeypatch):
    config = settings(audio_folder(tmp_path / "src", 3), tmp_path / "out")
    first = run(config)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.*") if file.suffix != ".txt"}
    monkeypatch.setattr("stages.curation.transcribed.measure", None)
    monkeypatch.setattr("stages.curation.transcribed.write_utterances", None)
    assert run(config) == first
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_a_finished_result_outlives_its_source(tmp_path):
    source = audio_folder(tmp_path / "src", 3)
    config = settings(source, tmp_path / "out")
    first = run(config)
    source.rename(tmp_path / "elsewhere")
    assert run(config) == first


def test_changed_recordings_and_settings_are_refused_or_begun_again(tmp_path):
    source = audio_folder(tmp_path / "src", 3)
    config = settings(source, tmp_path / "out")
    run(config)
    with pytest.raises(UsageError, match=r"`min_seconds` was `1\.0`, is `2\.0`"):
        run(config.model_copy(update={"min_seconds": 2.0}))
    changed = config.model_copy(update={"sample_rate": 16_000, "allow_change": ("sample_rate",)})
    assert run(changed)["clips"] == 3
    assert {audio_info(u.audio).sample_rate for u in read_manifest(tmp_path / "out").utterances} == {16_000}
    record(source / "u00.wav", 0, seconds=4.0)
    with pytest.raises(UsageError, match="`source` was"):
        run(changed)
    assert run(changed.model_copy(update={"restart": True}))["clips"] == 3
    assert (tmp_path / "out.old-1" / "manifest.jsonl").is_file()


def test_any_number_of_workers_makes_the_same_bytes(tmp_path):
    source = audio_folder(tmp_path / "src", 9)
    for workers in (1, 4):
        run(settings(source, tmp_path / f"out{workers}", workers=workers, join_seconds=(5.0, 8.0)))
    first, second = (results(tmp_path / f"out{workers}") for workers in (1, 4))
    assert first == second


def test_a_folder_in_use_and_a_foreign_folder_are_refused(tmp_path):
    source = audio_folder(tmp_path / "src", 2)
    with lock_output(tmp_path / "out"), pytest.raises(LockedError):
        run(settings(source, tmp_path / "out"))
    with pytest.raises(UsageError, match="no halle stage made it"):
        run(settings(source, source))


def test_a_plan_reads_and_writes_nothing(tmp_path):
    source = audio_folder(tmp_path / "src", 4)
    config = settings(source, tmp_path / "out")
    found = plan(config)
    assert (found["layout"], found["recordings"], found["speakers"]) == ("audiofolder", 4, 2)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="no halle stage made it"):
        plan(settings(source, source))


def test_ids_become_file_names_everywhere(tmp_path):
    source = tmp_path / "src"
    rows = []
    for index, name in enumerate(["A", "a", "x/y:z", "é ü", "long" * 40]):
        record(source / f"{index}.wav", index)
        rows.append({"file_name": f"{index}.wav", "text": sentence(index), "id": name})
    write_lines(source / "metadata.jsonl", *rows)
    run(settings(source, tmp_path / "out"))
    utterances = read_manifest(tmp_path / "out").utterances
    assert [u.id for u in utterances] == [row["id"] for row in rows]
    names = [u.audio.name.casefold() for u in utterances]
    assert len(set(names)) == 5 and all(name.isascii() and len(name) < 130 and ":" not in name for name in names)
    for index, utterance in enumerate(utterances):
        assert np.abs(read_audio(utterance.audio) - voice(index)).max() < 1e-3


class Killed(BaseException):
    """Stands for a kill: nothing in the stages catches it."""


def count_writes(monkeypatch, config) -> int:
    """Run to the end and return how often the storage was written to."""
    calls = []
    for name in ("atomic_path", "append_jsonl"):
        monkeypatch.setattr(storage, name, counting(getattr(storage, name), calls, None))
    run(config)
    monkeypatch.undo()
    return len(calls)


def counting(original, calls: list, fatal: int | None):
    def wrapper(*arguments, **options):
        calls.append(1)
        if len(calls) == fatal:
            raise Killed
        return original(*arguments, **options)

    return wrapper


def test_a_run_stopped_at_any_write_ends_with_the_same_bytes(tmp_path, monkeypatch):
    source = audio_folder(tmp_path / "src", 5, seconds=2.0)
    (source / "u03.wav").write_bytes(b"")
    changes = {"join_seconds": (2.0, 5.0), "max_bad": "1", "workers": 1}
    total = count_writes(monkeypatch, settings(source, tmp_path / "whole", **changes))
    expected = results(tmp_path / "whole")
    assert total > 10
    for fatal in range(1, total + 1):
        config = settings(source, tmp_path / f"out{fatal}", **changes)
        calls: list = []
        for name in ("atomic_path", "append_jsonl"):
            monkeypatch.setattr(storage, name, counting(getattr(storage, name), calls, fatal))
        with pytest.raises(Killed):
            run(config)
        monkeypatch.undo()
        assert not storage.is_complete(config.out) or not (Path(config.out) / "report.html").exists()
        run(config)
        assert results(Path(config.out)) == expected


def test_finished_recordings_are_not_decoded_again(tmp_path, monkeypatch):
    source = audio_folder(tmp_path / "src", 6)
    config = settings(source, tmp_path / "out", workers=1)
    calls: list = []
    monkeypatch.setattr(storage, "append_jsonl", counting(storage.append_jsonl, calls, 5))
    with pytest.raises(Killed):
        run(config)
    monkeypatch.undo()
    with (tmp_path / "out" / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "u03", "rea')  # a kill can tear the last line
    decoded = []
    original = stages.curation.transcribed.measure

    def watched(item, *rest):
        decoded.append(item.id)
        return original(item, *rest)

    monkeypatch.setattr(stages.curation.transcribed, "measure", watched)
    run(config)
    assert decoded == ["u03", "u04", "u05"]


def test_finished_clips_are_not_written_again(tmp_path, monkeypatch):
    config = settings(audio_folder(tmp_path / "src", 6), tmp_path / "out", workers=1)
    calls: list = []
    monkeypatch.setattr("stages.curation.clips.write_audio", counting(stages.curation.clips.write_audio, calls, 4))
    with pytest.raises(Killed):
        run(config)
    monkeypatch.undo()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "clips").iterdir()}
    run(config)
    assert len(before) in (3, 4, 5)  # the thread may be ahead of the failure that stops it
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_an_unfinished_run_forgets_what_other_settings_found(tmp_path):
    source = audio_folder(tmp_path / "src", 4)
    config = settings(source, tmp_path / "out", workers=1, sample_rate=16_000, max_seconds=2.0)
    with pytest.raises(BadInputsError, match="4 TOO_LONG"):
        run(config)
    changed = config.model_copy(update={"max_seconds": 9.0, "allow_change": ("max_seconds",)})
    assert run(changed)["clips"] == 4


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs fork and waitid")
@pytest.mark.parametrize("fatal", [3, 6, 9, 12, 15])
def test_a_run_killed_with_signal_9_is_continued(tmp_path, fatal):
    source = audio_folder(tmp_path / "src", 5)
    run(settings(source, tmp_path / "whole", workers=1))
    config = settings(source, tmp_path / "out", workers=1)
    child = os.fork()
    if child == 0:
        calls: list = []
        replace = os.fsync

        def deadly(*arguments):
            calls.append(1)
            if len(calls) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(*arguments)

        os.fsync = deadly
        run(config)
        os._exit(0)
    died = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert (died.si_code, died.si_status) == (os.CLD_KILLED, signal.SIGKILL)
    assert not storage.is_complete(config.out)
    run(config)  # although the dead process still lingers in the process table
    os.waitpid(child, 0)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".halle-tmp-*"))


@pytest.mark.parametrize("text", ["10 percent", "-1", ""])
def test_impossible_settings_are_refused(text):
    with pytest.raises(ValueError, match="max_bad"):
        settings("x", max_bad=text)
    with pytest.raises(ValueError, match="join_seconds"):
        settings("x", join_seconds=(8.0, 4.0))
    with pytest.raises(ValueError, match="reference"):
        settings("x", join_seconds=(4.0, 8.0), clips="reference")


def test_bad_allowed_counts_and_shares():
    assert settings("x", max_bad="10%").bad_allowed(25) == 2
    assert settings("x", max_bad="0.5%").bad_allowed(1000) == 5
    assert settings("x", max_bad="3").bad_allowed(1000) == 3


def test_the_manifest_is_one_json_object_a_line(tmp_path):
    source = audio_folder(tmp_path / "src", 2)
    run(settings(source, tmp_path / "out", speaker="x"))
    lines = (tmp_path / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[0])
    assert list(row)[:7] == ["id", "audio", "start", "duration", "speaker", "text", "split"]
    assert row["audio"] == "clips/u00.flac"


def test_what_only_the_machine_was_to_blame_for_is_tried_again(tmp_path, monkeypatch):
    source, out = audio_folder(tmp_path / "src", 4), tmp_path / "out"
    measured = stages.curation.transcribed.measure

    def denied(recording, root, config):
        return Measurement(recording.id, "DENIED", "no permission to read it") if recording.id == "u02" else \
            measured(recording, root, config)

    monkeypatch.setattr(stages.curation.transcribed, "measure", denied)
    with pytest.raises(BadInputsError, match="1 DENIED"):
        run(settings(source, out, max_bad="0"))
    monkeypatch.setattr(stages.curation.transcribed, "measure", measured)
    assert run(settings(source, out, max_bad="0"))["accepted"] == 4


def test_a_corrected_licence_is_another_source(tmp_path):
    source = audio_folder(tmp_path / "src", 3)
    table = source / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    for licence in ("cc-by-4.0", "cc-by-nc-4.0"):
        write_lines(table, *(json.dumps(row | {"license": licence}) for row in rows))
        if licence == "cc-by-4.0":
            run(settings(source, tmp_path / "out"))
        else:
            with pytest.raises(UsageError, match="begun with other settings"):
                run(settings(source, tmp_path / "out"))
