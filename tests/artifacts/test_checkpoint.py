"""Checkpoints: inverse, fingerprints, and what a path stands for."""

import pytest
import safetensors
import torch

from stages.artifacts import checkpoint
from stages.artifacts.checkpoint import (
    MODEL_FILE,
    load_checkpoint,
    load_trainer_state,
    model_fingerprint,
    newest_checkpoint,
    resolve_checkpoint,
    save_checkpoint,
)
from stages.artifacts.tensors import TensorFile
from stages.errors import StorageError, UsageError

ARCHITECTURE = {"dim": 3}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 3, generator=generator), "n": torch.tensor(7), "b": torch.ones(2, dtype=torch.bfloat16)}


def make_run(tmp_path, steps=(1, 2)):
    for step in steps:
        save_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{step:08d}", "ar", ARCHITECTURE, tensors(step), {},
                        ({"m": torch.ones(2)}, {"step": step}))
    return tmp_path / "run"


def test_what_is_saved_is_loaded(tmp_path):
    fingerprint = save_checkpoint(tmp_path / "c", "codec", ARCHITECTURE, tensors(), {"data": "f"})
    loaded = load_checkpoint(tmp_path / "c", "codec")
    assert loaded.architecture == ARCHITECTURE and loaded.parents == {"data": "f"}
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in tensors().items())
    assert loaded.fingerprint == fingerprint == model_fingerprint(ARCHITECTURE, tensors())


def test_the_fingerprint_sees_every_bit_shape_name_and_the_architecture():
    base = model_fingerprint(ARCHITECTURE, tensors())
    renamed = {("v" if name == "w" else name): tensor for name, tensor in tensors().items()}
    reshaped = {**tensors(), "w": tensors()["w"].reshape(9)}
    flipped = {**tensors(), "w": torch.nextafter(tensors()["w"], torch.tensor(9.0))}
    others = [model_fingerprint({"dim": 4}, tensors()),
              *(model_fingerprint(ARCHITECTURE, changed) for changed in (renamed, reshaped, flipped))]
    assert base not in others and len(set(others)) == 4


def test_a_run_stands_for_its_newest_checkpoint_and_at_for_another(tmp_path):
    run = make_run(tmp_path)
    assert resolve_checkpoint(run).name == "step-00000002"
    assert resolve_checkpoint(f"{run}@step-1").name == "step-00000001"
    with pytest.raises(UsageError, match="it has: 1, 2"):
        resolve_checkpoint(f"{run}@step-9")


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog):
    run = make_run(tmp_path)
    file = run / "checkpoints" / "step-00000002" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert newest_checkpoint(run).name == "step-00000001"
    assert "model.safetensors" in caplog.text
    with pytest.raises(StorageError):
        load_checkpoint(run / "checkpoints" / "step-00000002")


def test_a_run_of_which_every_checkpoint_is_damaged_is_not_taken_for_an_empty_one(tmp_path):
    run = make_run(tmp_path, steps=(1,))
    (run / "checkpoints" / "step-00000001" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"no checkpoint of .* is whole"):
        newest_checkpoint(run)
    assert newest_checkpoint(tmp_path / "empty") is None


def test_a_checkpoint_of_another_stage_is_refused_by_name(tmp_path):
    run = make_run(tmp_path)
    with pytest.raises(UsageError, match="halle train-ar"):
        load_checkpoint(run, "codec")


def test_a_checkpoint_is_readable_by_whom_its_other_files_are(tmp_path):
    run = make_run(tmp_path)
    folder = newest_checkpoint(run)
    modes = {file.stat().st_mode & 0o777 for file in folder.rglob("*") if file.is_file()}
    assert len(modes) == 1 and len(list(folder.rglob("*.safetensors"))) == 2


def test_a_full_disk_is_a_storage_error_that_says_so(tmp_path, monkeypatch):
    def full(tensors, file):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match="no space left") as caught:
        save_checkpoint(tmp_path / "c", "ar", ARCHITECTURE, tensors(), {})
    assert "free some space" in caught.value.hint and not (tmp_path / "c").exists()


def test_trainer_state_comes_back(tmp_path):
    run = make_run(tmp_path)
    state, values = load_trainer_state(newest_checkpoint(run))
    assert torch.equal(state["m"], torch.ones(2)) and values == {"step": 2}


def test_a_pickle_in_place_of_safetensors_is_refused_and_not_run(tmp_path):
    save_checkpoint(tmp_path / "c", "ar", ARCHITECTURE, tensors(), {})
    torch.save(tensors(), tmp_path / "c" / "model.safetensors")
    with pytest.raises(StorageError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / "c")


def test_tensors_read_one_by_one_are_those_read_at_once(tmp_path):
    save_checkpoint(tmp_path / "model", "ar", ARCHITECTURE, tensors(), {})
    file = TensorFile(tmp_path / "model" / MODEL_FILE)
    assert file.names == tensors().keys()
    assert all(torch.equal(file.read(name), tensor) for name, tensor in tensors().items())
