from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.artifacts.manifest import Utterance
from stages.codec.residual import ResidualCodec
from stages.config.models import CodecConfig, QuantizerConfig, SpectralConfig
from stages.data import encoding
from stages.data.encoding import Batch, encode_batch, encode_batches
from stages.errors import StorageError
from stages.text.corpus import Item


@pytest.fixture(scope="module")
def codec() -> ResidualCodec:
    torch.manual_seed(0)
    spectral = SpectralConfig(channels=8, ffn_dim=8, latent_dim=8, encoder_blocks=1, decoder_blocks=1)
    config = CodecConfig(arch="spectral", spectral=spectral, quantizer=QuantizerConfig(codebook_size=16))
    return ResidualCodec(config).eval()


def batches(count: int) -> list[Batch]:
    generator = np.random.default_rng(0)
    items = [Item(Utterance(id=f"u{index}", audio=Path("x"), start=0.0, duration=0.1, speaker="s", text="a",
                            split="train"), "a") for index in range(count)]  # fmt: skip
    return [[(item, generator.normal(0, 0.1, 2000).astype(np.float32))] for item in items]


def test_two_workers_encode_at_a_time(codec: ResidualCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=20)
    encode = encoding.encode_batch

    def meeting(*arguments: object) -> object:
        together.wait()
        return encode(*arguments)

    monkeypatch.setattr(encoding, "encode_batch", meeting)
    assert len(list(encode_batches(codec, batches(4), workers=2))) == 4


def test_workers_keep_the_order_and_the_codes(codec: ResidualCodec) -> None:
    one, three = (list(encode_batches(codec, batches(9), workers)) for workers in (1, 3))
    assert [batch[0][0].utterance.id for batch, _ in three] == [f"u{index}" for index in range(9)]
    for (_, first), (_, second) in zip(one, three, strict=True):
        np.testing.assert_array_equal(first[0]["rvq"], second[0]["rvq"])


def test_torchs_threads_are_given_back_when_encoding_ends_or_fails(codec: ResidualCodec,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        monkeypatch.setattr(encoding, "encode_batch", lambda *_: [seen.append(torch.get_num_threads())])
        list(encode_batches(codec, batches(2), workers=2))
        assert seen == [1, 1] and torch.get_num_threads() == 3
        monkeypatch.setattr(encoding, "encode_batch", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(encode_batches(codec, batches(2), workers=2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_codes_beyond_16_bits_are_refused(codec: ResidualCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "encode", lambda batch: {"rvq": torch.full((len(batch), 3, 1), 70_000)})
    with pytest.raises(StorageError, match="tokens outside"):
        encode_batch(codec, [np.zeros(500, np.float32)])
