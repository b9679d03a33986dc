"""What is said of the mini model follows from the rows of its evaluations."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.storage import write_json, write_jsonl
from stages.audio.io import write_audio

MINI = Path(__file__).parents[2] / "examples" / "mini"
TEXT = "apples grow on trees that stand behind our old barn"


@pytest.fixture(scope="module")
def results():
    sys.path.insert(0, str(MINI))
    try:
        import results
    finally:
        sys.path.remove(str(MINI))
    return results


def entry(errors: int, words: int = 10, heard: str = TEXT, finished: bool = True, audio: str | None = None) -> dict:
    wer = {"value": errors / words, "substitutions": errors, "insertions": 0, "deletions": 0, "words": words}
    return {"metrics": {"wer": wer}, "heard": heard, "finished": finished, "seconds": 5.0, "audio": audio}


def evaluation(results, folder: Path, rows: list[dict], errors: dict[str, dict[str, float]]):
    """Write what `halle eval` would, of rows and of WER by class and system."""
    classes = {name: {system: {"wer": {"value": value, "interval": [value - 1, value + 1], "texts": 3}}
                      for system, value in systems.items()} for name, systems in errors.items()}
    systems = {name: {} for row in rows for name in row["systems"]}
    write_json(folder / "scores.json", {"classes": classes, "systems": systems})
    write_jsonl(folder / "items.jsonl", rows)
    return results.Evaluation.read(folder)


def row(seconds: float, **systems: dict) -> dict:
    named = {"recordings": "recordings", "halle": "HALL-E-mini", "valle": "VALL-E-mini"}
    return {"id": f"u{seconds}", "text": TEXT, "refused": "", "reference_seconds": seconds, "speaker": "a",
            "systems": {named[name]: value for name, value in systems.items()}}


def test_word_errors_of_all_words_decide_what_is_reached(results, tmp_path):
    rows = [row(5.0, recordings=entry(1), halle=entry(2), valle=entry(3)),
            row(20.0, recordings=entry(1, 30), halle=entry(3, 30), valle=entry(3, 30)),
            row(70.0, recordings=entry(2, 100), halle=entry(20, 100), valle=entry(31, 100))]  # fmt: skip
    found = evaluation(results, tmp_path, rows, {})
    near = results.wer_near_recordings(found)
    assert (near.wanted, near.value, near.reached) == ("at most 10.0 % (recordings 5.0 %)", "12.5 %", False)
    long = results.wer_long_over_short(found)
    assert long.value.startswith("2.00 (20.0 and 10.0 %)") and not long.reached
    (against,) = results.valle_over_halle(found)
    assert against.value.startswith("1.55") and against.reached


@pytest.mark.parametrize(("heard", "finished", "expected"), [
    (TEXT, True, True),
    (TEXT, False, False),
    ("apples grow on trees that", True, False),  # the last words are lacking
    ("apples grow on trees apples grow on trees that stand behind our old barn", True, False),  # a loop
    ("apple grows on trees that stand by and our old bar", True, True),
])
def test_a_text_is_finished_when_its_end_is_heard_without_a_loop(results, heard, finished, expected):
    assert results.Ending.of(TEXT, entry(0, heard=heard, finished=finished)).finished is expected


def test_a_phrase_that_the_text_repeats_is_no_loop(results):
    text = f"{TEXT} {TEXT}"
    assert results.Ending.of(text, entry(0, heard=text)).finished
    assert not results.Ending.of(text, entry(0, heard=f"{text} {TEXT}")).finished


def test_voices_are_compared_with_prompts_of_their_own_and_of_others(results, tmp_path, monkeypatch):
    class FirstSamples:
        def embed(self, waveform, sample_rate):
            return waveform[:3] / np.linalg.norm(waveform[:3])

    monkeypatch.setattr(results, "load_embedder", lambda name, device: FirstSamples())
    rows = []
    for index, speaker in enumerate("abc"):
        sound = np.zeros(16_000, np.float32)
        sound[index] = 0.5
        for name in ("prompt", "made"):
            write_audio(tmp_path / f"{speaker}-{name}.wav", sound, 16_000)
        rows.append(row(5.0 + index, halle=entry(0, audio=f"{speaker}-made.wav"))
                    | {"speaker": speaker, "prompt_audio": f"{speaker}-prompt.wav"})
    margin, nearest = results.voice_figures(evaluation(results, tmp_path, rows, {}))
    assert margin.reached is True and margin.value.startswith("+1.0")  # what JSON can hold
    assert nearest.reached and nearest.value == "100%, 3.0 times"


def test_tables_hold_every_class_and_system_that_there_is(results, tmp_path):
    rows = [row(5.0, recordings=entry(1), halle=entry(2))]
    found = evaluation(results, tmp_path, rows, {"4-10": {"recordings": 10.0, "HALL-E-mini": 20.0}})
    table = results.class_table(found).splitlines()
    assert table[2].startswith("| 4-10 | recordings | 3 | 10.0 (9.0 to 11.0) |")
    assert table[3].startswith("| 4-10 | HALL-E-mini | 3 | 20.0 (19.0 to 21.0) |") and len(table) == 4
    assert table[3].endswith("|  |  |  |  |")
    results.plot_errors(found, tmp_path)
    results.plot_durations(found, tmp_path)
    assert (tmp_path / "wer-by-duration.svg").is_file() and (tmp_path / "durations.svg").is_file()


def test_settings_are_compared_on_the_texts_that_were_spoken_in_both(results, tmp_path):
    across = evaluation(results, tmp_path / "across", [row(5.0, recordings=entry(1), halle=entry(4)),
                                                       row(6.0, recordings=entry(0), halle=entry(9))], {})  # fmt: skip
    continued = evaluation(results, tmp_path / "continued", [row(5.0, recordings=entry(1, 5), halle=entry(2, 5))], {})
    table = results.continuation_table(across, continued).splitlines()
    assert table[2:] == ["| 4-10 | 1 | 10.0 | 40.0 | 40.0 |"]


def test_training_is_drawn_of_every_named_run(results, tmp_path):
    runs = dict(map(results.named_run, (f"AR={tmp_path / 'ar'}", f"NAR={tmp_path / 'nar'}")))
    for run in runs.values():
        write_jsonl(run / "metrics.jsonl", [{"step": step, "validation.loss": 5 / step} for step in (1, 2, 3)])
    results.plot_training(runs, tmp_path)
    drawn = (tmp_path / "training.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in drawn for name in runs)


def test_how_long_a_system_took_is_told_where_it_spoke_alone(results, tmp_path):
    rows = [row(5.0, recordings=entry(1), valle=entry(2), halle=entry(3))]
    classes = {"4-10": {"recordings": 10.0, "VALL-E-mini": 20.0, "HALL-E-mini": 30.0}}
    heard = evaluation(results, tmp_path, rows, classes)
    assert all(line.endswith("|  |  |  |  |") for line in results.class_table(heard).splitlines()[2:])
    for name, value in (("VALL-E-mini", 0.42), ("HALL-E-mini", 0.17)):
        timed = {"recordings": {}, name: {"real_time_factor": {"value": value, "interval": None}}}
        write_json(tmp_path / name / "scores.json", {"classes": {"4-10": timed, "90-": timed}})
    found = results.Evaluation.read(tmp_path, [tmp_path / "VALL-E-mini", tmp_path / "HALL-E-mini"])
    lines = results.class_table(found).splitlines()[2:]
    assert [line.rsplit("|", 2)[1].strip() for line in lines] == ["", "0.42", "0.17"]


def test_endings_are_counted_for_every_system_by_what_they_lack(results, tmp_path):
    rows = [row(5.0, halle=entry(0), valle=entry(0, finished=None)),
            row(6.0, halle=entry(0, finished=False), valle=entry(0, heard=f"{TEXT} {TEXT}", finished=None)),
            row(70.0, halle=entry(0), valle=entry(0, heard="apples grow", finished=None))]  # fmt: skip
    spoken = [row(seconds, valle=entry(0, finished=seconds > 5)) for seconds in (5.0, 6.0, 70.0)]
    evaluation(results, tmp_path / "valle", spoken, {})
    evaluation(results, tmp_path, rows, {})
    found = results.Evaluation.read(tmp_path, spoken=[tmp_path / "valle"])
    found.scores["systems"]["recordings"] = {}
    assert results.endings_table(found).splitlines()[2:] == [
        "| 4-10 | VALL-E-mini | 2 | 0 | 1 | 1 | 0 |", "| 4-10 | HALL-E-mini | 2 | 1 | 1 | 0 | 0 |",
        "| 60-90 | VALL-E-mini | 1 | 0 | 0 | 0 | 1 |", "| 60-90 | HALL-E-mini | 1 | 1 | 0 | 0 | 0 |"]
