"""One's own voice, worked through: the commands of the Makefile, as they stand, on the tiny chain's model."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
import typer

from halle_cli.app import app
from stages.artifacts.checkpoint import load_checkpoint
from stages.artifacts.storage import read_json
from stages.artifacts.token_store import open_store

MY_VOICE = Path(__file__).parents[2] / "examples" / "my_voice"
TINY = ("--device cpu -O training.steps=2 -O training.batch_tokens=600 -O training.validation_items=2 "
        "-O training.validation_utterances=1 -O training.transcriber=null")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def commands(target: str, **variables: object) -> list[list[str]]:
    """Return what make would run for `target`, as words."""
    result = subprocess.run(["make", "--no-print-directory", "-n", "-C", str(MY_VOICE), target, "HALLE=halle",
                             *(f"{name}={value}" for name, value in variables.items())],
                            capture_output=True, text=True, encoding="utf-8", check=True)  # fmt: skip
    return [shlex.split(line) for line in result.stdout.splitlines() if line.startswith("halle ")]


@pytest.fixture
def own_logging():
    """Give the logger back as it was: a console in this process takes it over."""
    logger = logging.getLogger("halle")
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate, logger.level = before


@pytest.fixture
def own_recordings(recordings, tmp_path) -> Path:
    """A few recordings of the chain's, as a folder of their own."""
    folder = tmp_path / "recordings"
    rows = (recordings / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:14]
    for row in rows:
        name = json.loads(row)["file_name"]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recordings / name, folder / name)
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def halle(words: list[str], *further: str) -> None:
    with pytest.raises(SystemExit) as end:
        app([*words[1:], "--quiet", *further] if words[1] != "pack" else words[1:])
    assert end.value.code == 0, words


def test_the_makefile_s_commands_make_a_model_of_one_s_own_voice(chain, own_recordings, tmp_path, own_logging,
                                                                 monkeypatch):
    monkeypatch.chdir(MY_VOICE)  # as make does: the script's path is relative
    runs, prompt = tmp_path / "runs", MY_VOICE.parent / "speech" / "prompt.ogg"
    steps = commands("speech", DATA=own_recordings, MODEL=chain.model, OLD=chain.tokens, OLD_WEIGHT=0.25, RUNS=runs,
                     PROMPT=prompt, OPTIONS=TINY)  # fmt: skip
    assert [words[1] for words in steps] == ["curate", "tokenize", "train-ar", "train-nar", "pack", "synth"]
    extra = {"curate": ("--min-seconds", "2"), "synth": ("--max-seconds", "1", "--allow-unfinished", "--device", "cpu")}
    for words in steps:
        halle(words, *extra.get(words[1], ()))
    old, new = open_store(chain.tokens), open_store(runs / "tokens")
    assert (new.codec_fingerprint, new.text_tokenizer_fingerprint, new.streams) == (
        old.codec_fingerprint, old.text_tokenizer_fingerprint, old.streams)
    for kind in ("ar", "nar"):
        before, after = load_checkpoint(chain.model, kind), load_checkpoint(runs / kind, kind)
        assert after.tensors.keys() == before.tensors.keys() and after.architecture["system"] == "halle"
        assert after.parents["init"] == before.fingerprint
        assert (after.parents["tokens.1"], after.parents["tokens.2"]) == (new.fingerprint, old.fingerprint)
        assert after.parents["tokens.2.weight"] == "0.25"
    assert read_json(runs / "model" / "model.json")["fingerprints"]["codec"] == old.codec_fingerprint
    assert soundfile.info(runs / "speech.wav").duration <= 1.01


def test_without_old_data_the_own_store_is_trained_on_alone(tmp_path):
    trainings = [words for words in commands("model", DATA="x", MODEL="m", RUNS=tmp_path) if "--init" in words]
    assert [words[words.index("--tokens") + 1] for words in trainings] == [str(tmp_path / "tokens")] * 2
    assert all(words.count("--tokens") == 1 for words in trainings)


def test_a_model_that_is_forgotten_is_asked_for_even_when_the_tokens_are_there(tmp_path):
    for done in ("data", "tokens"):
        (tmp_path / done).mkdir()
        (tmp_path / done / "checksums.json").touch()
    made = subprocess.run(["make", "-C", str(MY_VOICE), "model", "HALLE=true", f"RUNS={tmp_path}"],
                          capture_output=True, text=True, encoding="utf-8", check=False)  # fmt: skip
    assert made.returncode and "give MODEL=FOLDER" in made.stdout


def test_both_models_are_scored_on_the_same_held_out_texts(tmp_path):
    before, after = commands("scores", DATA="x", MODEL="m", RUNS=tmp_path)[-2:]
    assert before[:4] == after[:4] == ["halle", "eval", "--set", str(tmp_path / "data")]
    assert before[before.index("--model") + 1] == "m" and after[after.index("--model") + 1] == str(tmp_path / "model")


def test_the_readme_s_commands_have_the_options_that_they_use():
    text = (MY_VOICE / "README.md").read_text(encoding="utf-8")
    lines = [line.split("#")[0].split() for line in re.findall(r"^halle .*$", text, flags=re.MULTILINE)]
    assert [words[1] for words in lines] == ["curate", "tokenize", "train-ar", "train-nar", "pack", "synth", "eval"]
    known = typer.main.get_command(app).commands
    for words in lines:
        accepted = {name for option in known[words[1]].params for name in option.opts}
        assert {word for word in words if word.startswith("--") or word == "-O"} <= accepted, words
