"""R2: every failing operation on a file ends a stage with one line and exit code 4, and harms nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from children import Ended, in_child
from faults import Faults
from small_stages import SmallStage, broken_files, result_of


@dataclass
class Sweep:
    """How often a stage met a failing operation, of how many there are; `problems` are to be empty."""

    stage: str
    operations: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    problems: list[str] = field(default_factory=list)


def operations_of(stage: SmallStage, roots: tuple[Path, ...], work: Path) -> dict[str, int]:
    """Return how many operations of each kind an undisturbed run makes; its result is at `work / "whole"`."""
    faults, count = Faults(roots), work / "operations.json"

    def counted() -> dict:
        found = stage.run(work / "whole")
        count.write_text(json.dumps(faults.counts), encoding="utf-8")
        return found

    ended = in_child(counted, work / "log.txt", faults.install)
    if ended.code != 0:
        raise AssertionError(f"{stage.name} does not run: {ended.said[-2000:]}")
    return json.loads(count.read_text(encoding="utf-8"))


def sweep(stage: SmallStage, inputs: tuple[Path, ...], work: Path, every: int = 1, resume_every: int = 1) -> Sweep:
    """Fail each `every`th operation of each kind in a run of its own; resume each `resume_every`th of these runs."""
    shutil.rmtree(work, ignore_errors=True)
    out = work / "out"
    done = Sweep(stage.name, operations_of(stage, (*inputs, work), work))
    whole = result_of(stage.name, work / "whole")
    for kind, number in _numbers(done.operations, every):
        shutil.rmtree(out, ignore_errors=True)
        faults = Faults((*inputs, work), kind, number)
        ended = in_child(lambda: stage.run(out), work / "log.txt", faults.install)
        told = f"{kind} {number} of {done.operations[kind]}"
        done.failures += 1
        unharmed = ended.code == 0 and result_of(stage.name, out) == whole
        done.problems += [] if unharmed else [f"{told}: {problem}" for problem in _judge(ended)]
        done.problems += [f"{told}: {broken}" for broken in broken_files(out)]
        if done.failures % resume_every == 0:
            done.problems += [f"{told}: {problem}" for problem in _resume(stage, out, whole, work)]
    return done


def _numbers(operations: dict[str, int], every: int) -> Iterator[tuple[str, int]]:
    for place, (kind, count) in enumerate(sorted(operations.items())):
        for number in range(1 + place % every, count + 1, every):
            yield kind, number


def _judge(ended: Ended) -> Iterator[str]:
    """What a stage can do without, such as its page or a second look at a file, leaves the whole result: no matter."""
    errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    if ended.code != 4 or len(errors) != 1 or "Traceback" in ended.said:
        yield f"exit {ended.code}, {len(errors)} errors: {ended.said[-1500:]}"


def _resume(stage: SmallStage, out: Path, whole: dict[str, str], work: Path) -> Iterator[str]:
    ended = in_child(lambda: stage.run(out), work / "log.txt")
    if ended.code != 0:
        yield f"does not resume: {ended.said[-600:]}"
    elif result_of(stage.name, out) != whole:
        yield "resumed, its result differs"
