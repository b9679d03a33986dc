"""The codec that ships with the package, on real speech."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.artifacts.storage import verify_checksums
from stages.audio.io import read_audio
from stages.codec.reconstruction import reconstruct_whole
from stages.codec.registry import load_codec
from stages.config.stage_configs import EvalConfig
from stages.metrics.base import MetricInput
from stages.metrics.quality import STOI
from stages.synthesis.model import PACKAGED_MODEL, find_codec

SHIPPED = PACKAGED_MODEL / "codec"
SPEECH = Path(__file__).parents[2] / "examples" / "speech" / "prompt.ogg"


@pytest.fixture(scope="module")
def codec():
    return load_codec(SHIPPED)


def test_it_is_whole_and_small() -> None:
    verify_checksums(SHIPPED)
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 30e6


def test_it_has_the_papers_hierarchy(codec) -> None:
    rates = {spec.name: (spec.num_codebooks, spec.frame_rate) for spec in codec.transmitted}
    assert rates == {"quant1": (6, 8.0), "quant2": (6, 16.0), "quant3": (4, 24.0), "quant4": (3, 48.0)}
    assert codec.bits_per_second == 3840


def test_speech_survives_it_and_dies_without_the_8_hz_codes(codec) -> None:
    speech = read_audio(SPEECH, codec.sample_rate)
    codes = codec.encode(torch.from_numpy(speech)[None, None])
    with torch.inference_mode():
        broken = codec.decode({**codes, "quant1": torch.zeros_like(codes["quant1"])}, len(speech))[0, 0].numpy()
    kept, lost = (STOI().measure(MetricInput("", codec.sample_rate, output, reference=speech)).value
                  for output in (reconstruct_whole(codec, speech), broken))
    assert kept > 0.85 and lost < kept - 0.2


def test_an_evaluation_of_codecs_takes_it_unless_another_is_named(monkeypatch) -> None:
    monkeypatch.delenv("HALLE_MODEL", raising=False)
    settings = EvalConfig(set="x", setting="reconstruction")
    assert find_codec(settings) == str(SHIPPED)
    assert find_codec(settings.model_copy(update={"codec": "mine"})) == "mine"
