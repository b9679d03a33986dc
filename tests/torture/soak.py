"""R20: train for a while, interrupted again and again; the end is that of a run that was left alone, bit for bit.

    python tests/torture/soak.py --minutes 30        # make soak MINUTES=30
    python tests/torture/soak.py --minutes 1440      # a day

A training of the AR model on the tiny store is stopped by SIGTERM every 20 to 100 s (a day: every 60 to 300 s), now and
then by SIGKILL instead, and started again with the same command. As many steps are then trained without interruption.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent), str(HERE)]
KILL_SHARE = 0.2  # of the interruptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    import torch
    from tiny_chain import make_chain, make_recordings

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="halle-soak-") as folder:
        work = Path(folder)
        chain = make_chain(make_recordings(work / "recordings"), work / "chain")
        print(soak(str(chain.tokens), work, 60 * asked.minutes, asked.seed))


def soak(tokens: str, work: Path, seconds: float, seed: int, waits: tuple[float, float] | None = None) -> str:
    """Return what was done, in words; raise `AssertionError` when the ends differ."""
    waits = waits or ((60, 300) if seconds > 4 * 3600 else (20, 100))
    chance, until = random.Random(seed), time.monotonic() + seconds / 2  # the other half repeats it
    interrupted, starts, kills = work / "interrupted", 0, 0
    while time.monotonic() < until:
        number = signal.SIGKILL if chance.random() < KILL_SHARE else signal.SIGTERM
        kills += number == signal.SIGKILL
        starts += 1
        _train_for(tokens, interrupted, min(chance.uniform(*waits), max(1, until - time.monotonic())), number)
    steps = _step_of(interrupted) + 1
    _train_to(tokens, interrupted, steps)
    _train_to(tokens, work / "alone", steps)
    ours, theirs = _end(interrupted), _end(work / "alone")
    assert ours == theirs, f"after {steps} steps and {starts} interruptions the ends differ"
    return f"{starts} interruptions, {kills} of them SIGKILL, in {steps} steps: the end is the same, bit for bit"


def _config(tokens: str, out: Path, steps: int):
    from tiny_chain import tiny_config

    settings = ("training.save_every=50", "training.validate_every=100000000", "training.log_every=100",
                "training.schedule=constant", "training.ema_decay=0.999", "training.accumulation=2",
                f"training.steps={steps}")
    return tiny_config("train-ar", *settings, tokens=tokens, out=str(out))


def _train_for(tokens: str, out: Path, seconds: float, number: int) -> None:
    from children import in_child

    from stages import train_ar

    ended = in_child(lambda: train_ar.run(_config(tokens, out, 10**8)), out.with_suffix(".log"),
                     lambda: _signal_after(seconds, number), timeout=seconds + 120)
    assert number in (ended.signal, (ended.code or 0) - 128), ended.said[-2000:]


def _signal_after(seconds: float, number: int) -> None:
    """Let a child of this process send the signal: an alarm would be handled by Python only between two steps."""
    parent = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        if os.getppid() == parent:
            os.kill(parent, number)
        os._exit(0)


def _train_to(tokens: str, out: Path, steps: int) -> None:
    from children import in_child

    from stages import train_ar

    ended = in_child(lambda: train_ar.run(_config(tokens, out, steps)), out.with_suffix(".log"), timeout=10**6)
    assert ended.code == 0, ended.said[-2000:]


def _step_of(out: Path) -> int:
    from stages.artifacts.checkpoint import list_checkpoints

    return max((step for step, _ in list_checkpoints(out)), default=0)


def _end(out: Path) -> tuple[bytes, bytes]:
    from stages.artifacts.checkpoint import list_checkpoints

    folder = list_checkpoints(out)[-1][1]
    return (folder / "model.safetensors").read_bytes(), (folder / "trainer_state/state.safetensors").read_bytes()


if __name__ == "__main__":
    main()
