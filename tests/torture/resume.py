"""R3 and R6: a training that goes on from any of its steps is bit for bit the one that was never stopped."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

import torch
from children import in_child
from safetensors.torch import load_file
from small_stages import SmallStage

from stages.artifacts.checkpoint import list_checkpoints
from stages.artifacts.storage import CHECKSUMS
from stages.training import loop

EVERY_STEP = ("training.save_every=1", "training.keep_checkpoints=99", "training.validate_every=1000")


@dataclass
class Resumed:
    """What was compared; `problems` are to be empty."""

    stage: str
    resumes: int = 0
    values: int = 0
    problems: list[str] = field(default_factory=list)


def recording_bits(to: Path):
    """Write the raw bits of every value of every step (losses, gradient norms) to a file."""
    def arm() -> None:
        step = loop._Trainer._step

        def recorded(trainer, number: int):
            values = step(trainer, number)
            with to.open("a", encoding="utf-8") as file:
                for name, value in sorted(values.items()):
                    raw = torch.as_tensor(value, dtype=torch.float64).cpu().numpy().tobytes().hex()
                    file.write(f"{number} {name} {raw}\n")
            return values

        loop._Trainer._step = recorded

    return arm


def bits_of(file: Path) -> dict[tuple[str, str], str]:
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {(number, name): raw for number, name, raw in lines}


def resume_everywhere(stage: SmallStage, steps: int, every: int, work: Path, *overrides: str) -> Resumed:
    """Train `steps`, then go on from each `every`th step in a copy; compare all values and the final state."""
    shutil.rmtree(work, ignore_errors=True)
    settings = (*EVERY_STEP, f"training.steps={steps}", *overrides)
    whole, found = work / "whole", Resumed(stage.name)
    ended = in_child(lambda: stage.run(whole, *settings), work / "log.txt", recording_bits(work / "whole.bits"))
    if ended.code != 0:
        raise AssertionError(f"{stage.name} does not run: {ended.said[-2000:]}")
    for step in range(1, steps, every):
        twice = step % 5 == 1 and step + 2 < steps
        _resume(stage, settings, step, twice, work, found)
    return found


def _resume(stage: SmallStage, settings: tuple[str, ...], step: int, twice: bool, work: Path, found: Resumed) -> None:
    """Go on after `step`; `twice` is stopped again by SIGTERM two steps later, and goes on again."""
    out, bits = work / "again", work / "again.bits"
    _copy_up_to(work / "whole", out, step)
    bits.unlink(missing_ok=True)
    if twice:
        ended = in_child(lambda: stage.run(out, *settings), work / "log.txt",
                         lambda: (recording_bits(bits)(), _stop_at(step + 2)))
        if ended.code != 143:
            found.problems.append(f"from step {step}: SIGTERM gives exit {ended.code}")
        if list_checkpoints(out)[-1][0] != step + 2:
            found.problems.append(f"from step {step}: SIGTERM lost steps")
    ended = in_child(lambda: stage.run(out, *settings), work / "log.txt", recording_bits(bits))
    found.resumes += 1 + twice
    if ended.code != 0:
        found.problems.append(f"from step {step}: exit {ended.code}: {ended.said[-600:]}")
        return
    expected = {key: raw for key, raw in bits_of(work / "whole.bits").items() if int(key[0]) > step}
    ours = bits_of(bits)
    found.values += len(expected)
    found.problems += [f"from step {step}: {' '.join(key)} differs"
                       for key in expected if ours.get(key) != expected[key]]
    found.problems += [f"from step {step}: `{name}` of the end differs" for name in _differing(work / "whole", out)]
    shutil.rmtree(out)


def _copy_up_to(whole: Path, out: Path, step: int) -> None:
    later = {folder.name for number, folder in list_checkpoints(whole) if number > step}
    shutil.copytree(whole, out, ignore=lambda _, names: [name for name in names if name in later])
    (out / CHECKSUMS).unlink()


def _stop_at(step: int) -> None:
    begin = loop.Run.begin_step

    def begin_and_stop(run, number: int) -> None:
        begin(run, number)
        if number == step:
            signal.raise_signal(signal.SIGTERM)

    loop.Run.begin_step = begin_and_stop


def _differing(first: Path, second: Path) -> list[str]:
    ours, theirs = (list_checkpoints(run)[-1][1] / "trainer_state" / "state.safetensors" for run in (first, second))
    ours, theirs = load_file(ours), load_file(theirs)
    return [name for name in ours.keys() | theirs.keys()
            if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name])]
