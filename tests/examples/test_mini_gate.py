from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from stages.artifacts.storage import is_complete

MINI = Path(__file__).resolve().parents[2] / "examples" / "mini"


@pytest.fixture
def gate(monkeypatch):
    monkeypatch.syspath_prepend(str(MINI))  # as for a script, whose folder comes first
    spec = importlib.util.spec_from_file_location("mini_gate", MINI / "gate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("figures", None)


def pass_through(gate, monkeypatch, tmp_path: Path, points: float) -> tuple[int, list[str]]:
    """Return the exit code for a codec of so many points, and the voices that were scored."""
    scored: list[str] = []
    row = {"system": "codec", "against": gate.RECORDINGS, "metric": "wer", "value": points}
    monkeypatch.setattr(gate, "score_voice", lambda data, codecs, voice, *rest: scored.append(voice))
    monkeypatch.setattr(gate, "pooled_scores", lambda folders, names: {"differences": [row]})
    monkeypatch.setattr(sys, "argv", ["gate.py", "--data", "data", "--codec", "codec", "--out", str(tmp_path)])
    return gate.main(), scored


def test_a_codec_within_the_limit_passes_and_is_not_measured_again(gate, monkeypatch, tmp_path: Path, capsys) -> None:
    assert pass_through(gate, monkeypatch, tmp_path, 15.0) == (0, ["rms", "awb", "kathleen"])
    assert is_complete(tmp_path) and "`codec` adds +15.0 points" in capsys.readouterr().out
    assert pass_through(gate, monkeypatch, tmp_path, 99.0) == (0, [])


def test_a_codec_beyond_the_limit_stops_the_queue_with_a_hint(gate, monkeypatch, tmp_path: Path, capsys) -> None:
    code, _ = pass_through(gate, monkeypatch, tmp_path, 15.1)
    assert code == 5 and not is_complete(tmp_path)
    told = capsys.readouterr().err
    assert told.startswith("error: expected a codec that adds at most 15 points") and "hint:" in told
