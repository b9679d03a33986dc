from __future__ import annotations

import json

import pytest
import torch

from stages.artifacts.checkpoint import exported_tensors, save_checkpoint
from stages.artifacts.storage import write_json
from stages.codec.registry import codec_fingerprint, export_codec, load_codec, load_teacher
from stages.errors import StorageError, UsageError


def assert_same(codec, loaded, waveform) -> None:
    assert type(loaded) is type(codec) and not loaded.training
    for name, codes in codec.encode(waveform).items():
        assert torch.equal(loaded.encode(waveform)[name], codes), name
    assert codec_fingerprint(loaded) == codec_fingerprint(codec)


def test_an_exported_codec_loads_as_it_was(teacher, student, waveform, tmp_path) -> None:
    for codec in (teacher, student):
        fingerprint = export_codec(codec, tmp_path / "codec.pt")
        assert fingerprint == codec_fingerprint(codec)
        assert_same(codec, load_codec(tmp_path / "codec.pt"), waveform)


def test_an_export_holds_only_what_others_need_and_can_be_trained_on(teacher, tmp_path) -> None:
    export_codec(teacher, tmp_path / "codec.pt")
    held = torch.load(tmp_path / "codec.pt", weights_only=True)["tensors"]
    assert {name for name in held if name.startswith("quantizer.codebooks.0.")} == {
        "quantizer.codebooks.0.codebook", "quantizer.codebooks.0.initialised"}  # fmt: skip
    first = load_codec(tmp_path / "codec.pt").quantizer.codebooks[0]
    before, vectors = first.codebook.clone(), first.codebook + 0.1
    first.update(vectors, torch.arange(len(vectors)))
    # an average of 0.99 parts of the entry and 0.01 of a vector 0.1 away
    torch.testing.assert_close(first.codebook, before + 0.001, rtol=0, atol=1e-4)


def test_exports_with_statistics_of_an_older_training_load(teacher, waveform, tmp_path) -> None:
    older = {name: tensor for name, tensor in teacher.state_dict().items()
             if not name.endswith(("recent_use", "num_revived"))}
    save_checkpoint(tmp_path / "codec", "codec", teacher.export_config(), older, {})
    loaded = load_codec(tmp_path / "codec")
    assert_same(teacher, loaded, waveform)
    assert torch.equal(loaded.quantizer.codebooks[0].ema_count, teacher.quantizer.codebooks[0].ema_count)


def test_run_and_checkpoint_folders_load(student, waveform, tmp_path) -> None:
    for step in (5, 10):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        saved = save_checkpoint(folder, "codec", student.export_config(), exported_tensors(student), {})
        assert saved == codec_fingerprint(student)
    for path in (tmp_path / "run", f"{tmp_path}/run@step-5", folder):
        assert_same(student, load_codec(path), waveform)


def test_a_model_folder_stands_for_its_codec(teacher, waveform, tmp_path) -> None:
    save_checkpoint(tmp_path / "model" / "codec", "codec", teacher.export_config(), exported_tensors(teacher), {})
    write_json(tmp_path / "model" / "model.json", {})
    assert_same(teacher, load_codec(tmp_path / "model"), waveform)


def test_a_teacher_is_frozen(teacher, tmp_path) -> None:
    export_codec(teacher, tmp_path / "encodec.pt")
    loaded = load_teacher(tmp_path / "encodec.pt")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_multi_resolution_codec_cannot_teach(student, tmp_path) -> None:
    export_codec(student, tmp_path / "mreq.pt")
    with pytest.raises(UsageError, match="already made multi-resolution"):
        load_teacher(tmp_path / "mreq.pt")


def test_another_stages_checkpoint_is_named(tmp_path) -> None:
    save_checkpoint(tmp_path / "ar", "ar", {}, {"a": torch.zeros(1)}, {})
    with pytest.raises(UsageError, match="halle train-ar made"):
        load_codec(tmp_path / "ar")


@pytest.mark.parametrize(
    "name, content, made_by",
    [("config.json", {"stage": "train-nar"}, "halle train-nar"), ("store.json", {}, "halle tokenize"),
     ("manifest.jsonl", {}, "halle curate")],
)  # fmt: skip
def test_another_stages_folder_is_named(name, content, made_by, tmp_path) -> None:
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UsageError, match=f"`{made_by}` made"):
        load_codec(tmp_path)


def test_a_run_without_a_checkpoint_says_so(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"stage": "mreq"}), encoding="utf-8")
    with pytest.raises(UsageError, match="holds no checkpoint yet"):
        load_codec(tmp_path)


def test_a_codec_without_codebooks_yet_is_refused_with_a_hint(teacher, student, tmp_path) -> None:
    for codec, quantizer in ((teacher, teacher.quantizer), (student, student.mrvq.blocks[1].quant)):
        quantizer.codebooks[-1].initialised.fill_(False)
        save_checkpoint(tmp_path / "codec", "codec", codec.export_config(), exported_tensors(codec), {})
        export_codec(codec, tmp_path / "codec.pt")
        for path in (tmp_path / "codec", tmp_path / "codec.pt"):
            with pytest.raises(UsageError, match="have not started") as caught:
                load_codec(path)
            assert "again to go on" in caught.value.hint


def test_a_missing_path_is_refused_with_a_hint(tmp_path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        load_codec(tmp_path / "nothing")
    assert "halle train-codec" in caught.value.hint


def test_weights_of_other_projects_are_refused(tmp_path) -> None:
    (tmp_path / "codec.ckpt").write_bytes(b"x")
    with pytest.raises(UsageError, match="expected a codec"):
        load_codec(tmp_path / "codec.ckpt")
    torch.save({"kind": "codec", "architecture": "{}"}, tmp_path / "half.pt")
    with pytest.raises(UsageError, match="another program's"):
        load_codec(tmp_path / "half.pt")
    torch.save({"model": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="another program's"):
        load_codec(tmp_path / "other.pt")


class Dangerous:
    def __reduce__(self):
        return (print, ("ran",))


def test_damaged_files_and_files_with_code_are_storage_errors(teacher, tmp_path, capsys) -> None:
    file = tmp_path / "encodec.pt"
    export_codec(teacher, file)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        file.write_bytes(content)
        with pytest.raises(StorageError, match="damaged"):
            load_codec(file)
    torch.save(Dangerous(), file)
    with pytest.raises(StorageError):
        load_codec(file)
    assert "ran" not in capsys.readouterr().out


def test_changed_tensors_are_noticed(teacher, tmp_path) -> None:
    file = tmp_path / "encodec.pt"
    export_codec(teacher, file)
    content = torch.load(file, weights_only=True)
    next(iter(content["tensors"].values())).add_(1)
    torch.save(content, file)
    with pytest.raises(StorageError, match="fingerprint"):
        load_codec(file)


def test_a_torn_description_of_a_run_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"stage": "mr', encoding="utf-8")
    with pytest.raises(StorageError, match=r"config\.json` is not JSON"):
        load_codec(tmp_path)
