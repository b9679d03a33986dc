"""One of several processes dies, fails or is told to stop: none of the others waits for ever."""

import os
import signal
import time

import pytest
import torch
from forked import run_ranks, said
from toy_task import final_bytes, toy_run

from stages.artifacts import storage
from stages.artifacts.checkpoint import list_checkpoints
from stages.errors import UsageError

SECONDS = 120  # within which all must have ended

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
              pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")]


def of_rank(rank, action):
    """Return what one process does at a step, and the others do not."""
    return lambda: action() if os.environ["RANK"] == str(rank) else None


def send_once(number):
    sent = []
    return lambda: sent or (sent.append(number), os.kill(os.getpid(), number))


def end_of(world_size, tmp_path, **arguments):
    """Return the exit codes of a toy run on several processes, which must have ended in time."""
    began = time.monotonic()
    codes = run_ranks(world_size, lambda: toy_run(tmp_path / "run", **arguments) and None, tmp_path / "log", SECONDS)
    assert time.monotonic() - began < SECONDS, said(tmp_path / "log")
    return codes


@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_process_ends_the_others_with_a_message(tmp_path, rank):
    codes = end_of(3, tmp_path, at_step={5: of_rank(rank, send_once(signal.SIGKILL))})
    assert codes == [-signal.SIGKILL if each == rank else 1 for each in range(3)]
    text = said(tmp_path / "log")
    assert "bug in halle" not in text and (rank == 0 or "another process of this run has ended" in text)
    assert list_checkpoints(tmp_path / "run")[-1][0] == 3


@pytest.mark.parametrize("failing, code", [("full", 4), ("bug", 1)])
def test_a_main_process_that_cannot_save_ends_all_with_its_code(tmp_path, failing, code):
    flush = storage._flush_file

    def fail(path):
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device") if failing == "full" else ZeroDivisionError
        flush(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_flush_file", fail)
        assert end_of(3, tmp_path) == [code] * 3
    assert said(tmp_path / "log").count("error:") == 1
    assert list_checkpoints(tmp_path / "run") == []


def test_a_process_that_cannot_read_its_items_says_so_and_ends_the_others(tmp_path):
    def fail():
        raise UsageError("recording `x.wav` cannot be read")

    assert end_of(3, tmp_path, at_step={4: of_rank(1, fail)}) == [1, 2, 1]
    assert "process 1: error: recording `x.wav` cannot be read" in said(tmp_path / "log")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_the_run_goes_on_from_it(tmp_path, number):
    whole = run_ranks(2, lambda: toy_run(tmp_path / "whole") and None, tmp_path / "log")
    codes = end_of(2, tmp_path, at_step={5: of_rank(1, send_once(number))})
    assert whole == [0, 0] and codes == [128 + number] * 2, said(tmp_path / "log")
    assert list_checkpoints(tmp_path / "run")[-1][0] == 5
    assert end_of(2, tmp_path) == [0, 0]
    assert final_bytes(tmp_path / "run") == final_bytes(tmp_path / "whole")


