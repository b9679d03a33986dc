"""The comparison of threads: what makes the machine busy is there while it measures, and gone afterwards."""

from __future__ import annotations

import os

import psutil
import pytest
import threads


def test_busy_programs_end_with_the_measurement_even_when_it_fails() -> None:
    before = set(psutil.Process(os.getpid()).children())
    with pytest.raises(RuntimeError), threads.busy(2):
        programs = set(psutil.Process(os.getpid()).children()) - before
        raise RuntimeError
    assert len(programs) == 2 and not any(program.is_running() for program in programs)
