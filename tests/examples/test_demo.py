"""`make demo`: first the model that ships speaks, when there is one, then the chain runs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
from tiny_chain import SPEECH

from halle_cli.app import app
from stages.artifacts.storage import read_json

MINI = Path(__file__).parents[2] / "examples" / "mini"
CHAIN = ["curate", "train-codec", "mreq", "tokenize", "train-ar", "train-nar", "pack", "synth", "eval"]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def demo(runs: Path, shipped: Path, *options: str) -> tuple[list[list[str]], str]:
    """Return the commands of the demo as words, and all that make would do."""
    result = subprocess.run(["make", "--no-print-directory", "-n", "-C", str(MINI), "demo", "HALLE=halle",
                             f"RUNS={runs}", f"SHIPPED={shipped}", *options],
                            capture_output=True, text=True, encoding="utf-8", check=True)  # fmt: skip
    return [shlex.split(line) for line in result.stdout.splitlines() if line.startswith("halle ")], result.stdout


def test_without_a_model_that_speaks_the_demo_is_the_chain(tmp_path):
    (tmp_path / "shipped" / "codec").mkdir(parents=True)
    commands, said = demo(tmp_path / "runs", tmp_path / "shipped")
    assert [words[1] for words in commands] == CHAIN and "halle-mini" not in said


def test_the_model_that_ships_speaks_first_and_its_audio_is_named_at_once_and_at_the_end(tmp_path, speaking_model):
    commands, said = demo(tmp_path / "runs", speaking_model)
    assert [words[1] for words in commands] == ["synth", *CHAIN]
    assert str(speaking_model) in commands[0]
    lines, audio = said.splitlines(), f"{tmp_path}/runs/halle-mini.wav"
    named = [number for number, line in enumerate(lines) if line.startswith("echo") and audio in line]
    curate = next(number for number, line in enumerate(lines) if line.startswith("halle curate"))
    assert len(named) == 2 and named[0] < curate < named[1]


def test_what_it_speaks_says_that_it_is_synthetic(tmp_path, speaking_model):
    (tmp_path / "script.txt").write_text("Good evening.", encoding="utf-8")
    (synth, *_), _ = demo(tmp_path / "runs", speaking_model, f"SCRIPT={tmp_path / 'script.txt'}",
                          f"PROMPT={SPEECH / 'prompt.ogg'}")
    with pytest.raises(SystemExit) as end:
        app([*synth[1:], "--device", "cpu"])
    assert end.value.code == 0
    with soundfile.SoundFile(tmp_path / "runs" / "halle-mini.wav") as sound:
        assert sound.frames > 0 and "synthetic" in sound.comment
    assert read_json(tmp_path / "runs" / "halle-mini.json")["synthetic"] is True
