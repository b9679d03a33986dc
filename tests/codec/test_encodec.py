from __future__ import annotations

import pytest
import torch
from encodec.modules import SConv1d
from tiny_codecs import synthetic_speech, tiny_config

from stages.codec import encodec
from stages.codec.encodec import CausalConvolution, SEANetAutoencoder
from stages.codec.inference import fold_weight_norm
from stages.codec.residual import ResidualCodec
from stages.config.models import CodecConfig, SEANetConfig
from stages.errors import UsageError


def test_the_papers_codec_has_exactly_48_hz_and_3840_bits_a_second() -> None:
    with torch.device("meta"):
        codec = ResidualCodec(CodecConfig())
    (stream,) = codec.streams
    assert (codec.hop_length, codec.alignment, stream.frame_rate, codec.bits_per_second) == (500, 500, 48.0, 3840)
    assert 7.8e6 < sum(p.numel() for p in codec.autoencoder.encoder.parameters()) < 8.0e6


@pytest.mark.parametrize("samples, frames", [(500, 1), (501, 2), (24_000, 48), (24_499, 49), (1, 1)])
def test_every_hop_of_samples_is_one_frame(samples: int, frames: int) -> None:
    codec = ResidualCodec(tiny_config()).eval()
    streams = codec.encode(synthetic_speech(1, samples))
    assert streams["rvq"].shape == (1, 8, frames)
    assert codec.decode(streams).shape == (1, 1, frames * 500)
    assert codec.decode(streams, samples).shape == (1, 1, samples)


def test_latents_are_causal() -> None:
    codec = ResidualCodec(tiny_config()).eval()
    wave = synthetic_speech(1, 5000)
    changed = wave.clone()
    changed[..., 3000:] = 0
    with torch.no_grad():
        before, after = codec.encode_latents(wave), codec.encode_latents(changed)
    assert torch.equal(before[..., :6], after[..., :6])
    assert not torch.equal(before, after)


def test_a_batch_has_the_codes_of_its_items(teacher: ResidualCodec) -> None:
    wave = synthetic_speech(4, 12_000, seed=9)
    single = torch.cat([teacher.encode(item.unsqueeze(0))["rvq"] for item in wave])
    assert (teacher.encode(wave)["rvq"] == single).double().mean() >= 0.999
    exact = teacher.double()
    single = torch.cat([exact.encode(item.unsqueeze(0))["rvq"] for item in wave.double()])
    assert torch.equal(exact.encode(wave.double())["rvq"], single)


def test_quantize_gives_the_sums_after_each_codebook(teacher: ResidualCodec, waveform) -> None:
    with torch.no_grad():
        latents = teacher.encode_latents(waveform)
    found = teacher.quantize(latents)
    assert torch.equal(found.codes, teacher.encode(waveform)["rvq"])
    assert len(found.partial_sums) == 8
    expected = teacher.codebook(0)[found.codes[:, 0]] + teacher.codebook(1)[found.codes[:, 1]]
    assert torch.equal(found.partial_sums[1], expected.transpose(1, 2))
    left = [float((latents - part).square().mean()) for part in found.partial_sums]
    assert left[7] < left[0]


def test_other_ratios_give_other_rates() -> None:
    seanet = SEANetConfig(base_filters=2, latent_dim=8, ratios=(5, 4), sample_rate=8000)
    codec = ResidualCodec(tiny_config(seanet=seanet))
    assert codec.streams[0].frame_rate == 400.0
    assert codec.encode(synthetic_speech(1, 100))["rvq"].shape[-1] == 5


@pytest.mark.parametrize("shape", [(24_000,), (1, 2, 24_000), (1, 1, 0)])
def test_a_waveform_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected a waveform"):
        ResidualCodec(tiny_config()).encode(torch.zeros(shape))


def test_a_used_codec_can_be_copied(teacher: ResidualCodec, waveform) -> None:
    import copy

    teacher.decode_latents(teacher.encode_latents(waveform))  # with gradients on: upstream's weight norm breaks here
    twin = copy.deepcopy(teacher)
    assert torch.equal(twin.encode(waveform)["rvq"], teacher.encode(waveform)["rvq"])


@pytest.mark.parametrize("init, least, most", [("unit-gain", 0.8, 1.1), ("torch", 0.0, 0.01)])
def test_a_fresh_codec_passes_its_input_on_and_one_of_torch_s_defaults_hums(init, least, most):
    autoencoder = SEANetAutoencoder(SEANetConfig(base_filters=4, latent_dim=16, init=init))
    waveform = 0.1 * torch.randn(2, 1, 6000)
    with torch.no_grad():
        heard, hum = (autoencoder.decode_latents(autoencoder.encode_latents(x)) for x in (waveform, 0 * waveform))
    assert least <= float((heard - hum).std() / heard.std()) <= most


@pytest.mark.parametrize(("length", "stride", "dilation"), [(7, 1, 1), (3, 1, 2), (1, 1, 1), (4, 2, 1), (20, 10, 1)])
@pytest.mark.parametrize("samples", [1, 39, 40])
def test_zeros_padded_by_the_convolution_are_those_of_the_package(length: int, stride: int, dilation: int,
                                                                  samples: int) -> None:
    theirs = SConv1d(2, 3, length, stride, dilation, causal=True, pad_mode="constant")
    wave = torch.randn(1, 2, samples)
    expected = theirs(wave)
    ours = CausalConvolution(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(ours(wave), expected)


def test_the_zeros_of_a_causal_codec_are_padded_inside_and_reflections_are_not() -> None:
    causal = SEANetAutoencoder(SEANetConfig(base_filters=2, latent_dim=4))
    reflecting = SEANetAutoencoder(SEANetConfig(base_filters=2, latent_dim=4, pad_mode="reflect"))
    assert not any(isinstance(module, SConv1d) for module in causal.modules())
    assert not any(isinstance(module, CausalConvolution) for module in reflecting.modules())


@pytest.mark.parametrize("settings", [{}, {"causal": False, "pad_mode": "reflect"}, {"lstm_layers": 0}])
@pytest.mark.parametrize("ready", [False, True])
def test_long_latents_decoded_in_parts_sound_as_decoded_at_once(monkeypatch, settings, ready):
    torch.manual_seed(0)
    autoencoder = SEANetAutoencoder(SEANetConfig(base_filters=2, latent_dim=8, **settings)).eval()
    if ready:
        fold_weight_norm(autoencoder)
        autoencoder.for_inference()
    latents, sizes = torch.randn(2, 8, 130), []
    with torch.no_grad():
        whole = autoencoder.decode_latents(latents)
        monkeypatch.setattr(encodec, "PART_FRAMES", 50)
        autoencoder.decoder.model[-1].register_forward_hook(lambda _, args, out: sizes.append(out.shape[-1] // 500))
        parts = autoencoder.decode_latents(latents)
    assert sizes == [66, 82, 46]
    assert parts.shape == whole.shape and torch.allclose(parts, whole, atol=1e-5)
