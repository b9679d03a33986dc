"""What the memory allocator costs where small models are trained on a CPU: `python allocators.py`.

Each allocator that this machine has gets a process of its own, one after the other, in turns. It trains an AR model of
the size of the preset `mini`, for VALL-E's tokens, on batches of ever other lengths, as real ones are, and tells the
processor time of its later steps and the most memory it had. The first row is the system's allocator, by which the
others are divided.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from ctypes.util import find_library

import torch
from training import make_batch, step_of

from stages.config.models import ARConfig, TransformerConfig
from stages.lm.ar import ARModel
from stages.training.allocator import FASTER

SECONDS = (2.0, 40.0)  # utterances of a batch are as long as one another
SYSTEM = "the system's"


def train(steps: int, batch_tokens: int, dim: int) -> dict[str, float]:
    """Return processor seconds a step, of the second half of the steps, and the peak memory in MB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lengths, cpu = random.Random(0), torch.device("cpu")
    transformer = TransformerConfig(dim=dim, num_heads=dim // 64, num_layers=6, ffn_dim=4 * dim, dropout=0.1)
    model, taken = ARModel(ARConfig(transformer=transformer, num_codebooks=1)), []
    for _ in range(steps):
        batch = make_batch(model.config, "valle", lengths.uniform(*SECONDS), batch_tokens, cpu)
        step = step_of(model, batch, "bf16", cpu)
        begun = time.process_time()
        step()
        taken.append(time.process_time() - begun)
    later = taken[steps // 2 :]
    return {"seconds": sum(later) / len(later), "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_a_process(library: str | None, arguments: Sequence[str]) -> dict[str, float]:
    """Return what `train` does in a process of its own, with another allocator."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    if library is not None:
        environment["LD_PRELOAD"] = library
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], env=environment, check=True,
                          stdout=subprocess.PIPE, encoding="utf-8")  # fmt: skip
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-tokens", type=int, default=3000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(options.steps, options.batch_tokens, options.dim)))
        return
    found = {name: library for name in FASTER if (library := find_library(name))}
    if not found:
        raise SystemExit("no other allocator is installed (on Debian: apt install libjemalloc2 libtcmalloc-minimal4)")
    arguments = [f"--{key}={getattr(options, key.replace('-', '_'))}" for key in ("steps", "batch-tokens", "dim")]
    sides: dict[str, str | None] = {SYSTEM: None, **found}
    turns = [{name: in_a_process(library, arguments) for name, library in sides.items()} for _ in range(options.turns)]
    print(f"{'allocator':<18} {'seconds a step':>14} {'ratio':>6} {'peak MB':>8} {'ratio':>6}")
    for name in sides:
        told = [f"{statistics.median(turn[name][what] for turn in turns):{width}} "
                f"{statistics.median(turn[name][what] / turn[SYSTEM][what] for turn in turns):6.2f}"
                for what, width in (("seconds", "14.3f"), ("megabytes", "8.0f"))]  # fmt: skip
        print(f"{name:<18}", *told)


if __name__ == "__main__":
    main()
