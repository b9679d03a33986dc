"""A codec that starts from the encoder and decoder of another, plain or multi-resolution."""

from __future__ import annotations

import pytest
import torch
from codec_runs import codec_config, make_manifest, mreq_config

from stages import mreq, train_codec
from stages.artifacts.checkpoint import load_checkpoint
from stages.codec.registry import codec_fingerprint, load_codec
from stages.errors import HalleError, UsageError
from stages.training.loop import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "codec"
    train_codec.run(codec_config(data, out, 3))
    return out


@pytest.fixture(scope="module")
def multi_resolution(data, plain, tmp_path_factory):
    out = tmp_path_factory.mktemp("multi") / "mreq"
    mreq.run(mreq_config(data, plain, out, 2))
    return out


def from_codec(data, out, init, *overrides):
    return codec_config(data, out, 2, f"init={init}", *overrides)


def test_encoder_and_decoder_are_taken_over_and_codebooks_are_new(data, plain, multi_resolution, tmp_path):
    for init in (plain, multi_resolution):
        config = from_codec(data, tmp_path / init.name, init)
        task = train_codec.CodecTask(config, train_codec._open(config), Run(config))
        theirs = load_codec(init).autoencoder.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in task.codec.autoencoder.state_dict().items())
        assert not task.codec.quantizer.initialised


def test_a_run_records_what_it_started_from_and_refuses_to_go_on_from_another(
    data, plain, multi_resolution, tmp_path
):
    out = tmp_path / "run"
    train_codec.run(from_codec(data, out, multi_resolution))
    assert load_codec(out).encode(torch.zeros(1, 1, 24_000))["rvq"].shape == (1, 8, 48)
    assert load_checkpoint(out).parents["init"] == codec_fingerprint(load_codec(multi_resolution))
    for other in (plain, None):
        with pytest.raises(HalleError, match="init"):
            train_codec.run(codec_config(data, out, 3, *([f"init={other}"] if other else [])))


@pytest.mark.parametrize(("override", "message"), [
    ("codec.seanet.base_filters=4", "`base_filters` 2 instead of 4"),
    ("codec.arch=spectral", "expected a codec of arch `spectral` to start from, got `encodec`"),
])
def test_a_codec_of_another_shape_is_refused(override, message, data, plain, tmp_path):
    with pytest.raises(UsageError, match=message):
        train_codec.run(from_codec(data, tmp_path / "run", plain, override))
    assert not (tmp_path / "run").exists()
