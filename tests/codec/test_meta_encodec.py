from __future__ import annotations

import hashlib
import json

import pytest
import torch
from encodec import EncodecModel
from safetensors.torch import load_file, save_file
from tiny_codecs import synthetic_speech
from torch import Tensor, nn

from stages.codec.meta_encodec import HUB_NAME, PUBLIC_FILE
from stages.codec.registry import load_codec, load_teacher
from stages.errors import MissingModelError, StorageError, UsageError

transformers = pytest.importorskip("transformers")


def make_lively(encoder: nn.Module, codebooks: list[Tensor], wave: Tensor) -> None:
    """Let a random encoder's output follow its input, and spread codebooks over it: else all codes are alike."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith(("weight_g", "original0")):
                parameter.mul_(1.7)
            elif name.endswith("conv.bias"):
                parameter.zero_()
        latents = encoder(wave)
        for depth, entries in enumerate(codebooks):
            entries.copy_(torch.randn_like(entries) * latents.std() * 0.7**depth)


def random_package_model(wave: Tensor) -> EncodecModel:
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    make_lively(model.encoder, [layer._codebook.embed for layer in model.quantizer.vq.layers], wave)
    model.set_target_bandwidth(6.0)
    return model


def random_hub_model(wave: Tensor, **changes):
    model = transformers.EncodecModel(transformers.EncodecConfig(**changes)).eval()
    make_lively(model.encoder, [layer.codebook.embed for layer in model.quantizer.layers], wave)
    return model


@pytest.fixture(scope="module")
def wave() -> Tensor:
    return synthetic_speech(1, 19_200)


@pytest.fixture(scope="module")
def package_model(wave) -> EncodecModel:
    torch.manual_seed(0)
    return random_package_model(wave)


@pytest.fixture(scope="module")
def th_file(package_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "encodec_24khz.th"
    torch.save(package_model.state_dict(), file)
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return file.rename(file.with_name(f"encodec_24khz-{digits}.th"))


@pytest.fixture
def small_folder(wave, tmp_path):
    model = random_hub_model(wave, num_filters=4, hidden_size=16, codebook_size=32, target_bandwidths=[4.5])
    model.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def test_the_th_file_gives_the_codes_and_the_waveform_of_the_package(th_file, package_model, wave) -> None:
    codec = load_codec(th_file)
    with torch.no_grad():
        theirs = package_model.encode(wave)
        waveform = package_model.decode(theirs)
    codes = codec.encode(wave)["rvq"]
    assert codes.shape == (1, 8, 60)
    assert all(len(codes[0, index].unique()) > 5 for index in range(8)), "the test's codes should differ"
    assert torch.equal(codes, theirs[0][0])
    assert (codec.decode({"rvq": codes}) - waveform).abs().max() < 1e-4
    assert waveform.abs().max() > 0.01


@pytest.mark.parametrize("names", ["parametrizations", "weight_g"])
def test_the_hub_folder_gives_the_codes_and_the_waveform_of_transformers(names, wave, tmp_path) -> None:
    torch.manual_seed(1)
    model = random_hub_model(wave)
    model.save_pretrained(tmp_path)
    if names == "weight_g":  # how the public file, and every older release, names them
        old = {name.replace("parametrizations.weight.original0", "weight_g")
               .replace("parametrizations.weight.original1", "weight_v"): tensor
               for name, tensor in load_file(tmp_path / "model.safetensors").items()}  # fmt: skip
        save_file(old, tmp_path / "model.safetensors")
    codec = load_codec(tmp_path)
    with torch.no_grad():
        theirs = model.encode(wave, bandwidth=6.0)
        waveform = model.decode(theirs.audio_codes, theirs.audio_scales)[0]
    codes = codec.encode(wave)["rvq"]
    assert torch.equal(codes, theirs.audio_codes[0])
    assert (codec.decode({"rvq": codes}) - waveform).abs().max() < 1e-4


def test_the_same_weights_in_both_forms_make_the_same_codec(th_file, package_model, wave, tmp_path) -> None:
    """The hub's names, written out from the package's, lead back to the same tensors."""
    renamed = {name.replace(".model.", ".layers.", 1).replace("conv.conv.", "conv.").replace("convtr.convtr.", "conv.")
               .replace("quantizer.vq.", "quantizer.").replace("._codebook.", ".codebook."): tensor.contiguous()
               for name, tensor in package_model.state_dict().items()}  # fmt: skip
    transformers.EncodecConfig().save_pretrained(tmp_path)
    save_file(renamed, tmp_path / "model.safetensors")
    ours, theirs = load_codec(th_file).state_dict(), load_codec(tmp_path).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_meta_weights_run_at_75_hz_and_teach_with_eight_codebooks(th_file) -> None:
    teacher = load_teacher(th_file)
    assert (teacher.streams[0].frame_rate, teacher.hop_length, teacher.latent_dim) == (75.0, 320, 128)
    assert (teacher.num_codebooks, teacher.bits_per_second) == (8, 6000)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.config.seanet.true_skip and teacher.config.seanet.pad_mode == "reflect"


def test_a_folder_of_another_size_is_read_by_its_own_settings(small_folder, wave) -> None:
    codec = load_codec(small_folder)
    assert (codec.latent_dim, codec.codebook_size, codec.num_codebooks) == (16, 32, 8)
    assert codec.encode(wave)["rvq"].shape == (1, 8, 60)


@pytest.mark.parametrize(
    "key, value", [("audio_channels", 2), ("normalize", True), ("norm_type", "time_group_norm"), ("chunk_length_s", 1)]
)
def test_a_codec_that_ours_cannot_be_is_refused(key, value, small_folder) -> None:
    file = small_folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
    with pytest.raises(UsageError, match=f"`{key}`: expected .*, got `{value}`"):
        load_codec(small_folder)


def test_weights_of_another_model_are_refused(tmp_path) -> None:
    stereo = EncodecModel.encodec_model_48khz(pretrained=False)
    torch.save(stereo.state_dict(), tmp_path / "encodec_48khz.th")
    with pytest.raises(UsageError, match="not those of a mono EnCodec"):
        load_codec(tmp_path / "encodec_48khz.th")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.th")
    with pytest.raises(UsageError, match="it has no codebooks"):
        load_codec(tmp_path / "other.th")


class Dangerous:
    def __reduce__(self):
        return (print, ("ran",))


def test_damaged_files_and_files_with_code_are_storage_errors(th_file, tmp_path, capsys) -> None:
    cut = tmp_path / th_file.name
    cut.write_bytes(th_file.read_bytes()[:1_000_000])
    with pytest.raises(StorageError, match="sha256 does not begin with"):
        load_codec(cut)
    (tmp_path / "cut.th").write_bytes(cut.read_bytes())
    torch.save(Dangerous(), tmp_path / "code.th")
    for name in ("cut.th", "code.th"):
        with pytest.raises(StorageError, match="damaged or not a file of tensors"):
            load_codec(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


def test_missing_weights_say_what_to_fetch(tmp_path, monkeypatch) -> None:
    with pytest.raises(MissingModelError, match="do not exist") as caught:
        load_codec(tmp_path / "encodec_24khz-d7cc33bc.th")
    assert PUBLIC_FILE in caught.value.hint

    import huggingface_hub

    def no_network(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    with pytest.raises(MissingModelError, match="cannot be fetched") as caught:
        load_codec(HUB_NAME)
    assert PUBLIC_FILE in caught.value.hint and f"huggingface.co/{HUB_NAME}" in caught.value.hint


def test_a_hub_folder_without_its_weights_says_what_to_fetch(small_folder) -> None:
    (small_folder / "model.safetensors").unlink()
    with pytest.raises(MissingModelError, match=r"`model\.safetensors` are not there") as caught:
        load_codec(small_folder)
    assert PUBLIC_FILE in caught.value.hint


def test_the_name_on_the_hub_stands_for_its_folder(small_folder, wave, monkeypatch) -> None:
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        lambda name, **options: asked.append((name, options)) or str(small_folder))
    codec = load_codec(HUB_NAME)
    assert torch.equal(codec.encode(wave)["rvq"], load_codec(small_folder).encode(wave)["rvq"])
    assert asked == [(HUB_NAME, {"allow_patterns": ["config.json", "model.safetensors"]})]
