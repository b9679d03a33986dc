from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_hubert import DIM, NUM_LAYERS, save_hubert
from transformers import HubertModel, Wav2Vec2FeatureExtractor

from stages.errors import MissingModelError, UsageError
from stages.speech import ssl
from stages.speech.ssl import AlignedFeatures, load_hubert


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_hubert(tmp_path_factory.mktemp("hubert"))


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("hops", [1, 2, 48, 131])
def test_every_hop_of_the_codec_is_one_frame_and_a_second_has_48(folder, hops: int) -> None:
    aligned = AlignedFeatures(load_hubert(str(folder)), 24_000, 500)
    assert aligned(torch.randn(2, 1, 500 * hops)).shape == (2, DIM, hops)


def test_the_model_hears_speech_fifty_forty_eighths_as_fast(folder) -> None:
    """A tone of 480 Hz must arrive as one of 500 Hz at 16 kHz."""
    aligned = AlignedFeatures(load_hubert(str(folder)), 24_000, 500)
    heard = aligned.resample(torch.sin(2 * torch.pi * 480 * torch.arange(24_000) / 24_000)[None, None])
    assert heard.shape == (1, 1, 15_360)
    loudest = torch.fft.rfft(heard[0, 0], n=16_000).abs().argmax()  # bins of 1 Hz
    assert abs(int(loudest) - 500) <= 1


def test_a_frame_is_centred_on_its_hop(folder) -> None:
    """The convolutions see 400 samples a frame: a click in the middle of hop 20 is nearest to frame 20."""
    hubert = load_hubert(str(folder))
    seen = []
    hubert.model.feature_extractor.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    click = torch.zeros(1, 1, 48 * 320)
    click[..., 20 * 320 + 160] = 1
    hubert.features(click)
    (samples, frames), = seen
    assert samples.shape == (1, 48 * 320 + 80) and frames.shape[-1] == 48
    first = 20 * 320  # of what the convolutions see for frame 20, in padded samples
    at = int(samples.abs().argmax())
    assert at - first == 200 and first + 400 - at == 200


def test_features_are_the_models_own_of_the_feature_extractors_input(folder) -> None:
    """Padded as ours are, transformers gives the same numbers."""
    wave = 0.3 * torch.randn(2, 1, 320 * 10) + 0.1
    model = HubertModel.from_pretrained(folder).eval()
    extract = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    given = extract([item.numpy() for item in wave[:, 0]], sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        states = model(torch.nn.functional.pad(given, (40, 40)), output_hidden_states=True).hidden_states
    assert len(states) == NUM_LAYERS + 1
    for layer, expected in (("average", torch.stack(states).mean(0)), (0, states[0]), (2, states[2])):
        found = load_hubert(str(folder), layer).features(wave)
        torch.testing.assert_close(found.transpose(1, 2), expected, rtol=1e-4, atol=1e-4)


def test_loudness_is_heard_only_when_the_model_asks_for_it(folder, tmp_path) -> None:
    other = load_hubert(str(save_hubert(tmp_path / "loud", normalize=False)))
    wave = torch.randn(1, 1, 3200)
    hubert = load_hubert(str(folder))
    torch.testing.assert_close(hubert.features(0.1 * wave), hubert.features(wave), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(other.features(0.1 * wave), other.features(wave), rtol=1e-3, atol=1e-3)
    assert hubert.fingerprint != other.fingerprint


def test_the_teacher_is_frozen_and_gives_no_gradient(folder) -> None:
    hubert = load_hubert(str(folder))
    assert not hubert.training and not any(parameter.requires_grad for parameter in hubert.parameters())
    assert not hubert.features(torch.randn(1, 1, 640, requires_grad=True)).requires_grad


def test_the_fingerprint_is_that_of_the_weights(folder, tmp_path) -> None:
    other = copy_of(folder, tmp_path)
    assert load_hubert(str(other)).fingerprint == load_hubert(str(folder), layer=1).fingerprint
    tensors = load_file(other / "model.safetensors")
    tensors["encoder.layer_norm.bias"] += 1e-3
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    assert load_hubert(str(other)).fingerprint != load_hubert(str(folder)).fingerprint


def test_a_mask_that_the_weights_lack_leaves_the_fingerprint_as_it_is(folder, tmp_path) -> None:
    """transformers would draw it at random, another at every load."""
    other = copy_of(folder, tmp_path)
    tensors = load_file(other / "model.safetensors")
    del tensors["masked_spec_embed"]
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    assert load_hubert(str(other)).fingerprint == load_hubert(str(folder)).fingerprint


@pytest.mark.parametrize("sample_rate, hop, spoken", [(24_000, 320, "75"), (24_000, 1000, "24"), (16_000, 500, "32")])
def test_a_codec_of_another_rate_is_refused(folder, sample_rate: int, hop: int, spoken: str) -> None:
    with pytest.raises(UsageError, match=f"nearly 50 frames a second.* got one of `{spoken}`") as caught:
        AlignedFeatures(load_hubert(str(folder)), sample_rate, hop)
    assert "codec.seanet.ratios" in caught.value.hint


@pytest.mark.parametrize("name", ["facebook/hubert-base-ls960", "no/such/folder", "empty"])
def test_missing_weights_say_what_to_fetch_and_where_to_name_it(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingModelError, match=f"no whole HuBERT at `{name}`") as caught:
        load_hubert(name)
    assert "hf download facebook/hubert-base-ls960 config.json" in caught.value.hint
    assert "-O semantic.model=FOLDER" in caught.value.hint


@pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json", "config.json"])
def test_a_folder_that_lacks_a_file_is_refused(folder, file: str, tmp_path) -> None:
    other = copy_of(folder, tmp_path)
    (other / file).unlink()
    with pytest.raises(MissingModelError, match="no whole HuBERT"):
        load_hubert(str(other))


def test_weights_of_another_model_are_refused(folder, tmp_path) -> None:
    """transformers would make up what is lacking, and teach noise."""
    other = copy_of(folder, tmp_path)
    tensors = {f"wav2vec2.{name}": tensor for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="expected the weights of a HuBERT"):
        load_hubert(str(other))


def test_without_transformers_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr(ssl, "find_spec", lambda name: None)
    with pytest.raises(MissingModelError, match="`transformers`") as caught:
        load_hubert("facebook/hubert-base-ls960")
    assert caught.value.hint == "pip install 'halle[hf]'"


@pytest.mark.parametrize("layer", [-1, NUM_LAYERS + 1])
def test_a_layer_that_is_not_there_is_refused(folder, layer: int) -> None:
    with pytest.raises(UsageError, match=f"from 0 to {NUM_LAYERS}, got `{layer}`"):
        load_hubert(str(folder), layer)


def test_the_model_on_disk_has_the_shape_in_time_of_the_real_one(folder) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["conv_kernel"], config["conv_stride"]) == ([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
