"""`halle mreq` on Meta's EnCodec, and with other hierarchies than Table 1's."""

from __future__ import annotations

import pytest
import torch
from codec_runs import codec_config, make_manifest, mreq_config

from stages import mreq, train_codec
from stages.codec.registry import load_codec
from stages.errors import UsageError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def meta(tmp_path_factory):
    """A small Hugging Face EnCodec with the ratios of the 24 kHz one and 12 codebooks."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(num_filters=2, hidden_size=16, codebook_size=16, target_bandwidths=[3.6])
    model = transformers.EncodecModel(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("meta") / "hub"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "teacher"
    train_codec.run(codec_config(data, out, 1))
    return out / "encodec.pt"


def test_metas_encodec_becomes_12_to_75_hz_with_the_blocks_of_table_1(meta, data, tmp_path) -> None:
    result = mreq.run(mreq_config(data, meta, tmp_path / "run", 2))
    codec = load_codec(tmp_path / "run")
    assert [spec.frame_rate for spec in codec.transmitted] == [12.5, 25.0, 37.5, 75.0]
    assert [spec.num_codebooks for spec in codec.transmitted] == [6, 6, 4, 3]
    assert codec.alignment == 1920
    assert result["bits_per_second"] == result["teacher_bits_per_second"] == 8 * 75 * 4
    assert not codec.config.seanet.true_skip and codec.config.seanet.pad_mode == "reflect"


def test_rates_choose_the_blocks_of_a_run(plain, data, tmp_path) -> None:
    options = {"rates": (8, 16, 48), "alphas": (1, 3, 4)}
    config = mreq_config(data, plain, tmp_path / "run", 1).model_copy(update=options)
    planned = mreq.plan(config)
    assert planned["blocks"] == {"8 Hz": "1-6-1, stride 6", "16 Hz": "3-9-3, stride 3", "48 Hz": "4-0-0, stride 1"}
    assert planned["bits_per_second"] == planned["teacher_bits_per_second"]
    mreq.run(config)
    codec = load_codec(tmp_path / "run")
    assert [(spec.frame_rate, spec.num_codebooks) for spec in codec.transmitted] == [(8.0, 6), (16.0, 9), (48.0, 4)]


def test_a_run_may_be_continued_with_its_blocks_given_in_another_way(plain, data, tmp_path) -> None:
    out = tmp_path / "run"
    mreq.run(mreq_config(data, plain, out, 1))
    same = mreq_config(data, plain, out, 2, "rates=[8, 16, 24, 48]")
    assert mreq.run(same)["steps"] == 2
    with pytest.raises(UsageError, match=r"mrvq\.blocks"):
        mreq.run(mreq_config(data, plain, out, 3, "rates=[8, 48]"))


def test_rates_that_the_teacher_cannot_give_are_refused(plain, meta, data, tmp_path) -> None:
    for teacher, usable in ((plain, "24, 16, 12, 9.6, 8, "), (meta, "37.5, 25, 18.75, 15, 12.5, ")):
        with pytest.raises(UsageError, match="expected frame rates that divide") as caught:
            mreq.plan(mreq_config(data, teacher, tmp_path / "run", 1, "rates=[11, 48]"))
        assert usable in caught.value.hint
