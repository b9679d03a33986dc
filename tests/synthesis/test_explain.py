"""What is read aloud is shown before anything is spoken, and a passage to record is given; neither needs a model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pocketsphinx
import pytest
import torch
from tiny_chain import tiny_config
from tiny_tokens import TEXTS

from stages import synth
from stages.artifacts.checkpoint import save_checkpoint
from stages.errors import UsageError
from stages.synthesis import model
from stages.synthesis.explain import READING_PASSAGE
from stages.synthesis.pipeline import SpeechPipeline
from stages.text.normalizer import NORMALIZER_VERSION, normalize
from stages.text.tokenizer import TextTokenizer

TEXT = "Dr. Lee paid $5, and $5 more on 1/5/2024.\n\nThe FBI left at 5 p.m. Then it rained."


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    """Nothing here may load one, and none ships."""
    monkeypatch.delenv("HALLE_MODEL", raising=False)
    monkeypatch.setattr(model, "PACKAGED_MODEL", Path("none"))
    monkeypatch.setattr(SpeechPipeline, "__init__", lambda *_: pytest.fail("a model was loaded"))


def explained(**options) -> dict:
    return synth.run(tiny_config("synth", explain_text=True, **options))


def ar_model(folder: Path, text_tokenizer: TextTokenizer) -> Path:
    save_checkpoint(folder, "ar", {"text_tokenizer_json": text_tokenizer.to_json()}, {"w": torch.zeros(1)}, {})
    return folder


def test_every_change_is_shown_with_its_reason_and_what_is_read_by_sentence():
    told = explained(say=TEXT)
    assert told["changes"] == {
        "Dr. -> Doctor": "abbreviation", "$5 -> five dollars": "money, 2 times",
        "1/5/2024 -> January fifth, twenty twenty four": "date", "FBI -> F B I": "initials",
        "5 p.m -> five p m": "time",
    }
    assert list(told["sentences"].values()) == [
        "Doctor Lee paid five dollars, and five dollars more on January fifth, twenty twenty four.",
        "The F B I left at five p m.", "Then it rained."]
    assert told["normaliser"] == NORMALIZER_VERSION and told["words"] == 27
    assert "text_tokens" not in told
    json.dumps(told)


def test_the_sentences_are_the_whole_text():
    assert " ".join(explained(say=TEXT)["sentences"].values()) == normalize(TEXT)


def test_a_model_adds_how_many_tokens_it_reads_and_what_it_does_not_know(tmp_path):
    tokenizer = TextTokenizer.train([normalize(TEXT), *TEXTS])
    told = explained(say=TEXT + " π", ar=str(ar_model(tmp_path / "ar", tokenizer)))
    assert told["text_tokens"] == len(tokenizer.encode(normalize(TEXT)))
    assert told["left_out"] == "`π` (U+03C0) 1 time"
    in_sentences = [int(re.search(r"\((\d+) tokens\)", sentence)[1]) for sentence in told["sentences"].values()]
    assert sum(in_sentences) + 1 == told["text_tokens"]
    assert "model_normaliser" not in told


def test_the_model_that_ships_counts_the_tokens_where_none_is_given(speaking_model, monkeypatch):
    monkeypatch.setattr(model, "PACKAGED_MODEL", speaking_model)
    assert explained(say="Good evening.")["text_tokens"] == explained(say="Good evening.", model=str(speaking_model))[
        "text_tokens"] > 1


def test_a_model_that_learned_from_another_normaliser_is_told(tmp_path):
    old = TextTokenizer(*[getattr(TextTokenizer.train(TEXTS), name) for name in ("entries", "merges", "lowercase")],
                        normalizer="en-1")
    assert explained(say="Hi.", ar=str(ar_model(tmp_path / "ar", old)))["model_normaliser"].startswith("en-1")


def test_a_text_that_says_nothing_is_refused():
    with pytest.raises(UsageError, match="empty after normalisation"):
        explained(say="...")


def test_the_passage_has_every_phoneme_of_english_and_takes_some_twelve_seconds():
    dictionary = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    pronounced = {}
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        word, *phonemes = line.split()
        pronounced.setdefault(word, phonemes)
    words = re.findall(r"[a-z]+", READING_PASSAGE.lower())
    assert {phoneme for word in words for phoneme in pronounced[word]} == set().union(*pronounced.values())
    assert pytest.approx(len(words) / (160 / 60), abs=1) == 12  # calm reading: 160 words a minute
    assert normalize(READING_PASSAGE) == READING_PASSAGE


def test_the_passage_is_given_and_written_to_a_file(tmp_path):
    told = synth.run(tiny_config("synth", reading_passage=True))
    assert told["passage"] == READING_PASSAGE and "--prompt-text" in told["use"] and "quiet" in told["record"]
    told = synth.run(tiny_config("synth", reading_passage=True, out=str(tmp_path / "my.txt")))
    assert (tmp_path / "my.txt").read_text(encoding="utf-8") == READING_PASSAGE + "\n"
    assert f"--prompt {tmp_path / 'my.wav'}" in told["use"]


def test_the_passage_never_overwrites_a_recording(tmp_path):
    (tmp_path / "my.wav").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"expected a text file for the passage after --out, got .*my\.wav"):
        synth.run(tiny_config("synth", reading_passage=True, out=str(tmp_path / "my.wav")))
    assert (tmp_path / "my.wav").read_bytes() == b"mine"


def test_a_dry_run_writes_nothing(tmp_path):
    config = tiny_config("synth", reading_passage=True, out=str(tmp_path / "my.txt"))
    assert synth.plan(config) == {"writes": [str(tmp_path / "my.txt")]}
    assert synth.plan(tiny_config("synth", explain_text=True, say="Hi.")) == {"writes": []}
    assert not list(tmp_path.iterdir())


def test_the_passage_never_overwrites_other_words(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is there already"):
        synth.run(tiny_config("synth", reading_passage=True, out=str(tmp_path / "notes.txt")))
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    for _ in range(2):
        synth.run(tiny_config("synth", reading_passage=True, out=str(tmp_path / "my.txt")))
