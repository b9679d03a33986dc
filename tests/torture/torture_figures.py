"""The figures of `make torture`: what is asked and how it is measured. Each gives what was measured and what failed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import corruption
import kills
import limits
import resume
import storage_faults
from small_stages import TRAINERS, small_stages
from tiny_chain import Chain

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Measured:
    """What was measured, in words; it holds when there are no problems."""

    told: str
    problems: list[str]


@dataclass(frozen=True)
class Bench:
    """The tiny chain, a folder to work in, and how much is asked for: `kills` a stage; other counts follow from it."""

    chain: Chain
    work: Path
    kills: int
    seed: int = 0
    only_stages: tuple[str, ...] = ()

    @cached_property
    def stages(self) -> dict:
        found = small_stages(self.chain, self.work / "inputs")
        return {name: stage for name, stage in found.items() if not self.only_stages or name in self.only_stages}

    @property
    def trainers(self) -> list:
        return [stage for name, stage in self.stages.items() if name in TRAINERS]

    def share(self, most: int) -> int:
        """Return a count that is `most` at 20 kills, and at least 1."""
        return max(1, min(most, most * self.kills // 20))


def killed(bench: Bench) -> Measured:
    tallies = [kills.torture(stage, bench.kills, bench.seed, bench.work / f"R1-{name}")
               for name, stage in bench.stages.items()]
    problems = [f"{tally.stage}: {problem}" for tally in tallies for problem in tally.problems]
    total, lives = sum(tally.kills for tally in tallies), sum(tally.lives for tally in tallies)
    return Measured(f"{total} kills of {len(tallies)} stages in {lives} lives: {len(problems)} failures, broken files "
                    "or differences", problems)


def failing_files(bench: Bench) -> Measured:
    inputs = tuple(getattr(bench.chain, name) for name in ("data", "codec", "mreq", "tokens", "model"))
    every = max(1, 200 // bench.kills)
    done = [storage_faults.sweep(stage, (*inputs, bench.work), bench.work / f"R2-{name}", every, 5)
            for name, stage in bench.stages.items()]
    problems = [f"{sweep.stage}: {problem}" for sweep in done for problem in sweep.problems]
    operations = sum(sum(sweep.operations.values()) for sweep in done)
    return Measured(f"{sum(sweep.failures for sweep in done)} of {operations} operations failed, each in a run of its "
                    f"own (every {every}th): {len(problems)} without one line, exit 4 and a result that resumes",
                    problems)


def resumed(bench: Bench) -> Measured:
    every = max(1, 20 // bench.kills)
    done = [resume.resume_everywhere(stage, 21, every, bench.work / f"R3-{stage.name}", "training.accumulation=2")
            for stage in bench.trainers]
    which = "each" if every == 1 else f"one in {every}"
    problems = [f"{found.stage}: {problem}" for found in done for problem in found.problems]
    return Measured(f"{sum(found.resumes for found in done)} resumes of {len(done)} trainers, at {which} of 20 "
                    f"steps of two micro-batches, {sum(found.values for found in done)} float values: {len(problems)} "
                    "differ", problems)


def damaged(bench: Bench) -> Measured:
    flips, cuts = bench.share(200), bench.share(50)
    found = corruption.damage(bench.chain.ar, bench.chain.tokens, flips, cuts, bench.seed, bench.work / "R7")
    return Measured(f"{found.flips} bit flips and {found.cuts} truncations: {len(found.problems)} unseen or unnamed",
                    found.problems)


def harmful(bench: Bench) -> Measured:
    count, seconds, memory, problems = corruption.refuse_all(bench.chain.ar, bench.chain.tokens,
                                                             bench.chain.codec / "encodec.pt", bench.work / "R8")
    if seconds > 5 or memory > 1e9:
        problems = [*problems, "too slow or too large"]
    runs = sum("was run" in problem for problem in problems)
    return Measured(f"{count} harmful files: {runs} executions, at most {seconds:.1f} s and {memory / 1e9:.2f} GB",
                    problems)


def of_tests(*selected: str) -> Callable[[Bench], Measured]:
    """Measure by tests of the suite."""
    def measure(bench: Bench) -> Measured:
        command = [sys.executable, "-m", "pytest", "--no-header", "-p", "no:cacheprovider", *selected]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False,
                               env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        last = next((line for line in reversed(ended.stdout.splitlines()) if " passed" in line or " failed" in line),
                    "no test ran")
        failed = [line for line in ended.stdout.splitlines() if "FAILED" in line] or [ended.stdout[-500:]]
        return Measured(last.strip("= "), failed if ended.returncode else [])

    return measure


@dataclass(frozen=True)
class Figure:
    """A row of the table."""

    name: str
    asked: str
    measure: Callable[[Bench], Measured]


FIGURES = (
    Figure("R1", "killed at random points, 8 stages: 0 fail to resume, 0 broken files, 0 different results", killed),
    Figure("R2", "each operation on a file fails once: one line, exit 4, the state before can be used", failing_files),
    Figure("R3", "resume at 20 steps in turn: losses, gradient norms and weights equal bit for bit", resumed),
    Figure("R4", "1, 2, 4, 1 processes: the same global batches; losses within 1e-6 for 50 steps", limits.elastic),
    Figure("R5", "checkpoints take < 2 % of the time at one every 1,000 steps; too little space is refused before",
           limits.checkpoint_cost),
    Figure("R6", "SIGTERM, SIGINT, SIGUSR1: 0 steps lost, saved within 60 s; first step < 60 s after any position",
           limits.recovery),
    Figure("R7", "bit flips and truncations: 100 % seen, the file named, the checkpoint before used", damaged),
    Figure("R8", "harmful files: 0 executions, refused within 5 s and 1 GB", harmful),
    Figure("R9", "bad recordings for curate, tokenize, train-codec and as prompts: no traceback, listed with a reason",
           of_tests("tests/curation/test_bad_inputs.py", "tests/test_bad_inputs_of_stages.py", "-k",
                    "bad_file_is_dropped or odd_file or recordings or prompt")),
    Figure("R10", "accepted + rejected = inputs; --max-bad ends the run with exit 3",
           of_tests("tests/curation/test_bad_inputs.py", "tests/test_bad_inputs_of_stages.py", "-k",
                    "every_input_is_kept or all_are_counted or cannot_be_read")),
    Figure("R11", "one step that is not finite is skipped and explained; 3 in a row or > 0.1 % end with exit 5; none "
           "reaches a checkpoint", of_tests("tests/training/test_guard.py")),
    Figure("R12", "a dead rank, or rank 0 failing to save: all end with an error within 120 s", limits.no_hang),
    Figure("R13", "a long recording of 6 channels at 96 kHz: < 2 GB; 10,000 clips leak < 50 MB", limits.memory),
    Figure("R14", "a second writer ends within 2 s with exit 6; a dead one's lock is taken", limits.two_writers),
    Figure("R15", "1, 2 and 8 workers give the same bytes", limits.workers),
    Figure("R16", "a finished stage: no model work, < 5 s for 100,000 items", limits.idempotent),
    Figure("R17", "a changed identity setting is refused with the difference, unless allowed", limits.drift),
    Figure("R18", "missing and failed outputs count as 100 % wrong; denominators are told",
           of_tests("tests/test_evaluate.py", "tests/metrics/test_summary.py", "-k",
                    "missing or fail or denominator or refuse")),
    Figure("R19", "nothing needs a network; missing weights are named with size, licence and command",
           of_tests("tests/test_offline.py")),
)


def table(rows: list[dict]) -> str:
    """Return the table as Markdown."""
    lines = ["| figure | asked | measured | holds | seconds |", "|---|---|---|---|---|"]
    lines += [f"| {row['figure']} | {row['asked']} | {row['measured']} | {'yes' if not row['problems'] else 'NO'} | "
              f"{row['seconds']:.0f} |" for row in rows]
    return "\n".join(lines) + "\n"


def run_figure(figure: Figure, bench: Bench) -> dict:
    """Measure one figure; a failure to measure is a problem of it."""
    started = time.monotonic()
    try:
        measured = figure.measure(bench)
    except Exception as error:
        measured = Measured("not measured", [f"{type(error).__name__}: {error}"])
    for leftover in bench.work.glob(f"{figure.name}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return {"figure": figure.name, "asked": figure.asked, "measured": measured.told, "problems": measured.problems[:20],
            "seconds": round(time.monotonic() - started, 1)}


def read_rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
