"""What `make bench` compares computes the same; how fast is not tested."""

from __future__ import annotations

import pytest
import torch
from speed import build_ours, build_peer, make_corpus, measure_tokenize, remove_weight_norm, take_turns

from stages.artifacts.manifest import read_manifest
from stages.codec.inference import for_inference
from stages.config.models import CodecConfig, QuantizerConfig, SEANetConfig

TINY = CodecConfig(seanet=SEANetConfig(base_filters=4, latent_dim=16), quantizer=QuantizerConfig(codebook_size=32))


@pytest.mark.filterwarnings("ignore")
def test_both_sides_give_the_same_codes_and_sound() -> None:
    torch.manual_seed(0)
    waveform = 0.1 * torch.randn(2, 1, 12_000)
    with torch.no_grad():
        peer = build_peer(TINY)
        ours = for_inference(build_ours(TINY, peer))
        (codes, _), = theirs = remove_weight_norm(peer).encode(waveform)
        assert torch.equal(ours.encode(waveform)["rvq"], codes)
        torch.testing.assert_close(ours.decode({"rvq": codes}), peer.decode(theirs), rtol=1e-4, atol=1e-5)


def test_sides_take_turns_and_the_first_turn_is_left_out() -> None:
    called = []
    sides = {"a": lambda _: called.append("a"), "b": lambda _: called.append("b")}
    seconds = take_turns(sides, torch.zeros(1), 2)
    assert called == ["a", "b"] * 3 and {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


def test_the_corpus_is_as_long_as_asked(tmp_path) -> None:
    total = make_corpus(tmp_path, 40)
    assert total >= 40 and sum(row.duration for row in read_manifest(tmp_path).utterances) == pytest.approx(total)


def test_tokenising_is_measured_with_the_codec_that_ships(capsys) -> None:
    measure_tokenize(minutes=0.05, workers=1)
    assert "x real time by the clock" in capsys.readouterr().out
