"""R1: stages killed at random moments and at random changes of files end as if they had not been."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from children import Ended, at_change, at_moment, counting_changes, in_child
from small_stages import SmallStage, broken_files, leftovers, result_of

MOST_IN_A_LIFE = 4  # kills of one result before it is let to end


@dataclass
class Tally:
    """What became of one stage's kills; `problems` are to be empty."""

    stage: str
    kills: int = 0
    lives: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: what it made, how long it computed and how often it changed files."""

    result: dict[str, str]
    cpu_seconds: float
    changes: int


def run_whole(stage: SmallStage, work: Path) -> Whole:
    out, count = work / "whole", work / "changes"
    ended = in_child(lambda: stage.run(out), work / "log.txt", counting_changes(out, count))
    if ended.code != 0:
        raise AssertionError(f"{stage.name} does not run: {ended.said[-2000:]}")
    return Whole(result_of(stage.name, out), ended.cpu_seconds, int(count.read_text(encoding="utf-8")))


def torture(stage: SmallStage, kills: int, seed: int, work: Path) -> Tally:
    """Kill a stage so many times, in lives of one to four kills, and compare how each life ends."""
    shutil.rmtree(work, ignore_errors=True)
    whole, tally, chance = run_whole(stage, work), Tally(stage.name), random.Random(f"{seed} {stage.name}")
    while tally.kills < kills:
        out = work / f"life{tally.lives}"
        tally.lives += 1
        for _ in range(min(chance.randint(1, MOST_IN_A_LIFE), kills - tally.kills)):
            if not _kill_once(stage, out, whole, chance, tally):
                break
        _let_end(stage, out, whole, tally)
        shutil.rmtree(out)
    return tally


def _kill_once(stage: SmallStage, out: Path, whole: Whole, chance: random.Random, tally: Tally) -> bool:
    """Return False when the stage ended before it was killed."""
    kill, told = _draw(whole, out, chance)
    ended = in_child(lambda: stage.run(out), out.with_suffix(".log"), kill)
    if not ended.killed:
        _note_end(tally, told, ended)
        return False
    tally.kills += 1
    tally.problems += [f"{told}: {broken}" for broken in broken_files(out)]
    return True


def _draw(whole: Whole, out: Path, chance: random.Random):
    """Draw a moment or a change, most within what one run has of them."""
    if chance.random() < 0.5:
        seconds = chance.uniform(0, whole.cpu_seconds)
        return at_moment(seconds), f"killed after {seconds:.4f} s"
    number = chance.randint(1, whole.changes)
    return at_change(out, number), f"killed before change {number}"


def _note_end(tally: Tally, told: str, ended: Ended) -> None:
    if ended.code != 0:
        tally.problems.append(f"{told}: exit {ended.code}, signal {ended.signal}: {ended.said[-600:]}")


def _let_end(stage: SmallStage, out: Path, whole: Whole, tally: Tally) -> None:
    ended = in_child(lambda: stage.run(out), out.with_suffix(".log"))
    life = f"life {tally.lives} of {tally.kills} kills"
    _note_end(tally, f"{life} does not resume", ended)
    if ended.code != 0:
        return
    tally.problems += [f"{life}: {broken}" for broken in broken_files(out)]
    tally.problems += [f"{life}: left behind {name}" for name in leftovers(out)]
    found = result_of(stage.name, out)
    tally.problems += [f"{life}: `{name}` differs" for name in sorted(found.keys() | whole.result.keys())
                       if found.get(name) != whole.result.get(name)]
