from __future__ import annotations

import torch
from tiny_codecs import synthetic_speech

from stages.codec.adversary import Adversary


def test_five_scales_judge_logits_and_feature_maps() -> None:
    judgement = Adversary(filters=2)(synthetic_speech(2, 6000))
    assert len(judgement.logits) == 5
    assert [scale[0].shape[-1] for scale in judgement.maps] == [513, 1025, 257, 129, 65]
    assert all(len(scale) == 5 and scale[0].shape[1] == 2 for scale in judgement.maps)


def test_the_slope_and_the_hops_are_the_recipes() -> None:
    adversary = Adversary(filters=2)
    scales = adversary.discriminator.discriminators
    assert [scale.hop_length for scale in scales] == [256, 512, 128, 64, 32]
    assert all(scale.activation.negative_slope == 0.3 for scale in scales)
    assert adversary.min_samples == 2048


def test_the_first_convolution_alone_has_no_weight_norm() -> None:
    scale = Adversary(filters=2).discriminator.discriminators[0]
    normed = [hasattr(layer.conv, "parametrizations") for layer in [*scale.convs, scale.conv_post]]
    assert normed == [False, True, True, True, True, True]


def test_gradients_reach_the_waveform() -> None:
    wave = synthetic_speech(1, 4096).requires_grad_()
    torch.stack([logits.mean() for logits in Adversary(2)(wave).logits]).sum().backward()
    assert float(wave.grad.abs().sum()) > 0
