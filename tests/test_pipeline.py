"""The chain from recordings to scores, as its user sees it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from tiny_chain import SPEECH, tiny_config

from stages import curate, evaluate, mreq, pack, synth, tokenize_corpus, train_ar, train_codec, train_nar
from stages.artifacts.storage import read_json, read_jsonl, verify_checksums
from stages.errors import HalleError, MissingModelError, UnfinishedSpeechError, UsageError
from stages.synthesis.model import load_speech_model
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.prompt import PromptLimits, read_prompt

ROOT = Path(__file__).parent.parent
PROMPT = SPEECH / "prompt.ogg"


def speak(chain, path, **options):
    settings = {"say": "Good evening.", "prompt": str(PROMPT), "model": str(chain.model), "out": str(path),
                "max_seconds": 1.0, "allow_unfinished": True, **options}
    return synth.run(tiny_config("synth", **settings))


def halle(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "halle_cli", *map(str, arguments)], cwd=cwd, capture_output=True,
                          text=True, encoding="utf-8", check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


@pytest.fixture(scope="module")
def stand_in_test_set(chain, tmp_path_factory) -> Path:
    """A folder `data/test-90s` that is none of MinutesSpeech: two utterances of the chain's own speech."""
    from stages.artifacts.manifest import write_manifest

    folder = tmp_path_factory.mktemp("data") / "test-90s"
    rows = read_jsonl(chain.data / "manifest.jsonl")
    chosen = [{**row, "split": "test"} for row in rows if row["speaker"] == rows[0]["speaker"]][:2]
    for row in chosen:
        (folder / row["audio"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(chain.data / row["audio"], folder / row["audio"])
    write_manifest(folder, chosen)
    return folder


def test_the_three_lines_that_users_type(chain, stand_in_test_set, tmp_path):
    shutil.copy(chain.codec / "encodec.pt", tmp_path / "encodec.pt")
    shutil.copy(PROMPT, tmp_path / "ref.ogg")
    data, rate = soundfile.read(PROMPT)
    soundfile.write(tmp_path / "ref.wav", data, rate)
    (tmp_path / "ref.txt").write_text("Behind the station there is a small shop.", encoding="utf-8")
    (tmp_path / "script.txt").write_text("Good evening.", encoding="utf-8")
    model = {"HALLE_MODEL": str(chain.model), "HALLE_DATA": str(stand_in_test_set.parent)}

    finished = halle("mreq", "--teacher", "encodec.pt", "--data", chain.data, "--out", "mreq", "--preset", "smoke",
                     "--steps", 1, "-O", "discriminator.filters=2", "-O", "training.batch_size=2", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "mreq" / "mreq.pt").exists()

    spoken = halle("synth", "--text", "script.txt", "--prompt", "ref.wav", cwd=tmp_path, **model)
    assert spoken.returncode in (0, 8), spoken.stderr  # an untrained model ends its text by luck only
    assert soundfile.info(tmp_path / "script.wav").samplerate == 24_000
    assert read_json(tmp_path / "script.json")["finished"] is (spoken.returncode == 0)

    scored = halle("eval", "--set", "test-90s", cwd=tmp_path, **model)
    assert scored.returncode == 0, scored.stderr
    assert (tmp_path / "eval" / "test-90s" / "report.html").exists()
    assert len(read_jsonl(tmp_path / "eval" / "test-90s" / "items.jsonl")) == 2


def test_the_same_seed_speaks_the_same_and_another_seed_something_else(chain, tmp_path):
    speak(chain, tmp_path / "a.wav", seed=1)
    speak(chain, tmp_path / "b.wav", seed=1)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    config = tiny_config("synth", model=str(chain.model), max_seconds=1.0)
    pipeline = SpeechPipeline(load_speech_model(config, torch.device("cpu")), config)
    prompt = read_prompt(PROMPT, pipeline.model.codec, PromptLimits())
    first, same, other = (pipeline.speak("Good evening.", prompt, seed).codes.tolist() for seed in (1, 1, 2))
    assert first == same != other


def test_all_clips_are_equally_loud_and_the_store_says_how_loud(chain):
    for row in read_jsonl(chain.data / "manifest.jsonl"):
        samples, _ = soundfile.read(chain.data / row["audio"])
        assert samples.std() == pytest.approx(0.1, rel=0.02) or abs(samples).max() == pytest.approx(0.99, abs=0.01)
    assert read_json(chain.tokens / "store.json")["loudness_target"] == -20.0


def test_a_quiet_prompt_is_heard_as_loud_as_the_training_speech(chain, tmp_path):
    samples, rate = soundfile.read(PROMPT)
    soundfile.write(tmp_path / "quiet.wav", samples * 0.02, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "usual.wav", samples, rate, subtype="FLOAT")
    config = tiny_config("synth", model=str(chain.model))
    model = load_speech_model(config, torch.device("cpu"))
    assert model.loudness_db == -20.0
    files = (tmp_path / "quiet.wav", tmp_path / "usual.wav")
    quiet, usual = (read_prompt(file, model.codec, PromptLimits(), "x", loudness_db=-20.0) for file in files)
    assert quiet.waveform.std() == pytest.approx(0.1, rel=0.05)
    assert quiet.waveform == pytest.approx(usual.waveform, abs=1e-4)


def test_unfinished_speech_is_written_and_exits_with_8(chain, tmp_path):
    with pytest.raises(UnfinishedSpeechError) as caught:
        for seed in range(20):  # an untrained model may end by luck
            speak(chain, tmp_path / "x.wav", seed=seed, max_seconds=0.25, allow_unfinished=False)
    assert caught.value.exit_code == 8
    report = read_json(tmp_path / "x.json")
    assert report["finished"] is False and report["stop_reason"] == "max_frames"
    assert soundfile.info(tmp_path / "x.wav").frames == round(0.25 * 24_000)


def test_the_report_says_how_the_speech_came_about(chain, tmp_path):
    speak(chain, tmp_path / "x.flac", seed=3)
    report = read_json(tmp_path / "x.json")
    assert report["seed"] == 3 and report["synthetic"] is True
    assert report["prompt"]["text_source"] == "sidecar"
    assert report["speech_seconds"] == pytest.approx(soundfile.info(tmp_path / "x.flac").duration, abs=1e-3)
    assert report["frames"] * 0.125 == pytest.approx(report["speech_seconds"])
    assert {"packages", "model", "sampling", "real_time_factor", "text_tokens"} <= set(report)
    assert "synthetic" in soundfile.SoundFile(tmp_path / "x.flac").comment


def test_verified_speech_is_heard_again_and_the_report_says_what_was_wrong(chain, tmp_path):
    said = speak(chain, tmp_path / "x.wav", verify=True, verify_attempts=1)
    report = read_json(tmp_path / "x.json")
    found = report["pieces"][0]["verification"]
    assert found["recogniser"].startswith("pocketsphinx") and report["verify_seconds"] > 0
    assert len(found["takes"]) == 2 and all(take["faults"] for take in found["takes"])  # an untrained model babbles
    assert said["verified"].startswith("1 pass, 1 of them spoken again")


def test_a_prompt_without_a_transcript_is_recognised_and_what_was_heard_is_said(chain, tmp_path, caplog):
    caplog.set_level("INFO", logger="halle")
    shutil.copy(PROMPT, tmp_path / "voice.ogg")
    speak(chain, tmp_path / "x.wav", prompt=str(tmp_path / "voice.ogg"))
    prompt = read_json(tmp_path / "x.json")["prompt"]
    assert prompt["text_source"] == "recogniser" and "station" in prompt["text"]
    assert "heard in the prompt" in caplog.text


@pytest.mark.parametrize("options, message", [
    ({"say": "  "}, "empty"),
    ({"prompt_text": " . "}, "prompt's text in `--prompt-text` is empty"),
    ({"say": None}, "exactly one of"),
    ({"say": None, "text": "none.txt"}, "does not exist"),
    ({"prompt": "none.wav"}, "none.wav"),
    ({"model": "nowhere"}, "model folder"),
    ({"out": "speech.xyz"}, "wav"),
])
def test_wrong_input_of_synth_is_refused_before_anything_is_written(chain, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HalleError) as caught:
        speak(chain, tmp_path / "x.wav", **options)
    assert caught.value.exit_code == 2
    assert message in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_s_text_file_without_words_or_without_utf_8_is_refused(chain, tmp_path):
    shutil.copy(PROMPT, tmp_path / "voice.ogg")
    for data, words in ((b" \n", "is empty"), (b"caf\xe9", "voice.txt:1: byte 0xE9 is not UTF-8")):
        (tmp_path / "voice.txt").write_bytes(data)
        with pytest.raises(UsageError, match=words):
            speak(chain, tmp_path / "x.wav", prompt=str(tmp_path / "voice.ogg"))


def test_a_model_is_not_packed_in_place_of_a_file(chain, tmp_path):
    (tmp_path / "model").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="got the file"):
        pack.run(str(chain.mreq), str(chain.ar), str(chain.nar), str(tmp_path / "model"))
    assert (tmp_path / "model").read_text(encoding="utf-8") == "mine"


def test_a_silent_and_a_short_prompt_are_refused_with_what_was_measured(chain, tmp_path):
    soundfile.write(tmp_path / "silent.wav", [0.0] * 96_000, 24_000)
    soundfile.write(tmp_path / "short.wav", soundfile.read(PROMPT)[0][:16_000], 16_000)
    for name, words in (("silent", "nothing is heard"), ("short", "got 0.94 s")):
        with pytest.raises(Exception, match=words) as caught:
            speak(chain, tmp_path / "x.wav", prompt=str(tmp_path / f"{name}.wav"))
        assert caught.value.exit_code == 2


def test_a_long_prompt_whose_text_is_given_is_refused_rather_than_cut(chain, tmp_path):
    with pytest.raises(UsageError, match="at most 4 s"):
        synth.run(tiny_config("synth", "max_prompt_seconds=4", say="Hi.", prompt=str(PROMPT), model=str(chain.model),
                              out=str(tmp_path / "x.wav")))


def test_parts_of_different_models_are_refused_by_pack_synth_and_train_nar(chain, tmp_path):
    other = tmp_path / "other"
    mreq.run(tiny_config("mreq", "seed=5", teacher=str(chain.codec), data=str(chain.data), out=str(other)))
    with pytest.raises(UsageError, match="this codec is"):
        pack.run(str(other), str(chain.ar), str(chain.nar), str(tmp_path / "model"))
    with pytest.raises(UsageError, match="this codec is"):
        speak(chain, tmp_path / "x.wav", codec=str(other))
    with pytest.raises(UsageError, match="codec"):
        train_nar.run(tiny_config("train-nar", tokens=str(chain.tokens), codec=str(other), out=str(tmp_path / "nar")))
    assert not (tmp_path / "model").exists() and not (tmp_path / "nar").exists()


def test_the_folder_of_another_stage_is_refused_everywhere(chain, tmp_path):
    attempts = [
        (train_codec, "train-codec", {"data": chain.tokens}),
        (mreq, "mreq", {"teacher": chain.ar, "data": chain.data}),
        (mreq, "mreq", {"teacher": chain.data, "data": chain.data}),
        (tokenize_corpus, "tokenize", {"codec": chain.nar, "data": chain.data}),
        (tokenize_corpus, "tokenize", {"codec": chain.mreq, "data": chain.tokens}),
        (train_ar, "train-ar", {"tokens": chain.data}),
        (train_nar, "train-nar", {"tokens": chain.tokens, "codec": chain.ar}),
        (evaluate, "eval", {"set": chain.tokens, "model": chain.model}),
    ]
    for module, stage, paths in attempts:
        with pytest.raises(UsageError) as caught:
            module.run(tiny_config(stage, out=str(tmp_path / "out"), **{k: str(v) for k, v in paths.items()}))
        assert caught.value.message, stage
        assert not (tmp_path / "out").exists(), stage


def test_the_valle_baseline_comes_from_the_same_code_and_starts_halle(chain, tmp_path, caplog):
    caplog.set_level("INFO", logger="halle")
    tokens, codec = str(chain.plain_tokens), str(chain.codec)
    train_ar.run(tiny_config("train-ar", tokens=tokens, out=str(tmp_path / "ar")))
    train_nar.run(tiny_config("train-nar", tokens=tokens, codec=codec, out=str(tmp_path / "nar")))
    result = pack.run(codec, str(tmp_path / "ar"), str(tmp_path / "nar"), str(tmp_path / "valle"))
    assert result["system"] == "valle"
    speak(chain, tmp_path / "x.wav", model=str(tmp_path / "valle"), max_seconds=0.5)
    assert read_json(tmp_path / "x.json")["frames"] <= 24

    train_ar.run(tiny_config("train-ar", tokens=str(chain.tokens), out=str(tmp_path / "ar8"),
                             init=str(tmp_path / "ar")))
    train_nar.run(tiny_config("train-nar", tokens=str(chain.tokens), codec=str(chain.mreq),
                              out=str(tmp_path / "nar8"), init=str(tmp_path / "nar")))
    assert "new" in caplog.text and "loaded" in caplog.text


def test_without_any_model_the_error_says_how_to_get_one(chain, tmp_path, monkeypatch):
    from stages.synthesis import model

    monkeypatch.delenv("HALLE_MODEL", raising=False)
    monkeypatch.setattr(model, "PACKAGED_MODEL", tmp_path / "none")
    with pytest.raises(MissingModelError) as caught:
        speak(chain, tmp_path / "x.wav", model=None)
    assert caught.value.exit_code == 7 and "HALLE_MODEL" in caught.value.hint


def test_dry_runs_say_what_they_would_do_and_write_nothing(chain, tmp_path):
    plans = {
        "curate": {"source": chain.recordings},
        "train-codec": {"data": chain.data},
        "mreq": {"teacher": chain.codec / "encodec.pt", "data": chain.data},
        "tokenize": {"codec": chain.mreq, "data": chain.data},
        "train-ar": {"tokens": chain.tokens},
        "train-nar": {"tokens": chain.tokens, "codec": chain.mreq},
        "synth": {"say": "Hello.", "prompt": PROMPT, "model": chain.model},
        "eval": {"set": chain.data, "model": chain.model},
    }
    import importlib

    modules = {"tokenize": "tokenize_corpus", "eval": "evaluate"}
    for stage, paths in plans.items():
        module = importlib.import_module("stages." + modules.get(stage, stage.replace("-", "_")))
        out = tmp_path / ("out.wav" if stage == "synth" else "out")
        plan = module.plan(tiny_config(stage, out=str(out), **{k: str(v) for k, v in paths.items()}))
        assert plan and json.dumps(plan), stage
        assert not out.exists(), stage


def test_a_finished_stage_is_left_alone_under_other_running_settings_and_its_checksums_stay_true(chain):
    data, tokens, codec = str(chain.data), str(chain.tokens), str(chain.mreq)
    teacher = str(chain.codec / "encodec.pt")
    reruns = (
        (curate, "curate", chain.data, {"source": str(chain.recordings)}),
        (train_codec, "train-codec", chain.codec, {"data": data}),
        (mreq, "mreq", chain.mreq, {"teacher": teacher, "data": data}),
        (tokenize_corpus, "tokenize", chain.tokens, {"codec": codec, "data": data}),
        (train_ar, "train-ar", chain.ar, {"tokens": tokens}),
        (train_nar, "train-nar", chain.nar, {"tokens": tokens, "codec": codec}),
    )
    for stage, name, out, inputs in reruns:
        before = file_bytes(out)
        stage.run(tiny_config(name, "max_bad=37%", out=str(out), **inputs))
        assert file_bytes(out) == before, name
        verify_checksums(out)


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Return what a result holds; its log may grow."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*")
            if file.is_file() and file.name != "log.txt"}
