"""From what a step costs to days: the part of a trainer's plan that says whether it fits, and when it will be done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.artifacts.checkpoint import list_checkpoints
from stages.config.stage_configs import RunConfig
from stages.planning.machines import Machine, h100s, this_machine
from stages.planning.step_cost import GIB, StepCost
from stages.training.processes import pick_device

H100S = (1, 4, 16)
NOT_COUNTED = "no estimate: a part of this model does not compute on tensors without data; --probe measures"
CALLED = "estimate: operations are counted, speeds are those of a table; --probe measures"


@dataclass(frozen=True)
class Workload:
    """What a step does. `cost` is of the largest micro-batch, of `items` that `size` puts in words; None if it cannot
    be counted.

    An average micro-batch is `mean_share` of it, and a step has several; it brings `audio_seconds`. `family` is lm or
    codec.
    """

    cost: StepCost | None
    items: int
    size: str
    mean_share: float
    audio_seconds: float
    family: str


def estimate(config: RunConfig, work: Workload) -> dict:
    """Return the memory, speed and end of a run on this machine and on some H100s."""
    training, left = config.training, steps_left(config)
    if work.cost is None:
        return {"what": NOT_COUNTED, "largest_batch": work.size, "steps_left": left}
    flops = work.cost.flops * work.mean_share * training.accumulation + work.cost.muon_flops
    here = this_machine(pick_device(config.device), training.precision)
    machines = [*([here] if here else []), *(h100s(cards, training.precision) for cards in H100S)]
    return {
        "what": CALLED,
        "largest_batch": work.size,
        "trained_parameters": work.cost.parameters,
        "memory_gib": round(work.cost.peak(1.0, training.accumulation > 1) / GIB, 2),
        "memory_gib_between_steps": round(work.cost.resident / GIB, 2),
        "teraflop_a_step": round(flops / 1e12, 3),
        "steps_left": left,
        "audio_hours_a_step": round(work.audio_seconds / 3600, 4),
        "machines": [_on(machine, config, work, flops, left) for machine in machines],
    }


def _on(machine: Machine, config: RunConfig, work: Workload, flops: float, left: int) -> dict:
    share = -(-work.items // machine.cards) / work.items  # the largest part of the batch
    memory = work.cost.peak(share, config.training.accumulation > 1) / GIB
    operations = work.cost.operations * config.training.accumulation
    seconds = machine.seconds(flops, operations, work.family, work.cost.parameters)
    return {"name": machine.name, "memory_gib": round(memory, 2), "fits": memory < machine.memory_gib,
            **pace(seconds, work.audio_seconds, left)}


def pace(seconds: float, audio_seconds: float, steps: int) -> dict:
    """Return what so many seconds a step come to."""
    return {"seconds_a_step": float(f"{seconds:.3g}"),
            "audio_hours_a_day": float(f"{audio_seconds / seconds * 24:.3g}"),
            "days_to_finish": float(f"{seconds * steps / 86_400:.3g}")}


def steps_left(config: RunConfig) -> int:
    """Return the planned steps that the output folder has not seen."""
    done = list_checkpoints(Path(config.out)) if config.out and not config.restart else []
    return max(0, config.training.steps - (done[-1][0] if done else 0))
