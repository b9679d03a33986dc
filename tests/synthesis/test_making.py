"""One text that cannot be spoken does not end an evaluation; a mistake of ours does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stages.synthesis.making import FAILED, attempt, attempt_all

FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def errand(name):
    return SimpleNamespace(case=SimpleNamespace(id=name), scene=SimpleNamespace(recording=None), take=0,
                           source=SimpleNamespace(name="mine"))


class Speaker:
    """Speak one text at a time, but none of `failures`; raise what they say."""

    def __init__(self, failures):
        self.failures = failures

    def together(self, tasks):
        raise FULL

    def __call__(self, task):
        if task.case.id in self.failures:
            raise self.failures[task.case.id]
        return f"output of {task.case.id}"


def test_texts_that_are_too_many_for_the_memory_are_spoken_one_by_one():
    speak = Speaker({"long": FULL, "longer": MemoryError()})
    made = attempt_all(None, [errand(name) for name in ("short", "long", "longer")], speak)
    assert [(item.status == FAILED, item.reason) for item in made] == [
        (False, ""), (True, "out of memory"), (True, "out of memory")]


def test_other_errors_are_not_taken_for_a_full_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        attempt(None, errand("x"), Speaker({"x": RuntimeError("shapes cannot be multiplied")}))
