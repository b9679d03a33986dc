"""The worked example of a plugged-in codec, at a tiny size: DAC's public weights cannot be had everywhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from codec_runs import make_manifest, mreq_config
from typer.testing import CliRunner

from halle_cli.app import app
from stages import mreq
from stages.codec import foreign
from stages.codec.registry import load_codec, load_teacher
from stages.errors import MissingModelError

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "new_codec"
MAKER = "dac_teacher:make"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A small random DAC with the strides of the 24 kHz one, where `make` looks for weights."""
    torch.manual_seed(0)
    shape = {"encoder_hidden_size": 2, "downsampling_ratios": [2, 4, 5, 8], "decoder_hidden_size": 16,
             "n_codebooks": 9, "codebook_size": 16, "codebook_dim": 4, "sampling_rate": 24_000}  # fmt: skip
    model = transformers.DacModel(transformers.DacConfig(**shape)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("alpha"):  # snake divides by it
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "dac")
    monkeypatch.setenv("DAC_WEIGHTS", str(tmp_path / "dac"))
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.setattr(foreign, "_named_on_the_command_line", set())
    return model


@pytest.fixture
def own_logging(monkeypatch):
    """Give the logger back as it was: a console in this process takes it over."""
    logger = logging.getLogger("halle")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))


def test_the_teacher_gives_the_codes_and_sums_of_dac(weights) -> None:
    codec = load_teacher(MAKER)
    assert (codec.streams[0].frame_rate, codec.num_codebooks, codec.latent_dim) == (75.0, 8, 32)
    wave = 0.1 * torch.randn(2, 1, 9600, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = weights.encode(wave, n_quantizers=8)
        waveform = weights.decode(theirs.quantized_representation).audio_values.unsqueeze(1)
    codes = codec.encode(wave)["rvq"]
    assert torch.equal(codes, theirs.audio_codes) and len(codes.unique()) > 2
    torch.testing.assert_close(codec.embed(codes), theirs.quantized_representation, rtol=1e-4, atol=1e-5)
    ours = codec.decode({"rvq": codes})
    assert ours.shape[-1] - waveform.shape[-1] == 8, "what strides of 5 lose"
    same = codec.decode_latents(theirs.quantized_representation)[..., :-8]
    assert torch.equal(same, waveform) and (ours[..., :-8] - same).abs().max() < 0.01 * waveform.abs().max()


def test_dac_becomes_multi_resolution_and_is_loaded_by_permission_only(weights, tmp_path, monkeypatch) -> None:
    data = make_manifest(tmp_path / "data")
    result = mreq.run(mreq_config(data, MAKER, tmp_path / "run", 2))
    assert result["bits_per_second"] == result["teacher_bits_per_second"] == 8 * 75 * 4
    codec = load_codec(result["codec"])
    assert [spec.frame_rate for spec in codec.transmitted] == [12.5, 25.0, 37.5, 75.0]
    assert codec.decode(codec.encode(torch.zeros(1, 1, 5000)), 5000).shape == (1, 1, 5000)

    monkeypatch.setattr(foreign, "_named_on_the_command_line", set())
    with pytest.raises(MissingModelError, match="dac_teacher:make"):
        load_codec(tmp_path / "run")
    monkeypatch.setenv("HALLE_CODECS", MAKER)
    monkeypatch.delenv("DAC_WEIGHTS")  # the student needs DAC's shape, which it knows, and not its weights
    assert load_codec(tmp_path / "run").alignment == 1920


def test_the_command_of_its_page_shows_the_blocks_of_its_rates(weights, own_logging, tmp_path) -> None:
    data = make_manifest(tmp_path / "data")
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert f"PYTHONPATH=examples/new_codec halle mreq --teacher {MAKER} --data data/mine" in page
    options = ["mreq", "--teacher", MAKER, "--data", str(data), "--out", str(tmp_path / "run"), "--preset", "smoke"]
    done = CliRunner().invoke(app, [*options, "--rates", "12.5,75", "--dry-run", "--json"])
    plan = json.loads(done.stdout)["plan"]
    assert plan["blocks"] == {"12.5 Hz": "1-6-1, stride 6", "75 Hz": "7-0-0, stride 1"}
    assert plan["bits_per_second"] == plan["teacher_bits_per_second"] == 8 * 75 * 4
    refused = CliRunner().invoke(app, [*options, "--rates", "8,75", "--dry-run"])
    assert refused.exit_code == 2 and "37.5, 25, 18.75, 15, 12.5" in refused.stderr
