"""Shipping: a codec alone, in half precision, and what reads its tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from codec_runs import make_manifest
from tiny_chain import tiny_config
from tiny_tokens import tiny_codec

from stages import pack, tokenize_corpus, train_nar
from stages.artifacts.checkpoint import exported_tensors, load_checkpoint, read_tensors, save_checkpoint
from stages.artifacts.storage import read_json, verify_checksums
from stages.artifacts.token_store import open_store
from stages.codec.registry import codec_fingerprint, export_codec, load_codec
from stages.errors import UsageError

ROOT = Path(__file__).parent.parent
SYSTEMS = ("valle", "halle")


@pytest.fixture(params=SYSTEMS)
def full(request, tmp_path) -> Path:
    """A codec's folder in full precision."""
    return save_codec(tmp_path / "full", tiny_codec(request.param))


def save_codec(folder: Path, codec) -> Path:
    save_checkpoint(folder, "codec", codec.export_config(), exported_tensors(codec), {"data": "d" * 64})
    return folder


def ship(source: Path, target: Path, half: bool = True) -> Path:
    pack.run(str(source), None, None, str(target), half)
    return target


def num_tensor_bytes(file: Path) -> int:
    data = file.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")  # a safetensors file begins with its header


def language_models(folder: Path, codec: str, weight: torch.Tensor = torch.ones(2)) -> tuple[str, str]:
    """Write an AR and a NAR model that say to have been trained on tokens of the codec with this fingerprint."""
    parents = {"codec": codec, "text_tokenizer": "t" * 64}
    for kind in ("ar", "nar"):
        save_checkpoint(folder / kind, kind, {"system": "halle"}, {"weight": weight}, parents)
    return str(folder / "ar"), str(folder / "nar")


def test_a_codec_in_half_precision_has_one_fingerprint_wherever_it_is(full, tmp_path):
    shipped = ship(full, tmp_path / "half")
    loaded = load_codec(shipped)
    export_codec(loaded, tmp_path / "half.pt")
    again = ship(tmp_path / "half.pt", tmp_path / "again", half=False)
    fingerprints = {load_checkpoint(shipped).fingerprint, codec_fingerprint(loaded),
                    codec_fingerprint(load_codec(tmp_path / "half.pt")), load_checkpoint(again).fingerprint,
                    load_checkpoint(ship(shipped, tmp_path / "twice")).fingerprint}  # fmt: skip
    assert len(fingerprints) == 1
    assert fingerprints != {load_checkpoint(full).fingerprint}
    assert codec_fingerprint(load_codec(full)) == load_checkpoint(full).fingerprint


def test_numbers_are_halves_on_disk_and_the_same_numbers_in_float32_when_loaded(full, tmp_path):
    shipped = ship(full, tmp_path / "half")
    verify_checksums(shipped)
    before, on_disk, loaded = (read_tensors(full / "model.safetensors"), read_tensors(shipped / "model.safetensors"),
                               exported_tensors(load_codec(shipped)))
    assert before.keys() == on_disk.keys() == loaded.keys()
    for name, tensor in before.items():
        if tensor.is_floating_point():
            assert on_disk[name].dtype == torch.float16 and loaded[name].dtype == torch.float32
            assert torch.equal(loaded[name], tensor.half().float()), name
        else:
            assert on_disk[name].dtype == tensor.dtype and torch.equal(on_disk[name], tensor), name
    numbers = sum(tensor.numel() for tensor in before.values() if tensor.is_floating_point())
    size, smaller = (num_tensor_bytes(folder / "model.safetensors") for folder in (full, shipped))
    assert size - smaller == 2 * numbers and smaller < 0.51 * size


def test_codes_and_audio_are_the_same_after_every_reload(full, tmp_path):
    shipped = ship(full, tmp_path / "half")
    rounded = load_codec(full)
    rounded.load_state_dict({name: tensor.half().float() if tensor.is_floating_point() else tensor
                             for name, tensor in rounded.state_dict().items()})
    export_codec(load_codec(shipped), tmp_path / "half.pt")
    waveform = torch.randn(1, 1, 12_000, generator=torch.Generator().manual_seed(0)) / 10
    codes = rounded.encode(waveform)
    for path in (shipped, tmp_path / "half.pt"):
        codec = load_codec(path)
        assert all(torch.equal(codes[name], found) for name, found in codec.encode(waveform).items())
        assert torch.equal(codec.decode(codes), rounded.decode(codes))


def test_a_rounded_codec_records_the_codec_in_full_precision_also_when_it_is_packed_again(full, tmp_path):
    shipped = ship(full, tmp_path / "half")
    parents = {"data": "d" * 64, "full_precision": load_checkpoint(full).fingerprint}
    assert load_checkpoint(shipped).parents == parents
    for again in (ship(shipped, tmp_path / "a"), ship(shipped, tmp_path / "b", half=False)):
        assert load_checkpoint(again).parents == parents
        assert (again / "model.safetensors").read_bytes() == (shipped / "model.safetensors").read_bytes()
    assert load_checkpoint(ship(full, tmp_path / "c", half=False)).parents == {"data": "d" * 64}


def test_statistics_of_training_are_not_shipped(tmp_path):
    codec = tiny_codec("halle")
    folder = tmp_path / "full"
    save_checkpoint(folder, "codec", codec.export_config(), codec.state_dict(), {})
    held = set(load_checkpoint(ship(folder, tmp_path / "half")).tensors)
    left_out = set(codec.state_dict()) - held
    assert {name.rpartition(".")[2] for name in left_out} == {"ema_count", "ema_sum", "recent_use", "num_updates",
                                                              "num_revived"}  # fmt: skip


def test_numbers_beyond_half_precision_are_refused_with_the_tensor_that_holds_them(tmp_path):
    codec = tiny_codec("valle")
    codec.quantizer.codebooks[1].codebook[3, 2] = -70_000
    save_codec(tmp_path / "full", codec)
    with pytest.raises(UsageError, match=r"65504, got `70000` in `quantizer\.codebooks\.1\.codebook`") as caught:
        ship(tmp_path / "full", tmp_path / "half")
    assert "--half" in caught.value.hint and not (tmp_path / "half").exists()
    ship(tmp_path / "full", tmp_path / "copy", half=False)


def test_tokens_of_a_shipped_codec_belong_to_it_on_the_way_to_a_model_folder(tmp_path):
    full = save_codec(tmp_path / "full", tiny_codec("halle"))
    shipped = ship(full, tmp_path / "half")
    data = make_manifest(tmp_path / "data")
    manifest = data / "manifest.jsonl"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"x"', '"some few words"'), encoding="utf-8")
    tokens = str(tmp_path / "tokens")
    tokenize_corpus.run(tiny_config("tokenize", "text_vocab_size=30", codec=str(shipped), data=str(data), out=tokens))
    made_with = open_store(tokens).codec_fingerprint
    assert made_with == load_checkpoint(shipped).fingerprint
    train_nar.plan(tiny_config("train-nar", tokens=tokens, codec=str(shipped), out=str(tmp_path / "nar-run")))
    with pytest.raises(UsageError, match=made_with[:12]):
        train_nar.plan(tiny_config("train-nar", tokens=tokens, codec=str(full), out=str(tmp_path / "nar-run")))

    models = language_models(tmp_path, made_with)
    for name, codec, half in (("a", shipped, False), ("b", full, True)):
        pack.run(str(codec), *models, str(tmp_path / name), half)
        assert read_json(tmp_path / name / "model.json")["fingerprints"]["codec"] == made_with
        assert codec_fingerprint(load_codec(tmp_path / name)) == made_with
        packed = (tmp_path / name / "codec" / "model.safetensors").read_bytes()
        assert packed == (shipped / "model.safetensors").read_bytes()


def test_language_models_are_rounded_too_and_say_what_they_were(tmp_path):
    shipped = ship(save_codec(tmp_path / "full", tiny_codec("halle")), tmp_path / "half")
    models = language_models(tmp_path, load_checkpoint(shipped).fingerprint, torch.tensor([1.0, 1 / 3]))
    pack.run(str(shipped), *models, str(tmp_path / "model"), half=True)
    for kind, path in zip(("ar", "nar"), models, strict=True):
        packed, given = load_checkpoint(tmp_path / "model" / kind), load_checkpoint(path)
        assert torch.equal(packed.tensors["weight"].float(), given.tensors["weight"].half().float())
        assert packed.tensors["weight"].dtype == torch.float16
        assert packed.parents["full_precision"] == given.fingerprint != packed.fingerprint
        assert read_json(tmp_path / "model" / "model.json")["fingerprints"][kind] == packed.fingerprint


def test_language_models_of_the_other_precision_are_refused_with_both_fingerprints(tmp_path):
    full = save_codec(tmp_path / "full", tiny_codec("halle"))
    shipped = ship(full, tmp_path / "half")
    prints = [load_checkpoint(folder).fingerprint for folder in (full, shipped)]
    of_full, of_half = (language_models(tmp_path / name, found) for name, found in zip("fh", prints, strict=True))
    for codec, half, models in ((full, True, of_full), (shipped, False, of_full), (full, False, of_half)):
        with pytest.raises(UsageError) as caught:
            pack.run(str(codec), *models, str(tmp_path / "model"), half)
        assert all(found[:12] in caught.value.message for found in prints)
    with pytest.raises(UsageError) as caught:
        pack.run(str(full), *of_full, str(tmp_path / "model"), half=True)
    assert "half precision" in caught.value.message and "--half" in caught.value.hint
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("ar, nar, missing", [("runs/ar", None, "--nar"), (None, "runs/nar", "--ar")])
def test_one_language_model_without_the_other_is_refused(tmp_path, ar, nar, missing):
    with pytest.raises(UsageError, match="got `runs/") as caught:
        pack.run("codec", ar, nar, str(tmp_path / "model"))
    assert missing in caught.value.hint


def test_a_codec_replaces_an_earlier_one_and_nothing_else(tmp_path):
    full = save_codec(tmp_path / "full", tiny_codec("valle"))
    shipped = ship(full, tmp_path / "half")
    ship(full, shipped)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty and is no folder of a codec alone"):
        ship(full, tmp_path / "mine")
    with pytest.raises(UsageError, match="not empty and is no model folder"):
        pack.run(str(full), *language_models(tmp_path, load_checkpoint(full).fingerprint), str(shipped))


def test_the_command_ships_a_codec_and_says_how_to_go_on(tmp_path):
    save_codec(tmp_path / "full", tiny_codec("valle"))
    command = [sys.executable, "-m", "halle_cli", "pack", "--codec", tmp_path / "full", "--half", "--out",
               tmp_path / "half"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert f"next: halle tokenize --codec {tmp_path / 'half'}" in done.stderr
    assert load_checkpoint(tmp_path / "half", "codec").fingerprint[:12] in done.stdout


def test_what_is_no_part_of_a_model_is_never_lost_with_it(tmp_path):
    full = save_codec(tmp_path / "full", tiny_codec("halle"))
    models = language_models(tmp_path, load_checkpoint(full).fingerprint)
    pack.run(str(full), *models, str(tmp_path / "model"))
    (tmp_path / "model" / ".gitattributes").touch()  # made anew by every download
    pack.run(str(full), *models, str(tmp_path / "model"))
    (tmp_path / "model" / ".git").mkdir()
    (tmp_path / "model" / ".git" / "HEAD").write_text("ref", encoding="utf-8")
    with pytest.raises(UsageError, match=r"to replace, got `\.git` in"):
        pack.run(str(full), *models, str(tmp_path / "model"))
    assert (tmp_path / "model" / ".git" / "HEAD").is_file()
