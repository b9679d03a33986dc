"""Training memory: the presets fit the cards that they are for."""

from __future__ import annotations

import pytest
from training_memory import count_ar, count_nar

from stages.config.resolve import resolve
from stages.planning.step_cost import GIB

CARD = 22 * GIB  # of 24: the rest is for the CUDA context, the allocator's slack and the NAR's codec


# of the AR and of the NAR the system that takes more
@pytest.mark.parametrize("stage, system", [("train-ar", "halle"), ("train-nar", "valle")])
def test_single_gpu_trains_its_longest_batches_on_one_card_of_24_gb(stage: str, system: str) -> None:
    config, seconds = resolve(stage, "single-gpu"), 90.0 if system == "halle" else 28.0
    budget = config.training.batch_tokens // config.training.accumulation
    if stage == "train-ar":
        rate, codebooks = (8.0, 6) if system == "halle" else (48.0, 1)
        cost, tokens = count_ar(config.model, config.training, budget, seconds, rate, codebooks)
        assert 150e6 < cost.parameters < 300e6
    else:
        window = config.window_seconds if system == "halle" else None
        cost, tokens = count_nar(config.model, config.training, budget, seconds, window)
    assert tokens > 0.9 * budget
    assert cost.peak() < CARD
