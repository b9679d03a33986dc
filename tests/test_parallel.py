"""Workers: one or several processes do the same, and none outlives what it works for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest

from stages.parallel import CrashError, Workers, run_alone


def square(number: int) -> int:
    return number * number


def threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def fail_or_sleep(number: int) -> int:
    if number == 0:
        raise ValueError("no")
    time.sleep(100)
    return number


def die_or_sleep(number: int) -> int:
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)
    return number


@pytest.mark.parametrize("count", [1, 2])
def test_every_item_is_done_once(count):
    with Workers(count) as workers:
        assert sorted(workers.map(square, list(range(9)))) == [(number, number**2) for number in range(9)]
        assert list(workers.map(square, [])) == []


def test_several_workers_compute_with_one_thread_each():
    with Workers(2) as workers:
        assert {answer for _, answer in workers.map(threads, [1, 2, 3])} == {"1"}


@pytest.mark.parametrize("function, error", [(fail_or_sleep, ValueError), (die_or_sleep, BrokenProcessPool)])
def test_a_failure_ends_the_others_at_once(function, error):
    began = time.monotonic()
    with pytest.raises(error), Workers(2) as workers:
        list(workers.map(function, [0, 1, 2]))
    assert time.monotonic() - began < 60
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_what_kills_a_process_of_its_own_is_named_and_what_it_raises_is_raised():
    assert run_alone(square, 3) == 9
    with pytest.raises(CrashError, match="SIGKILL") as caught:
        run_alone(die_or_sleep, 0)
    assert caught.value.signal == signal.SIGKILL
    with pytest.raises(ValueError, match="no"):
        run_alone(fail_or_sleep, 0)


def test_workers_begin_again_after_one_was_killed():
    with Workers(2) as workers:
        with pytest.raises(BrokenProcessPool):
            list(workers.map(die_or_sleep, [0, 0]))
        workers.restart()
        assert dict(workers.map(square, [1, 2])) == {1: 1, 2: 4}


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import os, test_parallel
from stages.parallel import Workers
def main():
    with Workers(2) as workers:
        for _, pid in workers.map(test_parallel.tell_pid, [0, 1]):
            print(pid, flush=True)
        list(workers.map(test_parallel.fail_or_sleep, [1, 2]))
if __name__ == "__main__":
    main()
"""
    (tmp_path / "parent.py").write_text(program, encoding="utf-8")
    root = str(Path(__file__).parent.parent)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True,
                              encoding="utf-8", env={**os.environ, "PYTHONPATH": root})
    pids = {int(parent.stdout.readline()) for _ in range(2)}
    workers = [psutil.Process(pid) for pid in pids]
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def tell_pid(_: int) -> int:
    return os.getpid()
