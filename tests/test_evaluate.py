from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_tokens import tiny_codec
from tone_speech import (
    RATE,
    TEXTS,
    FakeCodec,
    FakePipeline,
    ToneReader,
    fake_codec,
    make_hypotheses,
    make_set,
    read,
    read_one,
    settings,
    tone,
)

from stages import evaluate
from stages.artifacts import storage
from stages.artifacts.storage import verify_checksums
from stages.audio.io import read_audio, write_audio
from stages.codec.registry import export_codec, load_codec
from stages.errors import BadInputsError, UsageError
from stages.metrics.opinion import DNSMOS
from stages.metrics.sounds import Sound
from stages.speech import transcriber
from stages.synthesis.sources import Prompter, Source, reconstruct

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "examples" / "speech"


@pytest.fixture(autouse=True)
def tone_reader(monkeypatch):
    monkeypatch.setitem(transcriber._TRANSCRIBERS, "tone-reader", ToneReader)
    # Two seconds an output, where it is installed
    monkeypatch.setattr(DNSMOS, "unavailable", lambda metric: "left out of these tests")


@pytest.fixture
def hypotheses(tmp_path):
    """Right but a second longer for u0..u2, another text for u3, nothing for u4 and u5, and a stranger."""
    make_set(tmp_path / "set")
    spoken = {"u0": (0, 5.0), "u1": (1, 5.5), "u2": (2, 6.0), "u3": (4, 6.5), "stranger": (0, 1.0)}
    return str(make_hypotheses(tmp_path / "hypotheses", spoken))


def test_a_folder_of_audio_is_scored_and_missing_files_count_as_all_words_deleted(tmp_path, hypotheses):
    result = evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    system, rows = read_one(tmp_path)
    scores = system["scores"]
    assert system["counts"] == {"scored": 4, "missing": 2, "failed": 0, "unfinished": 0}
    assert [row["status"] for row in rows.values()] == ["scored"] * 4 + ["missing"] * 2
    assert rows["u4"]["metrics"]["wer"]["value"] == 100.0 and rows["u4"]["reason"]
    wrong = rows["u3"]["metrics"]["wer"]["value"]
    assert wrong > 0 and scores["wer_mean"]["value"] == pytest.approx((wrong + 200) / 6)
    assert (scores["wer"]["denominator"], scores["wer"]["total"]) == (6, 6)
    assert scores["duration_distance"]["value"] == pytest.approx(1.0)
    assert scores["duration_distance"]["denominator"] == 4
    assert system["unknown_files"] == ["stranger.wav"]
    assert "4 matched, 2 missing, 1 of no utterance" in system["what"]
    told = result["systems"]["hypotheses"]
    assert told["missing"] == 2 and "WER (tone-reader), %" in told and told["duration WD, s"].endswith("[4 of 6]")


def test_the_recordings_are_scored_too(tmp_path, hypotheses):
    evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    scores = read(tmp_path)[0]["systems"]
    assert list(scores) == ["recordings", "hypotheses"]
    assert {"wer", "wer_mean", "utmos", "dnsmos"} <= set(scores["recordings"]["scores"])
    assert not {"speaker_similarity", "duration_distance"} & set(scores["recordings"]["scores"])
    wer = scores["recordings"]["scores"]["wer"]
    assert wer["value"] == 0.0 and wer["denominator"] == 6


def test_what_is_written_is_complete_and_states_what_results_rest_on(tmp_path, hypotheses):
    evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    scores = read(tmp_path)[0]
    rows = read_one(tmp_path)[1]
    verify_checksums(tmp_path / "out")
    assert scores["format_version"] == 1 and scores["setting"] == "cross-sentence"
    assert scores["recogniser"] == {"name": "tone-reader", "version": "1"}
    assert scores["normaliser"]["version"]
    for name, row in rows.items():
        assert (row["audio"] is None) == (name in ("u4", "u5"))
        assert row["audio"] is None or len(read_audio(tmp_path / "out" / row["audio"])) == row["seconds"] * RATE
    for path in ("audio/hypotheses/u0.wav", "recordings/u0.wav", rows["u0"]["audio"]):
        assert (tmp_path / "out" / path).is_file()
    assert "<audio" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_empty_reference_is_refused_and_shown_and_in_no_denominator(tmp_path, hypotheses):
    make_set(tmp_path / "set", text=lambda index: "..." if index == 0 else TEXTS[index])
    with pytest.raises(BadInputsError, match="no word left"):
        evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    evaluate.run(settings(tmp_path, hypotheses=hypotheses, max_bad="1"))
    scores, rows = read(tmp_path)
    assert "no word left" in rows["u0"]["refused"] and rows["u0"]["systems"] == {}
    assert scores["systems"]["hypotheses"]["scores"]["wer"]["total"] == 5
    assert scores["refused"] == {"the reference text has no word left after normalisation": 1}


def test_a_hypothesis_that_cannot_be_read_failed_and_counts_against_the_system(tmp_path, hypotheses):
    (Path(hypotheses) / "u1.wav").write_bytes(b"this is no audio at all")
    evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    _, rows = read_one(tmp_path)
    assert rows["u1"]["status"] == "failed" and "audio" in rows["u1"]["reason"]
    assert rows["u1"]["metrics"]["wer"]["value"] == 100.0


def test_a_damaged_recording_is_refused_and_does_not_count_against_the_system(tmp_path, hypotheses):
    damaged = tmp_path / "set" / "clips" / "u1.wav"
    damaged.write_bytes(b"this is no audio at all")
    evaluate.run(settings(tmp_path, hypotheses=hypotheses, max_bad="50%"))
    scores, rows = read(tmp_path)
    refused = {name for name, row in rows.items() if row["refused"]}
    assert refused == {"u1"} | {name for name, row in rows.items() if row["prompt"] == "u1"}
    assert scores["systems"]["hypotheses"]["scores"]["wer"]["total"] == 6 - len(refused)


def test_too_many_damaged_recordings_stop_the_evaluation_which_goes_on_when_they_are_mended(tmp_path, hypotheses):
    damaged = tmp_path / "set" / "clips" / "u1.wav"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"this is no audio at all")
    with pytest.raises(BadInputsError, match=r"at most 0 of 6 .*NOT_AUDIO"):
        evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    assert not (tmp_path / "out" / "scores.json").exists()
    damaged.write_bytes(whole)
    evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    assert read_one(tmp_path)[1]["u1"]["status"] == "scored"


def test_recordings_that_are_not_there_are_refused_before_anything_is_evaluated(tmp_path, hypotheses):
    (tmp_path / "set" / "clips" / "u1.wav").unlink()
    with pytest.raises(BadInputsError, match="1: its recording is not there"):
        evaluate.plan(settings(tmp_path, hypotheses=hypotheses))
    assert not (tmp_path / "out").exists()


def test_a_finished_evaluation_is_not_done_again(tmp_path, hypotheses, monkeypatch):
    first = evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    written = (tmp_path / "out" / "scores.json").stat().st_mtime_ns
    monkeypatch.setattr(evaluate, "load_transcriber", lambda name: pytest.fail("nothing is left to transcribe"))
    assert evaluate.run(settings(tmp_path, hypotheses=hypotheses)) == first
    assert (tmp_path / "out" / "scores.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("journal", ["made.jsonl", "transcripts.jsonl", "measurements.jsonl"])
@pytest.mark.parametrize("torn", ["", '{"path": "audio/hypo'])
def test_a_killed_evaluation_goes_on_where_it_was_and_ends_the_same(tmp_path, hypotheses, monkeypatch, journal, torn):
    evaluate.run(settings(tmp_path, hypotheses=hypotheses, out=str(tmp_path / "whole")))
    whole = (tmp_path / "whole" / journal).read_text(encoding="utf-8").splitlines()
    stay, append = len(whole) // 2, storage.append_jsonl

    def killed(path, row):
        if Path(path).name == journal and len(storage.read_journal(path)) == stay:
            raise KeyboardInterrupt
        append(path, row)

    monkeypatch.setattr(storage, "append_jsonl", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    assert not (tmp_path / "out" / "scores.json").exists()
    with (tmp_path / "out" / journal).open("a", encoding="utf-8") as file:
        file.write(torn)
    monkeypatch.setattr(storage, "append_jsonl", append)
    evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    assert read(tmp_path) == read(tmp_path, "whole")
    identified = {"made.jsonl": "path", "transcripts.jsonl": "audio_sha256", "measurements.jsonl": "key"}[journal]
    lines = [json.loads(line) for line in (tmp_path / "out" / journal).read_text(encoding="utf-8").splitlines()]
    assert [line[identified] for line in lines] == [json.loads(line)[identified] for line in whole]


def test_more_items_than_before_are_added_to_a_finished_evaluation(tmp_path, hypotheses):
    evaluate.run(settings(tmp_path, hypotheses=hypotheses, max_items=2))
    assert read(tmp_path)[0]["set"]["evaluated"] == 2
    evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    evaluate.run(settings(tmp_path, hypotheses=hypotheses, out=str(tmp_path / "whole")))
    assert read(tmp_path) == read(tmp_path, "whole")


def test_another_setting_or_another_model_of_that_name_in_the_same_folder_is_refused(tmp_path, with_codecs):
    make_set(tmp_path / "set", count=2)
    with_codecs(fake_codec("teacher", lambda index, waveform: waveform))
    evaluate.run(settings(tmp_path, setting="reconstruction"))
    with pytest.raises(UsageError, match="`setting` was `reconstruction`"):
        evaluate.run(settings(tmp_path))
    trained = fake_codec("teacher", lambda index, waveform: 0 * waveform, fingerprint="further trained")
    with_codecs(trained)
    with pytest.raises(UsageError, match="`system teacher` was `tttttttttttt`"):
        evaluate.plan(settings(tmp_path, setting="reconstruction"))
    evaluate.run(settings(tmp_path, setting="reconstruction", allow_change=("system teacher",)))
    assert read_one(tmp_path)[0]["scores"]["wer"]["value"] == 100.0


def test_a_plan_checks_the_inputs_and_writes_nothing(tmp_path, hypotheses):
    told = evaluate.plan(settings(tmp_path, hypotheses=hypotheses))
    assert told["utterances"] == 6
    chosen = {*told["metrics"], *told.get("unavailable", ())}
    assert {"wer", "wer_mean", "speaker_similarity", "utmos", "dnsmos", "duration_distance"} <= chosen
    assert not {"pesq", "stoi", "real_time_factor"} & chosen
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="MinutesSpeech"):
        evaluate.plan(settings(tmp_path, set="test-90s", data_root=str(tmp_path)))


@pytest.fixture
def with_pipeline(monkeypatch):
    """Let the evaluation speak with a fake pipeline, prompted by the real code."""

    def install(pipeline):
        def sources(config, utterances):
            prompter = Prompter(pipeline, FakeCodec(), config)
            return (Source("fake", "a fake", "f" * 64, lambda device: prompter, speaks=True),)

        monkeypatch.setattr(evaluate, "find_sources", sources)
        return pipeline

    return install


def test_across_sentences_the_prompt_is_another_utterance_with_its_text_and_only_the_answer_is_scored(
    tmp_path, with_pipeline
):
    make_set(tmp_path / "set")
    pipeline = with_pipeline(FakePipeline(seconds=2.0))
    evaluate.run(settings(tmp_path))
    scores, rows = read(tmp_path)
    for asked, row in zip(pipeline.asked, rows.values(), strict=True):
        other = int(row["prompt"][1:])
        assert row["prompt"] != row["id"] and asked.text == row["text"] and asked.prompt.text == TEXTS[other]
        whole = read_audio(tmp_path / "set" / "clips" / f"u{other}.wav")
        np.testing.assert_array_equal(asked.prompt.waveform, whole[: len(whole) // 100 * 100])
        assert (row["systems"]["fake"]["seconds"], row["systems"]["fake"]["prompt_seconds"]) == (2.0, 0.0)
    assert scores["systems"]["fake"]["scores"]["wer"]["value"] == 0.0
    assert scores["systems"]["fake"]["scores"]["real_time_factor"]["value"] > 0
    assert len({asked.seed for asked in pipeline.asked}) == 6
    with soundfile.SoundFile(tmp_path / "out" / "audio" / "fake" / "u0.wav") as sound:
        assert "synthetic" in sound.comment


def test_a_continuation_is_prompted_by_its_own_beginning_cut_before_encoding_and_scored_with_it(
    tmp_path, with_pipeline
):
    make_set(tmp_path / "set")
    pipeline = with_pipeline(FakePipeline(seconds=4.0))
    evaluate.run(settings(tmp_path, setting="continuation", prompt_seconds=3.0))
    scores, rows = read(tmp_path)
    for asked, row in zip(pipeline.asked, rows.values(), strict=True):
        beginning = read_audio(tmp_path / "set" / "clips" / f"{row['id']}.wav", duration=3.0)
        np.testing.assert_array_equal(asked.prompt.streams["seen"][0, 0].numpy(), beginning)
        assert (asked.text, asked.prompt.text) == (row["text"], "")  # the whole transcript, and no other text
        assert (row["systems"]["fake"]["seconds"], row["systems"]["fake"]["prompt_seconds"]) == (7.0, 3.0)
    # 4, 4.5, .. 6.5 s recorded against 7 s of prompt and answer
    assert scores["systems"]["fake"]["scores"]["duration_distance"]["value"] == pytest.approx(7.0 - 5.25)
    assert "prompt plus generated" in scores["setting_in_words"]
    numbers = rows["u0"]["systems"]["fake"]["metrics"]["real_time_factor"]
    assert numbers["seconds_made"] == 4.0


def test_results_do_not_depend_on_how_many_utterances_are_asked_for(tmp_path, with_pipeline):
    make_set(tmp_path / "set")
    asked = []
    for name, most in (("few", 2), ("all", None)):
        pipeline = with_pipeline(FakePipeline())
        evaluate.run(settings(tmp_path, out=str(tmp_path / name), max_items=most))
        asked.append([(each.seed, each.prompt.name) for each in pipeline.asked[:2]])
    assert asked[0] == asked[1]


def test_only_restricts_what_is_scored_and_prompts_still_come_from_the_whole_set(tmp_path, with_pipeline):
    make_set(tmp_path / "set", set=lambda index: "one" if index == 2 else "rest")
    pipeline = with_pipeline(FakePipeline())
    evaluate.run(settings(tmp_path, only=("set=one",)))
    scores, rows = read(tmp_path)
    assert set(rows) == {"u2"} and pipeline.asked[0].prompt.name != "u2"
    assert (scores["set"]["only"], scores["set"]["utterances"]) == (["set=one"], 1)
    assert "split test, only set=one, 1 utterances" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="`only` was"):
        evaluate.run(settings(tmp_path, only=("set=rest",)))
    assert evaluate.plan(settings(tmp_path, out=str(tmp_path / "o"), only=("set=rest",)))["utterances"] == 5


def test_speech_that_did_not_end_is_scored_and_counted_as_unfinished(tmp_path, with_pipeline):
    make_set(tmp_path / "set")
    with_pipeline(FakePipeline(stop_reason="max_frames"))
    evaluate.run(settings(tmp_path))
    system, rows = read_one(tmp_path)
    assert system["counts"]["scored"] == system["counts"]["unfinished"] == 6
    assert not rows["u0"]["finished"] and rows["u0"]["stop_reason"] == "max_frames"


def test_an_utterance_that_the_model_refuses_fails_alone_and_counts_as_all_deleted(tmp_path, with_pipeline):
    make_set(tmp_path / "set")
    pipeline = with_pipeline(FakePipeline())
    answer = pipeline.speak

    def refuse_u2(text, prompt, seed):
        if text == TEXTS[2]:
            raise UsageError("999 text tokens are too many")
        return answer(text, prompt, seed)

    pipeline.speak = refuse_u2
    evaluate.run(settings(tmp_path))
    system, rows = read_one(tmp_path)
    assert (rows["u2"]["status"], rows["u2"]["reason"]) == ("failed", "999 text tokens are too many")
    assert system["scores"]["wer_mean"]["value"] == pytest.approx(100 / 6)
    assert system["scores"]["real_time_factor"]["denominator"] == 5


def test_an_answer_without_a_sample_is_a_failure(tmp_path, with_pipeline):
    make_set(tmp_path / "set", count=3)
    with_pipeline(FakePipeline(seconds=0.0))
    evaluate.run(settings(tmp_path))
    system, rows = read_one(tmp_path)
    assert {row["reason"] for row in rows.values()} == {"the model generated nothing"}
    assert system["scores"]["wer"]["value"] == 100.0


def test_a_bug_in_the_model_is_not_taken_for_bad_speech(tmp_path, with_pipeline):
    make_set(tmp_path / "set")
    pipeline = with_pipeline(FakePipeline())
    pipeline.speak = lambda text, prompt, seed: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate.run(settings(tmp_path))


def test_speakers_with_one_utterance_cannot_be_prompted_across_sentences(tmp_path, with_pipeline):
    make_set(tmp_path / "set", speaker=lambda index: "bob" if index == 5 else "ann")
    with_pipeline(FakePipeline())
    with pytest.raises(BadInputsError, match="`bob` has no other utterance"):
        evaluate.run(settings(tmp_path))
    evaluate.run(settings(tmp_path, max_bad="20%"))
    assert "`bob` has no other utterance" in read(tmp_path)[1]["u5"]["refused"]


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("codec") / "codec.pt"
    export_codec(tiny_codec("valle"), path)
    return path


def test_reconstruction_keeps_the_length_at_the_codecs_rate():
    codec = tiny_codec("valle")
    decoded = reconstruct(codec, Sound(tone(0, 1.0), RATE))
    assert (len(decoded.waveform), decoded.sample_rate) == (codec.sample_rate, codec.sample_rate)


def test_a_codec_is_scored_by_reconstruction(tmp_path, codec_file):
    make_set(tmp_path / "set", count=2, seconds=lambda index: 1.0)
    result = evaluate.run(settings(tmp_path, setting="reconstruction", codec=str(codec_file)))
    system, rows = read_one(tmp_path)
    scores, labels = system["scores"], {name: metric["label"] for name, metric in read(tmp_path)[0]["metrics"].items()}
    lacking = [labels[name] for name, score in scores.items() if score["value"] is None]
    assert list(result["not_measured"]) == lacking and all(result["not_measured"].values())
    assert {"wer", "pesq", "stoi", "mel_distance", "speaker_similarity"} <= set(scores)
    assert "duration_distance" not in scores
    assert scores["mel_distance"]["value"] > 0.1 and scores["mel_distance"]["denominator"] == 2
    for name in ("pesq", "stoi"):
        measured = rows["u0"]["metrics"][name]
        assert (measured["value"] is None) == bool(measured["reason"])
    assert rows["u0"]["seconds"] == 1.0 == read(tmp_path)[1]["u0"]["reference_seconds"]


@pytest.fixture
def with_codecs(monkeypatch):
    def install(*codecs):
        monkeypatch.setattr(evaluate, "find_sources", lambda config, utterances: codecs)

    return install


def test_a_perfect_codec_has_perfect_scores_and_does_not_differ_from_the_recordings(tmp_path, with_codecs):
    make_set(tmp_path / "set", count=2, seconds=lambda index: 1.0)
    with_codecs(fake_codec("perfect", lambda index, waveform: waveform))
    evaluate.run(settings(tmp_path, setting="reconstruction"))
    system, _ = read_one(tmp_path)
    assert system["scores"]["stoi"]["value"] == pytest.approx(1.0)
    assert system["scores"]["mel_distance"]["value"] == 0.0
    wer = next(found for found in read(tmp_path)[0]["differences"] if found["metric"] == "wer")
    assert (wer["system"], wer["against"], wer["value"], wer["interval"]) == ("perfect", "recordings", 0.0, [0.0, 0.0])


def test_codecs_are_rows_of_one_table_below_the_recordings_and_compared_in_pairs(tmp_path, with_codecs):
    make_set(tmp_path / "set", speaker=lambda index: "ann" if index < 4 else "bob")
    worse = fake_codec("student", lambda index, waveform: waveform if index % 2 else 0 * waveform)
    with_codecs(fake_codec("teacher", lambda index, waveform: waveform), worse)
    told = evaluate.run(settings(tmp_path, setting="reconstruction"))
    scores, rows = read(tmp_path)
    assert list(told["systems"]) == list(scores["systems"]) == list(rows["u0"]["systems"]) == [
        "recordings", "teacher", "student"]
    wer = {name: system["scores"]["wer"]["value"] for name, system in scores["systems"].items()}
    assert wer == {"recordings": 0.0, "teacher": 0.0, "student": pytest.approx(50.0)}
    pairs = {(found["system"], found["against"]): found for found in scores["differences"] if found["metric"] == "wer"}
    assert {pair: found["value"] for pair, found in pairs.items()} == {
        ("teacher", "recordings"): 0.0, ("student", "recordings"): pytest.approx(50.0),
        ("student", "teacher"): pytest.approx(50.0)}  # fmt: skip
    low, high = pairs["student", "teacher"]["interval"]
    assert 0.0 <= low < 50.0 < high <= 100.0 and pairs["student", "teacher"]["pairs"] == 6
    of_bob = scores["systems"]["student"]["speakers"]["bob"]["wer"]
    assert (of_bob["value"], of_bob["denominator"]) == (pytest.approx(50.0), 2)
    for name in ("teacher", "student"):
        assert (tmp_path / "out" / "audio" / name / "u0.wav").is_file()
    assert not any(found["against"] == "recordings" and found["metric"] == "mel_distance"
                   for found in scores["differences"])


def test_one_speaker_has_no_table_of_speakers(tmp_path, hypotheses):
    evaluate.run(settings(tmp_path, hypotheses=hypotheses))
    assert read_one(tmp_path)[0]["speakers"] == {}
    assert "<h2>Speakers</h2>" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_killed_comparison_goes_on_with_the_utterance_it_was_at(tmp_path, with_codecs):
    make_set(tmp_path / "set", count=3)
    asked = []

    def decode(index, waveform):
        asked.append(index)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return waveform

    with_codecs(fake_codec("teacher", decode), fake_codec("student", decode))
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(settings(tmp_path, setting="reconstruction"))
    evaluate.run(settings(tmp_path, setting="reconstruction"))
    assert asked == [0, 1, 2, 0, 1, 1, 2]
    assert [len(row["systems"]) for row in read(tmp_path)[1].values()] == [3, 3, 3]


def test_a_codec_that_was_moved_is_scored_under_its_new_name(tmp_path, with_codecs):
    make_set(tmp_path / "set", count=2)
    for name in ("teacher", "tutor"):  # of one fingerprint
        with_codecs(fake_codec(name, lambda index, waveform: waveform))
        evaluate.run(settings(tmp_path, setting="reconstruction"))
        assert set(read(tmp_path)[1]["u0"]["systems"]) == {"recordings", name}


def test_metrics_that_cannot_run_here_say_why_and_the_evaluation_goes_on(tmp_path, with_codecs):
    make_set(tmp_path / "set", count=2, seconds=lambda index: 1.0)
    with_codecs(fake_codec("perfect", lambda index, waveform: waveform))
    absent = {"speaker_model": str(tmp_path / "no-model"), "utmos": str(tmp_path / "no-file.pt")}
    evaluate.run(settings(tmp_path, setting="reconstruction", **absent))
    reasons = {name: list(score["reasons"]) for name, score in read_one(tmp_path)[0]["scores"].items()}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for metric, missing in (("speaker_similarity", "no-model"), ("utmos", "no-file.pt")):
        assert len(reasons[metric]) == 1 and missing in reasons[metric][0]
        assert missing in page


def test_two_codecs_of_one_name_are_told_apart_and_one_codec_twice_is_refused(tmp_path, codec_file):
    make_set(tmp_path / "set", count=2, seconds=lambda index: 1.0)
    other = tmp_path / "other" / "codec.pt"
    export_codec(tiny_codec("valle"), other)
    both = {"setting": "reconstruction", "codec": str(codec_file)}
    job = evaluate.prepare(settings(tmp_path, **both, further_codecs=(str(other),)))
    assert [source.name for source in job.sources] == [f"codec {codec_file}", f"codec {other}"]
    with pytest.raises(UsageError, match="expected different systems"):
        evaluate.prepare(settings(tmp_path, **both, further_codecs=(str(codec_file),)))
    with pytest.raises(ValueError, match="compared with --reconstruct only"):
        settings(tmp_path, codec=str(codec_file), further_codecs=(str(other),))


def test_a_codec_of_another_project_is_a_row_like_any_other(tmp_path, codec_file, monkeypatch):
    make_set(tmp_path / "set", count=2, seconds=lambda index: 1.0)
    maker = types.SimpleNamespace(make=lambda: load_codec(codec_file))
    monkeypatch.setitem(sys.modules, "their_codec", maker)
    evaluate.run(settings(tmp_path, setting="reconstruction", codec=str(codec_file),
                          further_codecs=("their_codec:make",)))
    systems = read(tmp_path)[0]["systems"]
    ours, theirs = (systems[name]["scores"]["mel_distance"]["value"] for name in ("codec", "their_codec:make"))
    assert theirs == pytest.approx(ours) and ours > 0.1
    assert systems["codec"]["fingerprint"] != systems["their_codec:make"]["fingerprint"]


def test_the_command_compares_the_codecs_that_it_is_given(tmp_path, codec_file):
    make_set(tmp_path / "set", count=2, seconds=lambda index: 1.0)
    export_codec(tiny_codec("halle"), tmp_path / "mreq.pt")
    command = [sys.executable, "-m", "halle_cli", "eval", "--set", "set", "--reconstruct", "--codec", codec_file,
               "--codec", "mreq.pt", "--only", "speaker=ann", "--only", "split=test",
               "--dry-run", "--json"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                          encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert plan["reads"]["only"] == ["speaker=ann", "split=test"] and plan["utterances"] == 2
    plain, hierarchy = plan["reads"]["systems"]
    assert plain.startswith(f"codec {codec_file}: ") and plain.endswith(" x 48 Hz")
    assert hierarchy == "codec mreq.pt: 0.576 kbit/s, codebooks 2 x 24 Hz + 2 x 48 Hz"
    assert plan["setting"].startswith("reconstruction") and plan["writes"][0].startswith("eval/set-reconstruction")
    refused = subprocess.run([*command, "--setting", "continuation"], cwd=tmp_path, env=environment,
                             capture_output=True, text=True, encoding="utf-8", check=False)
    assert refused.returncode == 2 and "--reconstruct" in refused.stderr


def test_audio_in_a_folder_called_recordings_is_not_taken_for_the_recordings(tmp_path):
    make_set(tmp_path / "set", count=2)
    folder = make_hypotheses(tmp_path / "recordings", {"u0": (1, 5.0), "u1": (0, 5.0)})
    evaluate.run(settings(tmp_path, hypotheses=str(folder)))
    scores = read(tmp_path)[0]["systems"]
    assert scores["recordings"]["scores"]["wer"]["value"] == 0.0
    assert scores.keys() - {"recordings"} == {f"audio in {folder}"}


def test_real_speech_from_elsewhere_is_heard_by_pocketsphinx(tmp_path):
    lines = (SPEECH / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    voices = {}
    for row in map(json.loads, lines):
        voices.setdefault(row["text"], {})[row["speaker"]] = row
    spoken = [pair for pair in voices.values() if {"rms", "slt"} <= set(pair)][:2]
    rows = []
    for index, pair in enumerate(spoken):
        for folder, voice in (("set", "rms"), ("hypotheses", "slt")):
            waveform = read_audio(SPEECH / pair[voice]["file_name"], 16_000)
            write_audio(tmp_path / folder / f"u{index}.wav", waveform, 16_000)
        rows.append({"id": f"u{index}", "audio": f"u{index}.wav", "duration": pair["rms"]["duration"],
                     "text": pair["rms"]["text"], "speaker": "rms"})  # fmt: skip
    (tmp_path / "set" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    evaluate.run(settings(tmp_path, hypotheses=str(tmp_path / "hypotheses"), transcriber="pocketsphinx"))
    scores, _ = read(tmp_path)
    wer = {name: system["scores"]["wer"]["value"] for name, system in scores["systems"].items()}
    assert len(spoken) == 2 and wer["hypotheses"] < 60 and wer["recordings"] < 30
    assert scores["metrics"]["wer"]["label"] == "WER (pocketsphinx, ranking only), %"
