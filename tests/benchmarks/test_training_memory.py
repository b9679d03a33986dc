"""Training memory: the counter counts, and the presets fit the cards that they are for."""

from __future__ import annotations

import pytest
import torch
from training_memory import GIB, count, count_ar, count_nar

from stages.config.resolve import resolve

CARD = 22 * GIB  # of 24: the rest is for the CUDA context, the allocator's slack and the NAR's codec


def test_weights_gradients_and_moments_are_counted_by_the_byte() -> None:
    size = 1000 * 1000

    def build() -> torch.nn.Module:
        return torch.nn.Linear(1000, 1000, bias=False)

    memory = count(build, lambda model: model(torch.zeros(1, 1000)).float().sum(), tokens=1)
    assert memory.parameters == size
    kept = 3 * 4 * size  # weights and two moments, fp32
    assert kept <= memory.resident < kept + 1000
    # and the gradient, and what AdamW makes of it in passing
    assert kept + 4 * size <= memory.peak <= kept + 3 * 4 * size + 1000


def test_activations_grow_with_tokens_and_layers() -> None:
    config = resolve("train-ar", "smoke").model
    deep = config.model_copy(update={"transformer": config.transformer.model_copy(update={"num_layers": 6})})
    short, long, deeper = (count_ar(model, tokens, 10.0, 8.0, 6)
                           for model, tokens in ((config, 2000), (config, 4000), (deep, 2000)))
    activations = [memory.peak - memory.resident for memory in (short, long, deeper)]
    assert activations[1] == pytest.approx(2 * activations[0], rel=0.15)
    assert activations[2] > 1.3 * activations[0]


# of the AR and of the NAR the system that takes more
@pytest.mark.parametrize("stage, system", [("train-ar", "halle"), ("train-nar", "valle")])
def test_single_gpu_trains_its_longest_batches_on_one_card_of_24_gb(stage: str, system: str) -> None:
    config, seconds = resolve(stage, "single-gpu"), 90.0 if system == "halle" else 28.0
    tokens = config.training.batch_tokens // config.training.accumulation
    if stage == "train-ar":
        rate, codebooks = (8.0, 6) if system == "halle" else (48.0, 1)
        memory = count_ar(config.model, tokens, seconds, rate, codebooks)
        assert 150e6 < memory.parameters < 300e6
    else:
        memory = count_nar(config.model, tokens, seconds, config.window_seconds if system == "halle" else None)
    assert memory.tokens > 0.9 * tokens
    assert memory.peak < CARD
