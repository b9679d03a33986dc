"""What the training benchmark counts is right; how fast a machine is, is not tested."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from training import Batch, flops_of_step, make_batch, peak_flops, step_of

from stages.config.models import ARConfig, TransformerConfig
from stages.lm.ar import ARModel

CPU = torch.device("cpu")
CONFIG = ARConfig(transformer=TransformerConfig(dim=32, num_heads=2, num_layers=2, ffn_dim=128), codebook_size=64)


def test_flops_are_those_that_torch_counts_but_for_the_unseen_half_of_attention() -> None:
    batch = make_batch(CONFIG, "halle", 4.0, 300, CPU)
    model = ARModel(CONFIG)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model.loss(batch.text, batch.text_lengths, batch.codes, batch.frame_lengths).losses.sum().backward()
    unseen = len(batch.text) * batch.length**2 * 12 * 2 * 32 / 2
    assert counter.get_total_flops() == pytest.approx(flops_of_step(model, batch) + unseen, rel=0.001)


def test_a_batch_fits_the_budget_and_a_step_trains() -> None:
    batch = make_batch(CONFIG, "halle", 4.0, 300, CPU)
    assert isinstance(batch, Batch) and 300 - batch.length < len(batch.text) * batch.length <= 300
    model = ARModel(CONFIG)
    before = model.heads[0].weight.clone()
    step_of(model, batch, "bf16", CPU)()
    assert not torch.equal(before, model.heads[0].weight)


def test_the_peak_is_the_given_one_or_measured() -> None:
    assert peak_flops(CPU, 3.0) == 3e12
    assert 1e8 < peak_flops(CPU, None) < 1e13
