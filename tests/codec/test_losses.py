from __future__ import annotations

import pytest
import torch
from tiny_codecs import synthetic_speech

from stages.codec import losses


def test_every_loss_is_zero_for_a_perfect_estimate_and_positive_otherwise() -> None:
    wave = synthetic_speech(2, 12_000)
    mel = losses.MultiScaleMelLoss(24_000)
    for loss in (losses.waveform_l1, mel):
        assert float(loss(wave, wave)) == 0
        assert float(loss(wave * 0.5, wave)) > 0


def test_the_mel_loss_is_the_mean_over_both_terms_and_five_windows() -> None:
    wave = synthetic_speech(1, 12_000)
    mel = losses.MultiScaleMelLoss(24_000)
    assert [scale.window for scale in mel.scales] == [64, 128, 256, 512, 1024]
    expected = 0.0
    for scale in mel.scales:
        a, b = scale(wave * 0.5), scale(wave)
        expected += (a - b).abs().mean() + (torch.log10(a + 1e-5) - torch.log10(b + 1e-5)).square().mean()
    torch.testing.assert_close(mel(wave * 0.5, wave), expected / 10)


def test_hinge_losses_match_their_formulas() -> None:
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-2.0, 0.5])]
    torch.testing.assert_close(losses.hinge_discriminator_loss(real, fake), torch.tensor(0.25 + 0.75))
    torch.testing.assert_close(losses.hinge_generator_loss(fake), torch.tensor(0.75))


def test_hinge_and_feature_losses_average_over_discriminators() -> None:
    real, fake = [torch.ones(3), torch.zeros(3)], [-torch.ones(3), torch.zeros(3)]
    torch.testing.assert_close(losses.hinge_discriminator_loss(real, fake), torch.tensor(1.0))
    maps = [[torch.zeros(2), torch.zeros(4)], [torch.zeros(3)]]
    others = [[torch.ones(2), torch.zeros(4)], [torch.full((3,), 2.0)]]
    torch.testing.assert_close(losses.feature_matching_loss(maps, others), torch.tensor((0.5 + 2.0) / 2))


def test_distillation_losses_are_weighted_means_with_fixed_targets() -> None:
    student, teacher = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    loss = losses.fld_loss([(student, teacher), (student * 3, teacher)], [1.0, 0.5])
    torch.testing.assert_close(loss, torch.tensor(1.0 + 1.5))
    loss.backward()
    assert teacher.grad is None and student.grad is not None
    target, reconstruction = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    losses.hsr_loss([(target, reconstruction)], [2.0]).backward()
    assert target.grad is None
    torch.testing.assert_close(reconstruction.grad, torch.full((2, 3), 2 / 6))


def test_a_missing_weight_is_an_error() -> None:
    with pytest.raises(ValueError):
        losses.fld_loss([(torch.ones(1), torch.ones(1))], [])


def test_si_sdr_ignores_scale_and_falls_with_noise() -> None:
    wave = synthetic_speech(2, 12_000)
    noise = torch.randn(wave.shape, generator=torch.Generator().manual_seed(0))
    noise = noise * wave.std() / noise.std() / 10  # 20 dB below
    found = losses.si_sdr(3 * (wave + noise), wave)
    torch.testing.assert_close(found, torch.full((2,), 20.0), atol=1.0, rtol=0)
    assert float(losses.si_sdr(wave, wave).min()) > 60
