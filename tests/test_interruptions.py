"""Every trainer, killed or asked to stop at a step, ends with the bytes of an uninterrupted run."""

import os
import re
import signal
from urllib.parse import unquote

import pytest
from tiny_chain import tiny_config

from stages import mreq, train_ar, train_codec, train_nar
from stages.artifacts.checkpoint import list_checkpoints
from stages.artifacts.storage import read_json, read_jsonl, sha256_file, verify_checksums
from stages.errors import InterruptedRunError
from stages.training import loop

STEPS = ("training.steps=10", "training.save_every=3", "training.validate_every=100", "training.log_every=1")


def configs(name: str, chain, out):
    paths = {
        "train-codec": {"data": chain.data},
        "mreq": {"teacher": chain.codec / "encodec.pt", "data": chain.data},
        "train-ar": {"tokens": chain.tokens},
        "train-nar": {"tokens": chain.tokens, "codec": chain.mreq},
    }[name]
    return tiny_config(name, *STEPS, out=str(out), **{key: str(value) for key, value in paths.items()})


TRAINERS = {"train-codec": train_codec, "mreq": mreq, "train-ar": train_ar, "train-nar": train_nar}


def interrupt_at(monkeypatch, step: int, number: int):
    begin_step = loop.Run.begin_step

    def begin_and_interrupt(self, current: int) -> None:
        begin_step(self, current)
        if current == step:
            signal.raise_signal(number)

    monkeypatch.setattr(loop.Run, "begin_step", begin_and_interrupt)


def final_state(out) -> dict[str, bytes]:
    step, folder = list_checkpoints(out)[-1]
    files = ("model.safetensors", "trainer_state/state.safetensors")
    return {"step": step, **{name: (folder / name).read_bytes() for name in files}}


def assert_whole_report(out, plays):
    """Every step is in the page's history, what it plays is there, and the checksums are of the last page written."""
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "10 of 10 (100 %)" in page
    steps = [row["step"] for row in read_jsonl(out / "metrics.jsonl") if "learning_rate" in row]
    assert steps == list(range(1, 11))
    played = re.findall(r'<audio [^>]*src="([^"]*)"', page)
    assert bool(played) == plays and all((out / unquote(path)).is_file() for path in played)
    listed = read_json(out / "checksums.json")["files"]
    assert listed["report.html"]["sha256"] == sha256_file(out / "report.html")


@pytest.fixture(scope="module", params=TRAINERS)
def whole(request, chain, tmp_path_factory):
    """The name of a trainer and the final state of its uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    TRAINERS[request.param].run(configs(request.param, chain, out))
    return request.param, final_state(out)


def test_stopped_by_sigterm_at_step_5_then_continued(whole, chain, tmp_path, monkeypatch):
    name, expected = whole
    config = configs(name, chain, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, signal.SIGTERM)
        with pytest.raises(InterruptedRunError) as caught:
            TRAINERS[name].run(config)
    assert caught.value.exit_code == 143
    assert list_checkpoints(tmp_path / "run")[-1][0] == 5
    TRAINERS[name].run(config)
    assert final_state(tmp_path / "run") == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_step_8_then_continued_from_step_6(whole, chain, tmp_path, monkeypatch):
    name, expected = whole
    config = configs(name, chain, tmp_path / "run")
    child = os.fork()
    if child == 0:
        interrupt_at(monkeypatch, 8, signal.SIGKILL)
        TRAINERS[name].run(config)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert list_checkpoints(tmp_path / "run")[-1][0] == 6
    TRAINERS[name].run(config)
    assert final_state(tmp_path / "run") == expected
    verify_checksums(tmp_path / "run")
    assert_whole_report(tmp_path / "run", plays=name != "train-ar")  # which has no codec here
