"""Trackers get what metrics.jsonl gets, go on where a run goes on, and never end a training."""

import os
import signal
import time

import pytest
from toy_task import send, toy_run

from stages.artifacts.storage import read_journal, read_json, verify_checksums
from stages.config.resolve import resolve
from stages.errors import InterruptedRunError, MissingModelError, UsageError
from stages.training import tracking


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboard")


def curves(run):
    """Return every curve of the event files as name -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tracker"))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def told(run):
    """Return every series of metrics.jsonl under the names that trackers see."""
    found = {}
    for row in read_journal(run / "metrics.jsonl"):
        for name, value in row.items():
            if name != "step":
                found.setdefault(name.replace(".", "/", 1), []).append((row["step"], value))
    return found


def assert_same_curves(run):
    found, expected = curves(run), told(run)
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-5), name


def test_tensorboard_gets_every_row_of_the_metrics(tensorboard, tmp_path):
    toy_run(tmp_path, tracker="tensorboard")
    assert_same_curves(tmp_path)
    assert [step for step, _ in curves(tmp_path)["validation/weight.part"]] == [4, 8, 10]


def test_a_stopped_and_a_killed_run_go_on_in_the_same_curves(tensorboard, tmp_path):
    with pytest.raises(InterruptedRunError):
        toy_run(tmp_path, tracker="tensorboard", log_every=1, at_step={2: send(signal.SIGTERM)})
    if hasattr(os, "fork"):
        time.sleep(1.1)  # event files are read in the order of the seconds in their names
        child = os.fork()
        if child == 0:  # steps 7 and 8 are told, but only step 6 is saved
            toy_run(tmp_path, tracker="tensorboard", log_every=1, at_step={9: send(signal.SIGKILL)})
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    time.sleep(1.1)
    toy_run(tmp_path, tracker="tensorboard", log_every=1)
    assert [step for step, _ in curves(tmp_path)["loss"]] == list(range(1, 11))
    assert_same_curves(tmp_path)


def test_without_the_option_nothing_is_tracked_and_it_may_be_given_later(tensorboard, tmp_path):
    toy_run(tmp_path, steps=4, schedule="constant")
    assert not (tmp_path / "tracker").exists()
    toy_run(tmp_path, steps=8, schedule="constant", tracker="tensorboard")
    assert [step for step, _ in curves(tmp_path)["loss"]] == [6, 8]


def test_what_a_tracker_writes_later_does_not_damage_a_finished_run(tensorboard, tmp_path):
    toy_run(tmp_path, tracker="tensorboard")
    assert not any(name.startswith("tracker") for name in read_json(tmp_path / "checksums.json")["files"])
    for file in (tmp_path / "tracker").rglob("events*"):
        file.write_bytes(b"")
    verify_checksums(tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    with pytest.raises(MissingModelError, match=f"expected the package `{name}`") as caught:
        toy_run(tmp_path / "run", tracker=name)
    assert caught.value.hint == f"pip install 'halle[{name}]'"
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_start_says_why(tmp_path, monkeypatch):
    def refuse(folder, run_id, step):
        raise ValueError("no key\n  configured")

    monkeypatch.setattr(tracking, "find_spec", lambda package: True)
    monkeypatch.setitem(tracking._STARTERS, "wandb", refuse)
    with pytest.raises(UsageError, match="the tracker `wandb` did not start: no key configured"):
        toy_run(tmp_path, tracker="wandb")


class AwayServer:
    """A tracker whose run has an id and whose server is away after the start."""

    name = "wandb"

    def __init__(self, started):
        self.started, self.finished, self.settings = started, 0, []

    def start(self, folder, run_id, step):
        self.started.append((run_id, step))
        return self, "id-7"

    def store_init_configuration(self, values):
        self.settings.append(values)

    def log(self, values, step):
        raise ConnectionError("no route")

    def finish(self):
        self.finished += 1


def test_a_run_keeps_its_id_and_goes_on_when_the_server_is_away(tmp_path, monkeypatch, caplog):
    started = []
    trackers = [AwayServer(started), AwayServer(started)]
    monkeypatch.setattr(tracking, "find_spec", lambda package: True)
    for tracker, steps in zip(trackers, (4, 8), strict=True):
        monkeypatch.setitem(tracking._STARTERS, "wandb", tracker.start)
        toy_run(tmp_path, steps=steps, schedule="constant", tracker="wandb")
    assert started == [(None, 0), ("id-7", 4)]
    assert [tracker.finished for tracker in trackers] == [1, 1]
    assert trackers[0].settings[0]["training.learning_rate"] == "0.01" and trackers[1].settings == []
    assert "the tracker `wandb` did not take step 8: no route" in caplog.text


@pytest.mark.parametrize("stage, inputs", [
    ("train-codec", ["--data", "x"]), ("mreq", ["--teacher", "x", "--data", "x"]), ("train-ar", ["--tokens", "x"]),
    ("train-nar", ["--tokens", "x", "--codec", "x"]),
])  # fmt: skip
def test_every_trainer_takes_the_option(stage, inputs, tmp_path, monkeypatch):
    from halle_cli import app

    given = {}
    monkeypatch.setattr(app, "_run_stage", lambda name, module, settings, common: given.update(settings))
    with pytest.raises(SystemExit):
        app.app([stage, *inputs, "--out", str(tmp_path / "run"), "--tracker", "mlflow"])
    assert given.pop("probe") is False  # no setting: it asks for another work
    assert resolve(stage, options=given).training.tracker == "mlflow"
    with pytest.raises(UsageError, match=r"`training\.tracker`"):
        resolve(stage, options={**given, "training.tracker": "notebook"})
