"""The script that lets NeMo hear an evaluation's sounds: everything but NeMo itself."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.storage import sha256_file
from stages.audio.io import write_audio
from stages.metrics.transcripts import GivenTranscripts

SCRIPT = Path(__file__).parents[2] / "examples" / "nemo" / "transcribe.py"
RATE = 24_000
WORD_SECONDS = 0.5


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("nemo_transcribe", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakeModel:
    """What NeMo's ASRModel has of what the script calls. Word n of the speech is half a second of the value n / 500."""

    def __init__(self, name, timed=True, as_tuple=False):
        self.name, self.timed, self.as_tuple, self.calls = name, timed, as_tuple, []

    def to(self, device):
        self.device = device
        return self

    def eval(self):
        return self

    def transcribe(self, audio, batch_size, timestamps, verbose):
        assert timestamps and not verbose and batch_size > 0
        self.calls.append([len(samples) for samples in audio])
        found = [self._hypothesis(samples) for samples in audio]
        return (found, found) if self.as_tuple else found

    def _hypothesis(self, samples):
        values = np.round(samples * 500).astype(int)
        edges = np.flatnonzero(np.diff(values, prepend=-1, append=-1))
        words = [(f"w{values[a]}", a / 16_000, b / 16_000) for a, b in pairwise(edges)
                 if b - a > 0.9 * WORD_SECONDS * 16_000]
        timestamp = {"word": [{"word": w, "start": a, "end": b, "start_offset": 0} for w, a, b in words]}
        return types.SimpleNamespace(text=" ".join(word for word, _, _ in words),
                                     timestamp=timestamp if self.timed else [])


@pytest.fixture
def nemo(monkeypatch):
    """A stand-in for the package, as its modules are named."""
    made = []

    def make(name):
        made.append(FakeModel(name))
        return made[-1]

    models = types.SimpleNamespace(ASRModel=types.SimpleNamespace(from_pretrained=make, restore_from=make))
    modules = {"nemo": types.SimpleNamespace(__version__="9.9"), "nemo.collections": types.SimpleNamespace(),
               "nemo.collections.asr": types.SimpleNamespace(models=models), "nemo.collections.asr.models": models}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def numbered(count):
    return np.repeat(np.arange(1, count + 1, dtype=np.float32) / 500, round(WORD_SECONDS * RATE))


@pytest.fixture
def evaluation(tmp_path):
    folder = tmp_path / "eval"
    for name, count in (("audio/mine/a.wav", 150), ("audio/mine/b.take2.wav", 4), ("recordings/a.wav", 6)):
        write_audio(folder / name, numbered(count), RATE)
    write_audio(folder / "audio" / "theirs" / "same.wav", numbered(4), RATE)  # the very sound of b
    write_audio(folder / "elsewhere.wav", numbered(2), RATE)
    return folder


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def words(count):
    return " ".join(f"w{number}" for number in range(1, count + 1))


def test_every_sound_is_heard_whole_once_and_halle_reads_what_was_heard(script, nemo, evaluation):
    script.main([str(evaluation), "--device", "cpu"])
    out = evaluation / "stt_en_conformer_transducer_xlarge.jsonl"
    model, = nemo
    assert (model.name, model.device) == ("nvidia/stt_en_conformer_transducer_xlarge", "cpu")
    assert len(lines(out)) == 3 and max(length for call in model.calls for length in call) <= 30 * 16_000
    heard = GivenTranscripts([out])
    assert (heard.name, heard.version) == ("stt_en_conformer_transducer_xlarge", "nemo 9.9, windows of 30 s")
    for name, count in (("audio/mine/a.wav", 150), ("audio/mine/b.take2.wav", 4), ("recordings/a.wav", 6),
                        ("audio/theirs/same.wav", 4)):
        transcript = heard.of(sha256_file(evaluation / name), read=None)
        assert transcript.text == words(count)
        starts = [word.start for word in transcript.words]
        np.testing.assert_allclose(starts, WORD_SECONDS * np.arange(count), atol=0.01)


def test_an_interrupted_run_goes_on_and_a_finished_one_loads_no_model(script, nemo, evaluation):
    out = evaluation.parent / "heard.jsonl"
    script.main([str(evaluation), "--out", str(out), "--device", "cpu"])
    whole = out.read_bytes()
    first, second, _ = whole.splitlines(keepends=True)
    out.write_bytes(first + second[:40])
    script.main([str(evaluation), "--out", str(out), "--device", "cpu"])
    assert out.read_bytes() == whole
    assert len(nemo) == 2 and sum(map(len, nemo[1].calls)) < sum(map(len, nemo[0].calls))
    script.main([str(evaluation), "--out", str(out), "--device", "cpu"])
    assert len(nemo) == 2 and out.read_bytes() == whole


def test_a_file_of_weights_gives_the_recogniser_its_name(script, nemo, evaluation):
    script.main([str(evaluation), "--model", "models/my_model.nemo", "--device", "cpu"])
    assert {line["recogniser"] for line in lines(evaluation / "my_model.jsonl")} == {"my_model"}


@pytest.mark.parametrize("model", [FakeModel("old", as_tuple=True), FakeModel("untimed", timed=False)])
def test_hypotheses_of_other_versions_of_nemo_are_understood(script, model):
    heard = script.hear(model, np.repeat(np.arange(1, 101, dtype=np.float32) / 500, 8000), batch_size=2)
    assert " ".join(word.text for word in heard) == words(100)


def test_silence_is_not_given_to_the_model(script):
    model = FakeModel("idle")
    assert script.hear(model, np.zeros(40 * 16_000, np.float32), 2) == []
    assert script.hear(model, np.zeros(0, np.float32), 2) == []
    assert model.calls == []


def test_a_folder_without_sounds_is_refused(script, nemo, tmp_path):
    with pytest.raises(SystemExit, match="no WAV file"):
        script.main([str(tmp_path)])


def test_the_script_needs_no_more_of_halle_than_what_can_live_beside_nemo():
    """Neither torch nor anything of halle's own dependencies that NeMo does not bring."""
    code = (f"import sys, runpy; sys.argv = ['x', '--help']\n"
            f"try:\n    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'pydantic', 'jiwer', 'rapidfuzz', 'encodec', 'typer', 'nemo'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "output folder of halle eval" in done.stdout
