"""`halle info`: every kind of artifact is recognised and described by its own figures."""

import json
import shutil

import pytest
from kept_artifacts import V1, kept_copy

from halle_cli.app import app
from stages import info
from stages.artifacts.checkpoint import load_checkpoint
from stages.errors import StorageError, UsageError

FIGURES = {
    "manifest": ("manifest", {"utterances": 2, "speakers": 1, "longest_seconds": 0.25}),
    "manifest/manifest.jsonl": ("manifest", {"fingerprint": "fb3c868ed926"}),
    "store": ("token store", {"utterances": 2, "text_tokens": 23, "shards": 1, "fingerprint": "f4280f88ef3d"}),
    "store/store.json": ("token store", {"codec": "b7a6e70d6b11"}),
    "run": ("run", {"made_by": "halle train-ar", "checkpoints": [2], "loss": 2.5, "seconds_per_step": 0.25}),
    "run@step-2": ("checkpoint", {"of": "ar", "trainer_state": True}),
    "model": ("model", {"system": "halle", "sample_rate": 24_000}),
    "model/nar": ("checkpoint", {"of": "nar", "trainer_state": False}),
    "codec.pt": ("codec export", {"fingerprint": "6102a1be4df0", "streams": {"rvq": "2 x 240 Hz"}}),
    "evaluation": ("evaluation", {"set": "two", "systems": {"model": {"wer": "62.5 (2 of 2)"}}}),
    "speech.json": ("speech report", {"seconds": 0.25, "finished": True}),
    "speech.flac": ("speech report", {"audio": "speech.flac"}),
    "text_tokenizer.json": ("text tokenizer", {"entries": 40, "fingerprint": "b54b9626b5de"}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_kind_is_recognised_and_described(name):
    kind, figures = FIGURES[name]
    found = info.run(str(V1 / name))
    assert found["kind"] == kind and found["complete"]
    assert {key: found[key] for key in figures} == figures
    assert found["files"] >= 1 and found["megabytes"] > 0
    json.dumps(found)


def test_numbers_of_a_checkpoint_are_those_of_its_tensors():
    found = info.run(str(V1 / "run@step-2"))
    tensors = load_checkpoint(V1 / "run", "ar").tensors
    assert found["numbers"] == sum(tensor.numel() for tensor in tensors.values()) and found["types"]["F32"] > 0
    assert found["tensors"] == len(tensors) and "text_tokenizer_json" not in found["architecture"]


def test_parents_are_told():
    parents = info.run(str(V1 / "run"))["parents"]
    assert parents["codec"] == info.run(str(V1 / "store"))["codec"] and parents["init"] == "none"


def test_a_folder_of_artifacts_is_listed():
    found = info.run(str(V1))
    assert {row["name"]: row["kind"] for row in found["artifacts"]} == {
        name: kind for name, (kind, _) in FIGURES.items()
        if name in ("manifest", "store", "run", "model", "codec.pt", "evaluation", "speech.json",
                    "text_tokenizer.json")}


def test_a_damaged_header_is_named(tmp_path):
    folder = kept_copy("model", tmp_path) / "ar"
    (folder / "model.safetensors").write_bytes(b"\xff" * 30)
    with pytest.raises(StorageError, match=r"model\.safetensors` is damaged"):
        info.run(str(folder))


def test_what_is_no_artifact_is_refused(tmp_path):
    shutil.copy(V1 / "speech.flac", tmp_path)
    with pytest.raises(UsageError, match="expected an artifact of halle"):
        info.run(str(tmp_path / "speech.flac"))


def test_the_command_prints_it(capsys):
    with pytest.raises(SystemExit) as end:
        app(["info", str(V1 / "store")])
    assert end.value.code == 0 and "quant1" in capsys.readouterr().out
