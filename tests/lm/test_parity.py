"""Each check of the gate before step 1 passes on what is right and catches its own kind of mistake."""

import logging

import numpy as np
import pytest
import torch
from tiny_lm import SIZE, STREAMS, make_ar, utterance
from tiny_tokens import random_codes, tiny_codec

from stages.config.models import NARConfig, TransformerConfig
from stages.errors import DivergedError
from stages.lm import ar as ar_module
from stages.lm import generate as generate_module
from stages.lm import nar as nar_module
from stages.lm import parity
from stages.lm.nar import NARModel
from stages.lm.parity import ar_checks, nar_checks, refinement_check, require_parity
from stages.lm.transformer import KeyValueCache

log = logging.getLogger("halle.test")


def ar_batch(num_codebooks=STREAMS):
    """Two utterances of different lengths, padded with ids that must not matter."""
    (text_a, codes_a), (text_b, codes_b) = utterance(5, 9, num_codebooks), utterance(8, 14, num_codebooks, seed=1)
    text = torch.full((2, 8), 7)
    codes = torch.full((2, num_codebooks, 14), 5)
    text[0, :5], text[1] = text_a[0], text_b[0]
    codes[0, :, :9], codes[1] = codes_a[0], codes_b[0]
    return text, torch.tensor([5, 8]), codes, torch.tensor([9, 14])


def check_ar(**options):
    batch = ar_batch(options.get("num_codebooks", STREAMS))
    require_parity(ar_checks(make_ar(**options), *batch), log)


@pytest.fixture(scope="module")
def nar():
    torch.manual_seed(0)
    transformer = TransformerConfig(dim=32, num_heads=4, num_layers=2, ffn_dim=64, dropout=0.1)
    model = NARModel(NARConfig(transformer=transformer, num_levels=2, codebook_size=SIZE, latent_dim=8))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model


def check_nar(nar, prompt_lengths=(6, 0)):
    torch.manual_seed(1)
    prompt = 9 * torch.randn(2, 8, max(prompt_lengths)) if max(prompt_lengths) else None
    require_parity(nar_checks(nar, torch.tensor([12, 7]), torch.tensor([3, 5]), torch.tensor(prompt_lengths),
                              9 * torch.randn(2, 8, 12), torch.tensor([2, 1]), torch.randint(20, (2, 5)), prompt), log)


def check_refinement(system, num_prompt=10, change=None):
    codec = tiny_codec(system)
    codes = random_codes(codec, 24, np.random.default_rng(0))
    streams = {name: torch.from_numpy(found.T.copy())[None] for name, found in codes.items()}
    if change:
        change(streams)
    unit = codec.alignment // codec.hop_length
    require_parity(refinement_check(codec.hierarchy, streams, num_prompt, unit), log)


@pytest.mark.parametrize("options", [{}, {"num_codebooks": 1}, {"attention": "bidirectional"}])
def test_a_right_ar_model_passes_and_the_differences_are_logged(options, caplog):
    caplog.set_level(logging.INFO, logger="halle")
    check_ar(**options)
    (line,) = caplog.messages
    assert all(name in line for name in ("delay round trip 0 codes", "batched ", "cached "))


@pytest.mark.parametrize("prompt_lengths", [(6, 0), (4, 6), (0, 0)])
def test_a_right_nar_model_passes_and_goes_on_training(nar, prompt_lengths):
    nar.train()
    check_nar(nar, prompt_lengths)
    assert nar.training


@pytest.mark.parametrize("num_prompt", [0, 10, 1000])
@pytest.mark.parametrize("system", ["halle", "valle"])
def test_a_right_hierarchy_passes(system, num_prompt):
    check_refinement(system, num_prompt)


def test_a_cache_that_forgets_a_column_is_caught(monkeypatch):
    right = KeyValueCache.store

    def forgetful(self, layer, columns, visible, keys, values):
        return right(self, layer, columns, visible, keys, values * (0.0 if values.shape[2] == 1 else 1.0))

    monkeypatch.setattr(KeyValueCache, "store", forgetful)
    with pytest.raises(DivergedError, match=r"in `cached`: expected at most 0.01 nats, got `\d"):
        check_ar()


def test_a_position_that_is_off_by_one_in_cached_steps_alone_is_caught(monkeypatch):
    right = ar_module.ARModel._embed_audio
    monkeypatch.setattr(ar_module.ARModel, "_embed_audio",
                        lambda self, late, first: right(self, late, first + (late.shape[-1] == 1)))
    with pytest.raises(DivergedError, match="in `cached`"):
        check_ar()


def test_padding_that_is_read_is_caught(monkeypatch, nar):
    def unpacked(self, text, text_lengths, audio):
        return torch.cat([self.text_embedding(text), audio], dim=1)

    monkeypatch.setattr(ar_module.ARModel, "_pack", unpacked)
    with pytest.raises(DivergedError, match="in `batched`"):
        check_ar()
    monkeypatch.setattr(nar_module, "_key_mask", lambda parts: None)
    with pytest.raises(DivergedError, match="in `batched`"):
        check_nar(nar)


@pytest.mark.parametrize("module", [parity, generate_module])
def test_an_undelay_that_is_off_by_one_is_caught_where_it_is_used(monkeypatch, module):
    monkeypatch.setattr(module, "undelay", lambda late: late[..., : late.shape[-1] - late.shape[1] + 1])
    with pytest.raises(DivergedError, match=r"in `delay round trip`: expected at most 0 codes, got `\d\d"):
        check_ar()


def test_a_prompt_that_is_not_forced_is_caught(monkeypatch):
    monkeypatch.setattr(generate_module._Writer, "_force", lambda self, column: column)
    with pytest.raises(DivergedError, match="in `delay round trip`"):
        check_ar()


def test_a_model_that_gives_no_numbers_is_caught():
    model = make_ar()
    with torch.no_grad():
        model.transformer.final_norm.norm.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match="got `nan`"):
        require_parity(list(ar_checks(model, *ar_batch()))[1:], log)


@pytest.mark.parametrize("num_prompt", [0, 10])
def test_codes_of_a_store_that_the_codec_would_not_refine_to_are_caught(num_prompt):
    def change(streams):
        streams["post1"] = (streams["post1"] + 1) % 16

    with pytest.raises(DivergedError, match=r"in `refinement`: expected at most 0.01 of codes or frames, got `[01]"):
        check_refinement("halle", num_prompt, change)


def test_a_prompt_that_shifts_the_refined_frames_is_caught(monkeypatch):
    right = nar_module.level_logits
    monkeypatch.setattr(nar_module, "level_logits", lambda nar, feature, *rest: right(nar, feature.roll(1, -1), *rest))
    for system in ("halle", "valle"):
        with pytest.raises(DivergedError, match="in `refinement`"):
            check_refinement(system)
