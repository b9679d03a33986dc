"""Which model speaks where none is given: $HALLE_MODEL, else the one that ships, else an error that says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_chain import SPEECH, tiny_config
from tiny_model_folder import tiny_model_folder

from stages import synth
from stages.artifacts.storage import read_json
from stages.errors import MissingModelError
from stages.synthesis import model
from stages.synthesis.model import find_codec, find_parts
from stages.synthesis.sources import find_sources

PROMPT = str(SPEECH / "prompt.ogg")


@pytest.fixture
def shipped(speaking_model, tmp_path, monkeypatch) -> Path:
    """A model in the place of the one that ships."""
    monkeypatch.delenv("HALLE_MODEL", raising=False)
    folder = Path(shutil.copytree(speaking_model, tmp_path / "halle-mini"))
    monkeypatch.setattr(model, "PACKAGED_MODEL", folder)
    return folder


def test_the_shipped_model_speaks_where_none_is_named(shipped, tmp_path):
    out = tmp_path / "x.wav"
    synth.run(tiny_config("synth", say="Good evening.", prompt=PROMPT, out=str(out), max_seconds=0.5,
                          allow_unfinished=True))
    assert read_json(tmp_path / "x.json")["model"] == read_json(shipped / "model.json")["fingerprints"]
    assert out.stat().st_size > 0


def test_an_evaluation_takes_the_shipped_model_and_calls_it_by_its_name(shipped):
    settings = tiny_config("eval", set="x")
    (source,) = find_sources(settings, [])
    assert source.name == "halle-mini" and source.speaks and str(shipped / "nar") in source.what
    assert find_codec(settings) == str(shipped / "codec")


def test_one_that_is_named_goes_before_the_environment_and_that_before_the_shipped_one(shipped, tmp_path, monkeypatch):
    mine, given = (tiny_model_folder(tmp_path / name) for name in ("mine", "given"))
    assert find_parts(tiny_config("synth"))["ar"] == str(shipped / "ar")
    monkeypatch.setenv("HALLE_MODEL", str(mine))
    assert find_parts(tiny_config("synth")) == {part: str(mine / part) for part in ("codec", "ar", "nar")}
    assert find_parts(tiny_config("synth", model=str(given)))["nar"] == str(given / "nar")
    assert find_parts(tiny_config("synth", ar="run"))["ar"] == "run"


def test_a_codec_alone_that_ships_does_not_speak(shipped):
    for name in ("ar", "nar"):
        shutil.rmtree(shipped / name)
    (shipped / "model.json").unlink()
    for run in (lambda: synth.plan(tiny_config("synth", say="Hi.", prompt=PROMPT)),
                lambda: find_sources(tiny_config("eval", set="x"), [])):
        with pytest.raises(MissingModelError, match="none that speaks ships") as caught:
            run()
        assert caught.value.exit_code == 7
        assert all(word in caught.value.hint for word in ("--model DIR", "HALLE_MODEL", "make demo"))
    assert find_codec(tiny_config("eval", set="x", setting="reconstruction")) == str(shipped / "codec")


def test_an_environment_that_names_no_model_is_not_passed_over(shipped, tmp_path, monkeypatch):
    monkeypatch.setenv("HALLE_MODEL", str(tmp_path / "none"))
    with pytest.raises(MissingModelError, match=r"\$HALLE_MODEL names `.*none`, which is not a model folder"):
        find_parts(tiny_config("synth"))
