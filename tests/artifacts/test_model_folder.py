"""A model folder is whole, or it is said what is wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stages.artifacts.model_folder import verify_model
from stages.artifacts.storage import read_json, write_checksums, write_json
from stages.errors import HalleError, StorageError, UsageError

TEXTS = ("MODEL_CARD.md", "LICENSE")


@pytest.fixture
def folder(speaking_model, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(speaking_model, tmp_path / "model"))


def test_a_packed_model_is_whole_also_without_the_texts_for_people(folder):
    described = read_json(folder / "model.json")
    assert verify_model(folder) == described
    for name in TEXTS:
        (folder / name).unlink()
    assert verify_model(folder) == described


def test_all_that_lacks_is_named(folder):
    (folder / "ar" / "config.json").unlink()
    shutil.rmtree(folder / "nar")
    with pytest.raises(UsageError, match=r"lacks `ar/config\.json`, `nar/config\.json`, `nar/model\.safetensors` and 1 "
                                         "more"):
        verify_model(folder)


def test_a_file_more_or_less_in_the_checksums_is_no_model(folder):
    (folder / "extra.bin").write_bytes(b"x")
    write_checksums(folder, exclude=TEXTS)
    with pytest.raises(StorageError, match=r"lists other files than a model has: `extra\.bin`"):
        verify_model(folder)


@pytest.mark.parametrize("part", ["codec", "ar", "nar"])
def test_the_fingerprint_of_each_part_is_that_of_its_tensors(folder, part):
    config = read_json(folder / part / "config.json")
    config["architecture"]["model"] = "another"
    write_json(folder / part / "config.json", config)
    write_checksums(folder, exclude=TEXTS)
    with pytest.raises(StorageError, match=f"the fingerprint differs of `{part}`$"):
        verify_model(folder)


def test_parts_in_each_others_places_are_refused(folder):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / "ar" / name, folder / "nar" / name)
    described = read_json(folder / "model.json")
    described["fingerprints"]["nar"] = described["fingerprints"]["ar"]
    write_json(folder / "model.json", described)
    write_checksums(folder, exclude=TEXTS)
    with pytest.raises(StorageError, match="differs of `nar`"):
        verify_model(folder)


@pytest.mark.parametrize("file, content", [
    ("model.json", {}), ("model.json", []), ("checksums.json", {}), ("checksums.json", {"files": 1}),
    ("ar/config.json", {}),
])  # fmt: skip
def test_a_strange_description_is_an_error_and_no_bug(folder, file, content):
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    if file != "checksums.json":
        write_checksums(folder, exclude=TEXTS)
    with pytest.raises(HalleError, match="model"):
        verify_model(folder)
