"""The recipe that compares VALL-E and HALL-E: both get the same, and their scores come together in one table."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages import evaluate
from stages.audio.io import write_audio
from stages.config.resolve import resolve
from stages.config.stage_configs import EvalConfig
from stages.speech import transcriber
from stages.speech.transcriber import Transcript

LIBRITTS = Path(__file__).parents[2] / "examples" / "libritts"
RATE = 8000
TEXTS = {"a": "alpha bravo cabin delta", "b": "eagle fable gamma hotel", "c": "india joker kilo lemon"}

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def commands(runs: Path, *variables: str) -> list[list[str]]:
    made = subprocess.run(
        ["make", "--no-print-directory", "-n", "-C", str(LIBRITTS), f"RUNS={runs}", "HALLE=halle", "PYTHON=python",
         *variables], capture_output=True, text=True, encoding="utf-8", check=True).stdout  # fmt: skip
    return [shlex.split(line.replace(str(runs), "R")) for line in made.splitlines() if not line.startswith("test ")]


def after(option: str, words: list[str]) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == option]


@needs_make
def test_both_systems_are_trained_and_scored_with_the_same_settings(tmp_path: Path) -> None:
    lines = commands(tmp_path, "LIBRITTS=corpus", "OPTIONS=-O seed=3")
    assert [words[:2] for words in lines[:2]] == [["halle", "curate"], ["halle", "train-codec"]]
    assert lines[0][2] == "corpus" and lines[-1] == ["python", "table.py", "VALL-E=R/valle/eval", "HALL-E=R/halle/eval"]
    for stage in ("tokenize", "train-ar", "train-nar", "pack", "eval"):
        valle, halle = (words for words in lines if words[1] == stage)
        own = {"--codec", "--tokens", "--out", "--init", "--text-tokenizer", "--ar", "--nar", "--model"}
        assert _without(own, valle) == _without(own, halle), stage
        assert "R/valle" in " ".join(valle) and "R/halle" in " ".join(halle)
    trained = [words for words in lines if words[1] in ("train-codec", "mreq", "train-ar", "train-nar")]
    assert len(trained) == 6 and all(after("-O", words) == ["seed=3"] for words in trained)


@needs_make
def test_halle_starts_from_valle_unless_told_not_to(tmp_path: Path) -> None:
    def starts(*variables: str) -> dict[str, list[str]]:
        return {after("--out", words)[0]: after("--init", words)
                for words in commands(tmp_path, "LIBRITTS=corpus", *variables) if words[1] in ("train-ar", "train-nar")}

    assert starts() == {"R/valle/ar": [], "R/valle/nar": [], "R/halle/ar": ["R/valle/ar"],
                        "R/halle/nar": ["R/valle/nar"]}
    assert starts("FROM_VALLE=no")["R/halle/ar"] == []


@needs_make
def test_without_a_corpus_the_error_says_what_to_give(tmp_path: Path) -> None:
    made = subprocess.run(["make", "-C", str(LIBRITTS), f"RUNS={tmp_path}", "HALLE=true", "PYTHON=true"],
                          capture_output=True, text=True, encoding="utf-8", check=False)
    assert made.returncode and "hint: make LIBRITTS=FOLDER" in made.stderr


def _without(options: set[str], words: list[str]) -> list[str]:
    """Return the words without these options and their values."""
    return [word for index, word in enumerate(words) if not {word, words[index - 1]} & options]


@pytest.mark.parametrize("preset", ["single-gpu", "paper", "mini", "smoke"])
def test_the_preset_gives_both_systems_the_same_sizes_tokens_and_steps(preset: str) -> None:
    """What `train-ar` and `train-nar` are told is all there is: no setting of a preset depends on the system."""
    for stage in ("train-ar", "train-nar"):
        one, other = (resolve(stage, preset, options={"system": system}) for system in ("valle", "halle"))
        assert one.model_copy(update={"system": None}) == other.model_copy(update={"system": None})


# ---- the table


class Listener:
    """Hear the first text at 200 Hz, the second at 300 and the third at 400, less the last word when it is quiet."""

    name, version = "listener", "1"

    def transcribe(self, waveform: np.ndarray, sample_rate: int) -> Transcript:
        spectrum = np.abs(np.fft.rfft(waveform))
        words = list(TEXTS.values())[round(np.argmax(spectrum) * sample_rate / len(waveform) / 100) - 2].split()
        return Transcript(" ".join(words if np.abs(waveform).max() > 0.3 else words[:-1]))


def tone(index: int, loudness: float, seconds: float = 4.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (loudness * np.sin(2 * np.pi * (200 + 100 * index) * time)).astype(np.float32)


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Evaluations of two sets of hypotheses: `all` is heard rightly, `last` lacks every last word and is longer."""
    monkeypatch.setitem(transcriber._TRANSCRIBERS, "listener", Listener)
    rows = []
    for index, (name, text) in enumerate(TEXTS.items()):
        write_audio(tmp_path / "set" / f"{name}.wav", tone(index, 0.5), RATE)
        write_audio(tmp_path / "all" / f"{name}.wav", tone(index, 0.5), RATE)
        write_audio(tmp_path / "last" / f"{name}.wav", tone(index, 0.1, 6.0), RATE)
        rows.append({"id": name, "audio": f"{name}.wav", "duration": 4.0, "speaker": "ann", "text": text})
    (tmp_path / "set" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {name: score(tmp_path, name) for name in ("all", "last")}


def score(root: Path, name: str, **changes) -> Path:
    out = root / "eval" / (name + "".join(changes))
    evaluate.run(EvalConfig(set=str(root / "set"), hypotheses=str(root / name), out=str(out), transcriber="listener",
                            device="cpu", bootstrap_samples=50, metrics=("wer", "duration_distance"), **changes))
    return out


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("libritts_table", LIBRITTS / "table.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look their types up
    spec.loader.exec_module(module)
    return module


def test_the_table_has_the_recordings_and_every_system_under_its_given_name(scored, table, capsys) -> None:
    assert table.main([f"VALL-E={scored['last']}", f"HALL-E={scored['all']}"]) == 0
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "|" in line]
    assert "3 utterances, cross-sentence" in printed
    assert [cell.partition(" (")[0] for cell in cells[0]] == ["system", "WER", "duration WD, s"]
    rows = {row[0]: [cell.partition(" (")[0] for cell in row[1:]] for row in cells}
    assert rows["recordings"][0] == "0.00"
    assert rows["VALL-E"] == ["25.00", "2.00"]  # a word of four is lost; 6 s in place of 4
    assert rows["HALL-E"] == ["0.00", "0.00"]
    assert rows["HALL-E less VALL-E"] == ["duration WD, s", "-2.00", "3"]
    assert ["HALL-E less VALL-E", "WER (listener), %", "-25.00", "3"] in [
        [cell.partition(" (-")[0] for cell in row] for row in cells]


@pytest.mark.parametrize("changes, fact", [({"max_items": 2}, "same set"), ({"seed": 5}, "same seed")])
def test_scores_of_something_else_are_not_put_beside_each_other(scored, table, tmp_path, capsys, changes, fact) -> None:
    other = score(tmp_path, "all", **changes)
    assert table.main([f"VALL-E={scored['last']}", f"HALL-E={other}"]) == 2
    assert fact in capsys.readouterr().err


def test_what_is_no_evaluation_and_names_that_are_the_same_are_refused(scored, table, tmp_path, capsys) -> None:
    assert table.main([f"VALL-E={tmp_path}"]) == 2
    assert "expected a folder of halle eval" in capsys.readouterr().err
    assert table.main([f"A={scored['last']}", f"A={scored['all']}"]) == 2
    assert "a name of its own" in capsys.readouterr().err
