from __future__ import annotations

import copy

import pytest
import torch
from tiny_codecs import make_student, synthetic_speech, tiny_teacher
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from stages.codec.base import Codec
from stages.codec.encodec import SubPixelConvolution
from stages.codec.inference import fold_weight_norm, for_inference
from stages.config.models import MRVQConfig


def codecs() -> list[Codec]:
    teacher = tiny_teacher()
    return [teacher, make_student(teacher, MRVQConfig(lstm_layers=1))]


@pytest.mark.parametrize("index", [0, 1], ids=["plain", "multi-resolution"])
def test_codes_stay_the_same_and_waveforms_up_to_rounding(index: int) -> None:
    codec = codecs()[index]
    waveform = synthetic_speech(2, 30_000, seed=5)
    before = codec.encode(waveform)
    decoded = codec.decode(before)
    after = for_inference(codec).encode(waveform)
    assert all(torch.equal(after[name], before[name]) for name in before)
    torch.testing.assert_close(codec.decode(before), decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("index", [0, 1], ids=["plain", "multi-resolution"])
def test_no_weight_is_normalised_again_at_every_call(index: int) -> None:
    codec = codecs()[index]
    assert any("parametrizations" in name for name in codec.state_dict())
    names = list(for_inference(codec).state_dict())
    assert not any("parametrizations" in name for name in names)
    assert not any(isinstance(module, nn.ConvTranspose1d) for module in codec.autoencoder.modules())
    assert list(for_inference(codec).state_dict()) == names  # a second call finds nothing to do


def test_folded_weights_are_the_normalised_ones_and_a_copy_keeps_its_own() -> None:
    codec = tiny_teacher()
    folded = copy.deepcopy(codec)
    fold_weight_norm(folded)
    latents = torch.randn(1, 16, 5)
    assert torch.equal(folded.decode_latents(latents), codec.decode_latents(latents))


@pytest.mark.parametrize(("stride", "inputs", "outputs"), [(2, 3, 4), (5, 4, 1), (10, 1, 2)])
def test_a_transposed_convolution_is_an_ordinary_one_and_a_reordering(stride: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    transposed = nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride).double()
    latents = torch.randn(2, inputs, 7, dtype=torch.float64)
    torch.testing.assert_close(SubPixelConvolution(transposed)(latents), transposed(latents))


def test_a_module_with_more_than_its_weight_parametrized_stays_as_it_is() -> None:
    layer = weight_norm(nn.Linear(3, 2))
    parametrize.register_parametrization(layer, "bias", nn.Softplus())
    rows = torch.randn(4, 3)
    before = layer(rows)
    fold_weight_norm(layer)
    assert torch.equal(layer(rows), before)
