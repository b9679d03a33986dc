"""What the mini recipe's `refine.py` predicts and what it leaves as it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.config.models import NARConfig, TransformerConfig
from stages.data.token_codec import open_codec, streams_of
from stages.data.tokens import open_tokens
from stages.lm.nar import NARModel, Refinement, refine

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "mini" / "refine.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mini_refine", SCRIPT)
    module = sys.modules["mini_refine"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_levels_are_true_up_to_the_number_asked_for_and_predicted_above(script, halle_tokens):
    store, codec = halle_tokens
    data = open_tokens(store, None)
    codec = open_codec(str(codec), data)
    hierarchy, utterance = codec.hierarchy, data.store[int(data.train[0])]
    true = streams_of(utterance, torch.device("cpu"))
    text = torch.from_numpy(utterance.text_tokens.astype("int64"))[None]
    transformer = TransformerConfig(dim=32, num_heads=2, num_layers=1, ffn_dim=64)
    nar = NARModel(NARConfig(transformer=transformer, num_levels=hierarchy.num_levels, latent_dim=hierarchy.latent_dim,
                             codebook_size=hierarchy.codebook_size, text_vocab_size=data.tokenizer.vocab_size)).eval()
    nar.head_weight.data.normal_()

    def refined(true_levels):
        return script.refine_below(nar, hierarchy, true, true_levels, text, None, Refinement()).streams

    whole = refined(hierarchy.num_levels)
    assert all(torch.equal(whole[spec.name], true[spec.name]) for spec in codec.transmitted)
    lowest = true[hierarchy.lowest.name][:, : hierarchy.lowest.num_codebooks]
    alone = refine(nar, hierarchy, lowest, text).streams
    none_true = refined(0)
    assert all(torch.equal(none_true[name], codes) for name, codes in alone.items())
    assert not torch.equal(hierarchy.level_codes(none_true, 1), hierarchy.level_codes(true, 1))


def test_levels_that_are_left_out_are_missing_in_what_is_heard(script, halle_tokens):
    store, codec = halle_tokens
    data = open_tokens(store, None)
    codec = open_codec(str(codec), data)
    true = streams_of(data.store[int(data.train[0])], torch.device("cpu"))
    with torch.inference_mode():
        everything = script.decode(codec, true, codec.hierarchy.num_levels)
        lowest = script.decode(codec, true, 0)
        expected = codec.decode_latents(codec.hierarchy.teacher_feature(true, 1))[0, 0].clamp(-1, 1).numpy()
        whole = codec.decode(true)[0, 0].clamp(-1, 1).numpy()
    np.testing.assert_allclose(everything, whole, atol=1e-5)
    np.testing.assert_array_equal(lowest, expected)
    assert np.abs(lowest - everything).max() > 1e-3


def test_short_test_utterances_of_each_voice_are_chosen(script):
    rows = [{"split": split, "duration": seconds, "speaker": speaker}
            for split in ("train", "test") for seconds in (5.0, 6.0, 20.0) for speaker in ("awb", "rms", "x")]
    data = SimpleNamespace(store=SimpleNamespace(rows=rows))
    assert script.chosen_utterances(data, 1) == [10, 9]  # rms first, as the voices are listed
    assert script.chosen_utterances(data, 9) == [10, 13, 9, 12]
