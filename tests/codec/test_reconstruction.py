from __future__ import annotations

import torch
from tiny_codecs import synthetic_speech

from stages.codec.adversary import Adversary
from stages.codec.balancer import Balancer
from stages.codec.losses import MultiScaleMelLoss
from stages.codec.quantizer import Ranks
from stages.codec.reconstruction import ReconstructionObjective, measure_reconstruction
from stages.config.stage_configs import DiscriminatorConfig


def objective(**plan: int) -> ReconstructionObjective:
    torch.manual_seed(0)
    balancer = Balancer({"l1": 0.1, "mel": 2.0, "adversarial": 4.0, "feature": 4.0})
    return ReconstructionObjective(MultiScaleMelLoss(24_000), Adversary(2, (512, 256)), balancer,
                                   DiscriminatorConfig(**plan))


def test_each_side_back_propagates_into_its_own_network_only() -> None:
    ours = objective()
    gain = torch.ones((), requires_grad=True)
    wave = synthetic_speech(2, 4000)
    losses = ours(gain * 0.5 * wave, wave, Ranks(), step=1)
    losses.balanced.backward()
    assert float(gain.grad.abs()) > 0
    assert all(parameter.grad is None for parameter in ours.adversary.parameters())
    gain.grad = None
    losses.discriminator.backward()
    assert gain.grad is None
    assert all(parameter.grad is not None for parameter in ours.adversary.parameters())


def test_the_adversary_starts_then_learns_alone_then_teaches() -> None:
    wave = synthetic_speech(1, 4000)
    estimate = (0.5 * wave).requires_grad_()
    ours = objective(start_step=10, warmup_steps=5)
    found = {}
    for step in (10, 11, 15, 16):
        losses = ours(estimate, wave, Ranks(), step)
        found[step] = (losses.discriminator is not None, "adversarial" in losses.values)
    assert found == {10: (False, False), 11: (True, False), 15: (True, False), 16: (True, True)}


def test_measures_are_means_over_items_and_cover_every_codebook(student) -> None:
    mel = MultiScaleMelLoss(24_000)
    waves = synthetic_speech(9, 6000)  # more than go through at once
    measures = measure_reconstruction(student, waves, mel)
    parts = [measure_reconstruction(student, wave.unsqueeze(0), mel) for wave in waves]
    for name in ("l1", "mel", "si_sdr"):
        mean = sum(part[name] for part in parts) / 9
        assert abs(measures[name] - mean) < 1e-3 * abs(mean), name
    for name, quantizer in student.quantizers().items():
        for index in range(1, quantizer.num_codebooks + 1):
            assert 1 <= measures[f"perplexity.{name}.{index}"] <= 16
            assert 0 < measures[f"usage.{name}.{index}"] <= 1
    assert {spec.name for spec in student.streams} | {"pre1"} == set(student.quantizers())
