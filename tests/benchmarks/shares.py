"""Which share of a machine's speed a training step reaches: `python shares.py`, for the table of planning/machines.py.

    share   FLOPs of a step, as the planner counts them, over its time and the FLOP/s of a product of matrices

One thread, whose processor time is measured: what else runs on the machine does not matter much.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stages.codec.quantizer import Ranks
from stages.codec.reconstruction import adversarial_recipe
from stages.codec.residual import ResidualCodec
from stages.config.resolve import resolve
from stages.lm.ar import ARModel
from stages.planning.codecs import codec_cost
from stages.planning.language_models import ar_cost
from stages.planning.step_cost import StepCost

TURNS = 3
Step = Callable[[], None]


def processor_seconds(work: Step) -> float:
    work()
    times = []
    for _ in range(TURNS):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return statistics.median(times)


def product_seconds() -> float:
    matrix = torch.ones(1024, 1024)
    return processor_seconds(lambda: matrix @ matrix)


def ar_step(preset: str, items: int = 8, text: int = 100, frames: int = 80) -> tuple[StepCost, Step]:
    config = resolve("train-ar", preset, overrides=("training.precision=fp32",))
    model = ARModel(config.model)
    batch = (torch.zeros(items, text).long(), torch.full((items,), text),
             torch.zeros(items, model.num_streams, frames).long(), torch.full((items,), frames))
    return (ar_cost(config.model, config.training, items, text, frames),
            lambda: model.loss(*batch).losses.sum().backward())


def codec_step(preset: str, items: int = 2, samples: int = 24_000) -> tuple[StepCost, Step]:
    config = resolve("train-codec", preset)
    codec = ResidualCodec(config.codec).eval()
    recipe = adversarial_recipe(codec, config.losses, config.discriminator, config.training, torch.device("cpu"))
    batch = 0.1 * torch.randn(items, 1, samples)

    def step() -> None:
        quantized = codec.quantizer(codec.encode_latents(batch), Ranks()).quantized
        judged = recipe.objective(codec.decode_latents(quantized), batch, Ranks(), config.training.steps)
        for loss in _of(judged.discriminator, judged.balanced):
            loss.backward()

    return codec_cost(config, items, samples), step


def _of(*losses: Tensor | None) -> Iterator[Tensor]:
    yield from (loss for loss in losses if loss is not None)


def main() -> None:
    torch.set_num_threads(1)
    peak = 2.0 * 1024**3 / product_seconds()
    print(f"one thread, products at {peak / 1e9:.0f} GFLOP/s")
    print("| step | GFLOP | seconds | share |\n|---|---|---|---|")
    for what, make in {"AR, mini": lambda: ar_step("mini"), "AR, smoke": lambda: ar_step("smoke"),
                       "codec, mini": lambda: codec_step("mini"), "codec, smoke": lambda: codec_step("smoke"),
                       "codec, paper": lambda: codec_step("paper")}.items():
        cost, step = make()
        seconds = processor_seconds(step)
        print(f"| {what} | {cost.flops / 1e9:.2f} | {seconds:.3f} | {cost.flops / seconds / peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
