"""The model that ships with the package: whole, small, described, and it speaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import synth
from stages.artifacts.model_folder import PARTS, verify_model
from stages.artifacts.storage import read_json
from stages.audio.io import read_audio
from stages.config.resolve import resolve
from stages.metrics.base import MetricInput
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.summary import numbers_of
from stages.speech.transcriber import load_transcriber
from stages.synthesis.model import PACKAGED_MODEL

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
TEXT = (SPEECH / "script.txt").read_text(encoding="utf-8")


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def test_it_is_whole_and_small():
    described = verify_model(PACKAGED_MODEL)
    assert described["system"] == "halle" and described["parameters"].keys() == set(PARTS)
    assert megabytes(PACKAGED_MODEL / "codec") <= 30
    assert megabytes(PACKAGED_MODEL / "ar") + megabytes(PACKAGED_MODEL / "nar") <= 60


def test_its_card_says_where_it_comes_from_and_whose_consent_it_takes():
    card = (PACKAGED_MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("consent", "synthetic", "WordNet 3.0", "Carnegie Mellon", "CC0", "flite"):
        assert word in card, word
    assert read_json(PACKAGED_MODEL / "model.json")["license"] == "apache-2.0"


def test_it_speaks_a_text_to_its_end_in_words_that_are_partly_heard(tmp_path, monkeypatch):
    pytest.importorskip("pocketsphinx")
    monkeypatch.delenv("HALLE_MODEL", raising=False)
    out = tmp_path / "speech.wav"
    config = resolve("synth", options={"say": TEXT, "prompt": str(SPEECH / "prompt.ogg"), "out": str(out)})
    synth.run(config)
    said = read_json(out.with_suffix(".json"))
    assert said["synthetic"] is True and said["finished"] is True
    waveform = read_audio(out, 24_000)
    assert 15 < len(waveform) / 24_000 < 30
    heard, metric = load_transcriber("pocketsphinx").transcribe(waveform, 24_000).text, CorpusWER()
    measured = metric.measure(MetricInput(TEXT, 24_000, waveform, transcript=heard))
    errors = metric.summarise(numbers_of(metric, [measured]))
    assert errors < 80, heard  # babble has 100 and more
