"""Go on with what is next to be trained for some minutes, then stop cleanly.

    python slice.py --minutes 30 --stage codec "halle train-codec ... --out RUN" --stage mreq "halle mreq ... --out RUN"

The first stage whose output is not finished is run; when it ends in time, the next one takes over. When the time is
over, or on Ctrl-C, the command in hand gets one signal, after which halle saves and leaves. mini.mk knows the stages.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

FINISHED = "checksums.json"
# how a command ends that a signal stopped: after saving, or before there was anything to save
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Stage:
    name: str
    command: list[str]

    @property
    def out(self) -> Path:
        return Path(self.command[self.command.index("--out") + 1])

    @property
    def is_finished(self) -> bool:
        return (self.out / FINISHED).is_file()

    def standing(self) -> str:
        """Say how far a stage is: `at step 1250 of 16000`."""
        saved = self.out.glob(f"checkpoints/step-*/{FINISHED}")
        steps = [int(path.parent.name.removeprefix("step-")) for path in saved]
        if steps:
            config = json.loads((self.out / "config.json").read_text(encoding="utf-8"))["config"]
            return f"at step {max(steps)} of {config['training.steps']}" + (", finished" if self.is_finished else "")
        if self.is_finished:
            return "finished"
        shards = len(list(self.out.glob(f"shard-*/{FINISHED}")))
        return f"at {shards} finished shards" if shards else "at the start: nothing is saved yet"


class Signals:
    """Counts the requests to stop that came since it was made, and remembers the first one's signal."""

    def __init__(self) -> None:
        self.count, self.first = 0, 0
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows knows no SIGHUP, and under nohup it is ignored
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.first = self.first or number


def run(stage: Stage, deadline: float, signals: Signals) -> int:
    """Run a stage until it ends or the time is over, and return its exit code.

    It is in a session of its own: Ctrl-C in a terminal reaches a whole group of processes, and the second signal that
    halle gets interrupts it at once. So it gets one from here, and another only when the user insists.
    """
    try:
        process = subprocess.Popen(stage.command, start_new_session=True)
    except OSError as error:
        stop(f"`{stage.command[0]}` cannot be run: {error.strerror.lower()}",
             "`make env` in the root of the repository installs halle; or give HALLE=/path/to/halle")
    sent = 0
    while process.poll() is None:
        if max(signals.count, int(time.monotonic() >= deadline)) > sent:
            process.terminate()
            sent += 1
        time.sleep(POLL_SECONDS)
    return process.returncode


def advance(stages: list[Stage], minutes: float) -> int:
    """Run unfinished stages in order until the time is over; say what was done and what is next."""
    signals, deadline = Signals(), time.monotonic() + 60 * minutes
    advanced: list[Stage] = []
    for stage in stages:
        if signals.count or time.monotonic() >= deadline:
            break
        if stage.is_finished:
            continue
        tell(f"slice: {stage.name}, {(deadline - time.monotonic()) / 60:.1f} minutes left", sys.stderr)
        code = run(stage, deadline, signals)
        if code not in (0, *STOPPED):
            tell(f"slice: {stage.name} failed with exit code {code}, {stage.standing()}", sys.stderr)
            return code if code > 0 else 128 - code
        advanced.append(stage)
        if code:
            break
    done = "; ".join(f"{stage.name} is {stage.standing()}" for stage in advanced) or "nothing to do"
    left = next((stage.name for stage in stages if not stage.is_finished), None)
    tell(f"slice: {done}; " + (f"next: {left}" if left else "all stages are finished"), sys.stdout)
    return 128 + signals.first if signals.first else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", required=True)
    parser.add_argument("--stage", nargs=2, action="append", required=True, metavar=("NAME", "COMMAND"))
    options = parser.parse_args()
    return advance([Stage(name, shlex.split(command)) for name, command in options.stage], _minutes(options.minutes))


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not minutes > 0:
        stop(f"expected a number of minutes above 0, got `{text}`", "make -C examples/mini slice MINUTES=30")
    return minutes


def tell(line: str, stream: TextIO) -> None:
    print(line, file=stream, flush=True)


def stop(what: str, hint: str) -> NoReturn:
    tell(f"error: {what}\n\nhint: {hint}", sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
