"""What a busy program beside it costs a stage of several threads: `python threads.py`.

The smallest codec is trained on examples/speech, alone and beside programs that only count, with different settings of
GNU's OpenMP: how often a thread that has nothing to do looks for work before it sleeps. Settings take turns; the first
row is what `halle` sets, by which the others are divided.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.artifacts.storage import read_jsonl

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
HALLE = (sys.executable, "-m", "halle_cli")
DEFAULTS = "300000"  # of GNU's OpenMP, where neither this nor OMP_WAIT_POLICY is set
SETTINGS = {
    "halle's": {},
    "OpenMP's own": {"GOMP_SPINCOUNT": DEFAULTS},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
LOGGED_EVERY = 10


def seconds_per_step(data: Path, out: Path, steps: int, settings: dict[str, str]) -> float:
    """Train a codec of the preset `smoke` and return the median time of its steps, the first ones left out."""
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    surroundings = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run([*HALLE, "train-codec", "--data", str(data), "--out", str(out), "--preset", "smoke", "--quiet",
                    "--steps", str(steps), "-O", f"training.log_every={LOGGED_EVERY}"],
                   env=surroundings | settings, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    rows = [row for row in read_jsonl(out / "metrics.jsonl") if "seconds_per_step" in row]
    return statistics.median(row["seconds_per_step"] for row in rows[1:])


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """Run that many programs that take a processor each, and end them."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3 * LOGGED_EVERY)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--beside", type=int, default=1, help="busy programs beside it")
    options = parser.parse_args()
    if options.steps < 2 * LOGGED_EVERY:
        parser.error(f"--steps is at least {2 * LOGGED_EVERY}: the first {LOGGED_EVERY} are left out")
    taken: dict[tuple[int, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        subprocess.run([*HALLE, "curate", str(SPEECH), "--out", str(data), "--preset", "smoke", "--quiet"], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        for turn in range(options.turns):
            for programs in (0, options.beside):
                for number, (name, settings) in enumerate(SETTINGS.items()):
                    with busy(programs):
                        out = Path(folder) / f"run-{turn}-{programs}-{number}"
                        seconds = seconds_per_step(data, out, options.steps, settings)
                    taken.setdefault((programs, name), []).append(seconds)
    print(f"{'seconds a step':<24} {'alone':>7} {'ratio':>6} {'beside ' + str(options.beside):>9} {'ratio':>6}")
    for name in SETTINGS:
        cells = []
        for programs, width in ((0, 7), (options.beside, 9)):
            cells.append(f"{statistics.median(taken[programs, name]):{width}.3f}")
            ours = taken[programs, next(iter(SETTINGS))]
            cells.append(f"{statistics.median(a / b for a, b in zip(taken[programs, name], ours, strict=True)):6.2f}")
        print(f"{name:<24}", *cells)


if __name__ == "__main__":
    main()
