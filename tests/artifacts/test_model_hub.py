"""Models of the hub by name: what is one, what is fetched of it, and what happens without it; against a stand-in."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from hub_stand_in import Hub

from stages.artifacts import model_hub
from stages.artifacts.checkpoint import load_checkpoint
from stages.artifacts.model_folder import MODEL_FILES
from stages.artifacts.model_hub import ANSWER_SECONDS, HubName, fetch_model, hub_name, local_copy
from stages.errors import MissingModelError, StorageError, UsageError

NAME = HubName("org/name")


@pytest.fixture
def pushed(hub: Hub, speaking_model: Path) -> Path:
    """A model folder that `org/name` is a copy of, among other files there."""
    hub.commit("org/name", {file: (speaking_model / file).read_bytes() for file in MODEL_FILES})
    hub.commit("org/name", {"pytorch_model.bin": b"a pickle", "codec/extra.json": b"{}", "README.md": b"# Card"})
    return speaking_model


def reach_nothing(monkeypatch) -> None:
    """Let nobody listen where the hub should be."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    fetch_model.cache_clear()


@pytest.mark.parametrize("text, name", [
    ("org/name", HubName("org/name")),
    ("Org-1/my_model.v2@v1.0", HubName("Org-1/my_model.v2", "v1.0")),
    ("hf://there/name", HubName("there/name")),
    ("name", None), ("./org/name", None), ("../org", None), ("/org/name", None), ("a/b/c", None), ("org/", None),
    ("there/is", None), ("there/none", None), ("there/is@step-5", None),
    ("gone/encodec.pt", None), ("package.module:make", None),
])  # fmt: skip
def test_a_name_is_told_from_a_path(text, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "is").mkdir(parents=True)
    assert hub_name(text) == name
    assert name is not None or local_copy(text) == Path(text)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub_name("org/name") is None and hub_name("hf://org/name") == HubName("org/name")


def test_only_the_files_of_a_model_are_fetched_and_they_are_the_same(hub, pushed):
    folder = fetch_model(NAME)
    assert hub.sent() == sorted(MODEL_FILES)
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()) == \
        sorted(MODEL_FILES)
    assert all((folder / file).read_bytes() == (pushed / file).read_bytes() for file in MODEL_FILES)
    assert load_checkpoint("org/name", "ar").fingerprint == load_checkpoint(pushed, "ar").fingerprint


def test_a_model_is_fetched_once_and_again_when_it_has_changed(hub, pushed):
    first = fetch_model(NAME)
    hub.asked.clear()
    fetch_model.cache_clear()
    assert fetch_model(NAME) == first and hub.sent() == []
    hub.commit("org/name", {"model.json": (pushed / "model.json").read_bytes()})
    fetch_model.cache_clear()
    assert fetch_model(NAME) != first


def test_what_was_fetched_is_there_offline(hub, pushed, monkeypatch):
    folder = fetch_model(NAME)
    fetch_model.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert fetch_model(NAME) == folder and hub.asked == []


def test_what_was_fetched_is_there_when_the_hub_is_not(hub, pushed, monkeypatch, caplog):
    folder = fetch_model(NAME)
    reach_nothing(monkeypatch)
    assert fetch_model(NAME) == folder
    assert "taking the copy that was fetched before" in caplog.text


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_without_network_one_is_told_what_to_type_where(hub, pushed, monkeypatch, revision):
    reach_nothing(monkeypatch)
    with pytest.raises(MissingModelError, match="could not be had from the hub") as caught:
        fetch_model(HubName("org/name", revision))
    option = f" --revision {revision}" if revision else ""
    assert caught.value.exit_code == 7
    assert f"hf download org/name{option} --local-dir MODEL" in caught.value.hint
    assert f"in place of `{HubName('org/name', revision)}`" in caught.value.hint


def test_offline_what_was_never_fetched_is_missing(hub, pushed, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingModelError, match="HF_HUB_OFFLINE is set") as caught:
        fetch_model(NAME)
    assert "hf download org/name --local-dir MODEL" in caught.value.hint and hub.asked == []


def test_half_a_download_is_no_copy(hub, pushed, monkeypatch):
    folder = fetch_model(NAME)
    (folder / "nar" / "model.safetensors").unlink()
    reach_nothing(monkeypatch)
    with pytest.raises(MissingModelError):
        fetch_model(NAME)


def test_a_hub_that_says_nothing_is_not_waited_for(hub, pushed, monkeypatch):
    assert ANSWER_SECONDS <= 8
    hub.hold = threading.Event()
    monkeypatch.setattr(model_hub, "ANSWER_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(MissingModelError, match=r"no answer within 0\.3 s|timed out"):
        fetch_model(NAME)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("name", ["org/none", "org/name"])
def test_a_name_that_is_not_there_or_private_is_told_from_no_network(hub, pushed, monkeypatch, name):
    hub.private.add("org/name")
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    with pytest.raises(MissingModelError, match="no model of the hub that you may read") as caught:
        fetch_model(HubName(name))
    assert "check the name" in caught.value.hint and "hf auth login" in caught.value.hint


def test_a_repository_of_something_else_is_refused_before_anything_is_fetched(hub, pushed):
    hub.commit("org/bert", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
    with pytest.raises(UsageError, match=r"got `org/bert` of the hub, which lacks `model\.json`, .* and 8 more"):
        fetch_model(HubName("org/bert"))
    assert hub.sent() == []


def test_a_damaged_model_is_not_used(hub, pushed):
    damaged = bytearray((pushed / "ar" / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    hub.commit("org/name", {"ar/model.safetensors": bytes(damaged)})
    with pytest.raises(StorageError, match=r"ar/model\.safetensors` is damaged") as caught:
        fetch_model(NAME)
    assert "hf download org/name --force-download" in caught.value.hint
