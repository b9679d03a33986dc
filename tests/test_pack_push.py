"""A model folder on its way to the hub: what is sent, what is refused, and what to do where it cannot be; against a
stand-in."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from tiny_chain import SPEECH, tiny_config

from stages import pack, synth
from stages.artifacts import model_hub
from stages.artifacts.checkpoint import load_checkpoint, save_checkpoint
from stages.artifacts.model_folder import MODEL_FILES
from stages.artifacts.storage import read_json, write_checksums, write_json
from stages.codec.registry import codec_fingerprint, load_codec
from stages.config.resolve import resolve
from stages.data.likeness import given_tokenizer, read_likeness, with_codec
from stages.data.starting_model import keep_architecture
from stages.errors import MissingModelError, StorageError, UsageError
from stages.reports.model_card import About
from stages.synthesis.sources import part_fingerprints


@pytest.fixture
def model(speaking_model, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(speaking_model, tmp_path / "model"))


def push(folder: Path, name: str = "org/name", **about) -> dict:
    return pack.run(None, None, None, str(folder), about=About(**about), push=name)


def test_what_is_pushed_is_the_model_its_card_and_its_licence_in_one_commit(hub, model):
    told = push(model)
    files = hub.files("org/name")
    assert set(files) - {".gitattributes"} == {*MODEL_FILES, "README.md", "LICENSE"}
    assert all(files[name] == (model / name).read_bytes() for name in MODEL_FILES)
    assert files["LICENSE"] == (model / "LICENSE").read_bytes() and b"licenses/by/4.0/legalcode" in files["LICENSE"]
    assert told["commit"] == hub.sha("org/name") and told["pushed"] == f"{hub.url}/org/name"
    assert len(hub.messages) == 1 and hub.messages[0].startswith("halle model")
    _, matter, card = files["README.md"].decode().split("---\n", 2)
    said = yaml.safe_load(matter)
    assert said["license"] == "cc-by-4.0" and said["language"] == ["en"] and "text-to-speech" in said["tags"]
    assert said["pipeline_tag"] == "text-to-speech" and said["library_name"] == "halle"
    assert "# name\n" in card and "--model org/name" in card


def test_a_pushed_model_speaks_by_its_name_and_is_the_one_that_was_pushed(hub, model, tmp_path):
    push(model)
    settings = {"say": "Good evening.", "prompt": str(SPEECH / "prompt.ogg"), "max_seconds": 0.5,
                "allow_unfinished": True}
    synth.run(tiny_config("synth", model=str(model), out=str(tmp_path / "here.wav"), **settings))
    synth.run(tiny_config("synth", model="org/name", out=str(tmp_path / "there.wav"), **settings))
    assert (tmp_path / "there.wav").read_bytes() == (tmp_path / "here.wav").read_bytes()


def test_pushing_again_changes_the_model_that_is_there(hub, model):
    push(model)
    (model / "MODEL_CARD.md").write_text("# Mine\n", encoding="utf-8")
    push(model)
    assert hub.files("org/name")["README.md"].endswith(b"---\n\n# Mine\n") and len(hub.messages) == 2


def test_a_card_with_its_own_metadata_keeps_it(hub, model):
    (model / "MODEL_CARD.md").write_text("---\nlicense: cc0-1.0\ntags: [mine]\n---\n# Mine\n", encoding="utf-8")
    (model / "LICENSE").unlink()
    push(model)
    said = yaml.safe_load(hub.files("org/name")["README.md"].decode().split("---\n")[1])
    assert said["license"] == "cc0-1.0" and said["tags"] == ["mine"] and said["library_name"] == "halle"
    assert b"publicdomain/zero/1.0" in hub.files("org/name")["LICENSE"]
    push(model, license="cc-by-4.0")
    assert b"license: cc-by-4.0" in hub.files("org/name")["README.md"]


def test_without_a_licence_nothing_is_published(hub, model):
    write_json(model / "model.json", {key: value for key, value in read_json(model / "model.json").items()
                                      if key != "license"})
    write_checksums(model, exclude=("MODEL_CARD.md", "LICENSE"))
    with pytest.raises(UsageError, match="expected the licence of the model") as caught:
        push(model)
    assert "--license" in caught.value.hint and "org/name" not in hub.repos


def test_a_licence_whose_text_halle_does_not_know_wants_its_text_in_the_folder(hub, model):
    with pytest.raises(UsageError, match=r"expected the text of licence `my own`.*LICENSE`, got none"):
        push(model, license="my own")
    (model / "LICENSE").write_text("Ask me.\n", encoding="utf-8")
    push(model, license="my own")
    said = yaml.safe_load(hub.files("org/name")["README.md"].decode().split("---\n")[1])
    assert (said["license"], said["license_name"], said["license_link"]) == ("other", "my own", "LICENSE")
    assert hub.files("org/name")["LICENSE"] == b"Ask me.\n"


def test_a_folder_that_holds_more_than_a_model_is_refused(hub, model):
    (model / ".cache").mkdir()
    (model / ".cache" / "note").touch()  # as the hub's own tools leave there: not part of it, and not sent
    push(model)
    (model / "ar" / "optimizer.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(UsageError, match=r"got `ar/optimizer\.pt` in"):
        push(model)
    assert not any(name.endswith((".pt", "note")) for name in hub.files("org/name"))


def test_a_pickle_in_the_place_of_safetensors_is_refused(hub, model):
    (model / "ar" / "model.safetensors").write_bytes(pickle.dumps({"weight": 1}))
    write_checksums(model / "ar")
    write_checksums(model, exclude=("MODEL_CARD.md", "LICENSE"))
    with pytest.raises(StorageError, match=r"ar/model\.safetensors` is damaged or not a safetensors file"):
        push(model)
    assert hub.asked == []


def test_parts_of_another_model_are_refused(hub, model):
    part = load_checkpoint(model / "ar")
    save_checkpoint(model / "ar", "ar", {**part.architecture, "max_frames": 7}, part.tensors, part.parents)
    write_checksums(model, exclude=("MODEL_CARD.md", "LICENSE"))
    with pytest.raises(StorageError, match="the fingerprint differs of `ar`"):
        push(model)


@pytest.mark.parametrize("name", ["model", "org/name/more", "org name", "../model"])
def test_another_word_than_a_name_is_refused(model, name):
    with pytest.raises(UsageError, match="expected a name of the hub"):
        push(model, name)


def test_without_a_token_one_is_told_to_log_in_and_what_to_type_then(hub, model, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MissingModelError, match="there is no token") as caught:
        push(model)
    assert caught.value.exit_code == 7 and hub.asked == []
    assert "hf auth login" in caught.value.hint and f"halle pack --out {model} --push org/name" in caught.value.hint


@pytest.mark.parametrize("name, token", [("org/name", "hf_wrong"), ("others/name", None)])
def test_a_token_that_may_not_write_there_is_told(hub, model, monkeypatch, name, token):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(MissingModelError, match=f"nothing was pushed to `{name}`") as caught:
        push(model, name)
    assert "a token that may write there" in caught.value.hint and hub.repos == {}


def test_without_network_one_is_told_what_to_type_where(hub, model, monkeypatch):
    hub.hold = threading.Event()
    monkeypatch.setattr(model_hub, "ANSWER_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(MissingModelError, match=r"no answer within 0\.3 s") as caught:
        push(model)
    assert time.monotonic() - began < 3 and "on a machine with network" in caught.value.hint
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingModelError, match="HF_HUB_OFFLINE is set") as caught:
        push(model)
    assert f"halle pack --out {model} --push org/name" in caught.value.hint


def test_metadata_that_the_hub_refuses_is_the_cards_fault(hub, model):
    (model / "MODEL_CARD.md").write_text("---\nlicense: nonsense\n---\n# Mine\n", encoding="utf-8")
    (model / "LICENSE").write_text("Ask me.\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"the hub refuses the card of `org/name`: .*must be one of"):
        push(model)
    assert hub.messages == []


@pytest.mark.parametrize("options, says", [
    ({"codec": None}, "expected a codec"),
    ({"codec": None, "half": True, "push": "org/name"}, "expected a codec"),
    ({"codec": "c", "push": "org/name"}, "expected a whole model to push"),
    ({"codec": "c", "about": About(license="mit")}, "expected a whole model to push, to sample or to write a card for"),
])  # fmt: skip
def test_options_that_say_nothing_together_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        pack.run(**{"ar": None, "nar": None, "out": "nowhere", **options})


def test_a_name_is_taken_wherever_a_model_folder_is(hub, model, tmp_path):
    push(model)
    codec, ar, nar = (load_checkpoint(model / part).fingerprint for part in ("codec", "ar", "nar"))
    assert codec_fingerprint(load_codec("org/name")) == codec
    assert part_fingerprints({"codec": "org/name", "ar": str(model / "ar")}) == {"codec": codec, "ar": ar}
    assert read_likeness("org/name").codec == codec
    like = tiny_config("tokenize", like="org/name")
    assert with_codec(like).codec == "org/name" and given_tokenizer(like) is not None
    assert given_tokenizer(tiny_config("tokenize", "text_vocab_size=60", text_tokenizer="org/name")) is not None
    for stage, kind, found in (("train-ar", "ar", ar), ("train-nar", "nar", nar)):
        config = resolve(stage, "finetune", options={"init": "org/name", "tokens": "t", "out": "o"})
        assert keep_architecture(config, kind).codec == "org/name"
        assert load_checkpoint("org/name", kind).fingerprint == found
    shipped = pack.run("org/name", None, None, str(tmp_path / "codec"))
    assert shipped["fingerprint"] == codec
    assert load_checkpoint(tmp_path / "codec").parents == load_checkpoint(model / "codec").parents
