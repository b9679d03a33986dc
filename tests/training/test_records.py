"""What a run tells on its way: the report is written at validations and when a run is stopped, and never stops one."""

import signal

import numpy as np
import pytest
from toy_task import ToyTask, final_bytes, send, toy_run

from stages.artifacts.samples import Sample
from stages.errors import DivergedError, InterruptedRunError


class Told:
    """A report that remembers when it was called, with which sounds, and how many rows the run had told by then."""

    def __init__(self):
        self.calls = []

    def __call__(self, run_dir, step, samples):
        rows = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        self.calls.append((step, [sample.name for sample in samples], len(rows)))

    @property
    def steps(self):
        return [step for step, _, _ in self.calls]


class HeardTask(ToyTask):
    def samples(self, run):
        assert not self.networks["model"].training
        return [Sample("tone", f"at-{run.step}", np.zeros(10, np.float32), 8000)]


def test_the_report_follows_every_validation_with_its_measures_and_sounds(tmp_path):
    told = Told()
    toy_run(tmp_path, report=told, make_task=HeardTask)
    assert told.calls == [(4, ["at-4"], 3), (8, ["at-8"], 6), (10, ["at-10"], 8)]


def test_a_task_without_sounds_has_a_report_too(tmp_path):
    told = Told()
    toy_run(tmp_path, report=told)
    assert [names for _, names, _ in told.calls] == [[], [], []]


def test_a_run_that_is_stopped_or_diverges_leaves_a_last_report(tmp_path):
    told = Told()
    with pytest.raises(InterruptedRunError):
        toy_run(tmp_path / "stopped", report=told, at_step={6: send(signal.SIGTERM)})
    assert told.steps == [4, 6]
    told = Told()
    with pytest.raises(DivergedError):
        toy_run(tmp_path / "diverged", report=told, at_step={"factor": dict.fromkeys((7, 8, 9), float("nan"))})
    assert told.steps[-1] == 6, "step 7 was skipped, 8 is the second and the end"


def test_sounds_and_reports_do_not_change_what_is_trained(tmp_path):
    toy_run(tmp_path / "silent")
    toy_run(tmp_path / "heard", report=Told(), make_task=HeardTask)
    assert final_bytes(tmp_path / "heard") == final_bytes(tmp_path / "silent")


def test_a_report_that_cannot_be_written_is_logged_and_the_run_goes_on(tmp_path, caplog):
    def broken(run_dir, step, samples):
        raise OSError("no space left")

    _, result = toy_run(tmp_path, report=broken)
    assert result.step == 10 and (tmp_path / "checksums.json").exists()
    assert "the report of step 8 could not be written: no space left" in caplog.text
