"""`halle eval --protocol` from the command's settings to scores, with transcripts as another program writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages import evaluate
from stages.artifacts.storage import read_json, read_jsonl, sha256_file
from stages.audio.io import write_audio
from stages.config.resolve import resolve
from stages.errors import MissingModelError, UsageError

RATE = 16_000
NEMO = "stt_en_conformer_transducer_xlarge"
TEXT = "alpha bravo charlie delta"


@pytest.fixture
def folder(tmp_path):
    """A set of recordings of 3, 6, 6 and 200 s, and someone's audio of all."""
    rows = []
    for index, seconds in enumerate((3.0, 6.0, 6.0, 200.0)):
        sound = (0.1 * np.random.default_rng(index).standard_normal(round(seconds * RATE))).astype(np.float32)
        for place in ("set", "theirs"):
            write_audio(tmp_path / place / f"u{index}.wav", sound, RATE)
        rows.append({"id": f"u{index}", "audio": f"u{index}.wav", "duration": seconds, "text": TEXT, "speaker": "ann"})
    (tmp_path / "set" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def run(folder, protocol="halle", **options):
    given = {"set": str(folder / "set"), "out": str(folder / "out"), "hypotheses": [str(folder / "theirs")],
             "protocol": protocol, "metrics": ["wer"], "device": "cpu", "bootstrap_samples": 20} | options  # fmt: skip
    return evaluate.run(resolve("eval", options=given))


def transcribe(folder, recogniser=NEMO):
    """Write what a program that hears all files below the output folder would write, the last word missing."""
    files = [*(folder / "out").glob("audio/**/*.wav"), *(folder / "out").glob("recordings/*.wav")]
    lines = [{"audio_sha256": sha256_file(file), "recogniser": recogniser, "version": "1.20",
              "text": TEXT.rpartition(" ")[0], "words": []} for file in files]
    (folder / "heard.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [str(folder / "heard.jsonl")]


def test_halle_makes_the_audio_says_which_script_hears_it_and_scores_what_that_heard(folder):
    with pytest.raises(MissingModelError) as awaited:
        run(folder)
    assert NEMO in awaited.value.message and "python examples/nemo/transcribe.py" in awaited.value.hint
    assert f"{NEMO}.jsonl" in awaited.value.hint
    assert (Path(__file__).parents[1] / "examples" / "nemo" / "transcribe.py").is_file()
    kept = sorted(file.name for file in (folder / "out" / "audio").rglob("*.wav"))
    assert kept == ["u1.wav", "u2.wav"], "of 4 to 180 s"
    run(folder, transcripts=transcribe(folder))
    scores = read_json(folder / "out" / "scores.json")
    assert scores["recogniser"] == {"name": NEMO, "version": "1.20"}
    assert scores["systems"]["theirs"]["scores"]["wer"]["value"] == pytest.approx(25.0)
    assert scores["protocol"]["name"] == "halle" and scores["protocol"]["settings"]["recording_seconds"] == [4, 180]
    assert scores["set"]["evaluated"] == 2 and [row["id"] for row in read_jsonl(folder / "out" / "items.jsonl")] == [
        "u1", "u2"]
    for name in ("scores.csv", "scores.tex"):
        assert NEMO in (folder / "out" / name).read_text(encoding="utf-8").replace(r"\_", "_")


def test_transcripts_of_another_recogniser_are_refused(folder):
    with pytest.raises(MissingModelError):
        run(folder)
    with pytest.raises(UsageError) as refused:
        run(folder, transcripts=transcribe(folder, "whisper-large-v3"))
    assert "protocol `halle` fixes `transcriber`" in refused.value.message
    assert "`whisper-large-v3`" in refused.value.message


@pytest.mark.parametrize("protocol", ["halle", "valle"])
def test_models_of_a_protocol_that_are_not_here_are_an_error_that_says_what_to_fetch(folder, protocol):
    with pytest.raises(MissingModelError) as lacking:
        run(folder, protocol, metrics=["wer", "speaker_similarity"])
    assert f"protocol `{protocol}` measures what cannot be measured here: `speaker_similarity`" in lacking.value.message
    assert "wavlm_large_finetune.pth" in lacking.value.message and "-O speaker_model=FOLDER/" in lacking.value.hint
    assert lacking.value.hint.endswith("or measure the rest alone: --metric wer")


def test_valle_says_which_recogniser_to_download(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-hub"))
    with pytest.raises(MissingModelError) as lacking:
        run(folder, "valle")
    assert "`facebook/hubert-large-ls960-ft`" in lacking.value.message
    assert "hf download facebook/hubert-large-ls960-ft" in lacking.value.hint


def test_without_a_protocol_lengths_can_be_chosen_and_none_left_is_an_error(folder, monkeypatch):
    config = resolve("eval", options={"set": str(folder / "set"), "hypotheses": [str(folder / "theirs")],
                                      "recording_seconds": (5.0, 10.0), "out": str(folder / "out")})
    assert evaluate.plan(config)["utterances"] == 2
    with pytest.raises(UsageError, match=r"expected recordings of 7 to 10 s .* none of 4 is") as none:
        evaluate.plan(config.model_copy(update={"recording_seconds": (7.0, 10.0)}))
    assert "--recording-seconds" in none.value.hint


def test_a_set_without_recordings_of_a_protocols_lengths_is_no_matter_of_options(tmp_path):
    options = {"set": "demo-90s", "protocol": "valle", "hypotheses": [str(tmp_path)], "out": str(tmp_path / "out")}
    with pytest.raises(UsageError, match="expected recordings of 4 to 10 s") as none:
        evaluate.plan(resolve("eval", options=options))
    assert none.value.hint == "protocol `valle` fixes these lengths: choose another --set"


def test_the_folder_of_a_protocol_is_named_after_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for setting in ("cross-sentence", "continuation"):
        config = resolve("eval", options={"set": "set", "hypotheses": ["theirs"], "protocol": "valle",
                                          "setting": setting, "metrics": ["wer"]})
        assert f"eval/set-valle-{setting}/scores.json" in [path.replace("\\", "/")
                                                           for path in evaluate.plan(config)["writes"]]
