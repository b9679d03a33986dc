"""What the benchmark of generation compares computes what it says; how fast is not tested."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import generation
import pytest
import torch
from generation import (
    Parts,
    Sizes,
    count_passes,
    linear_rate,
    make_ar,
    measure_divergence,
    predictions,
    weight_bytes,
)
from speaking_memory import added_memory
from tiny_tokens import tiny_tokens

from stages.artifacts.checkpoint import save_checkpoint
from stages.artifacts.token_store import open_store
from stages.config.models import ARConfig, TransformerConfig
from stages.lm.ar import ARModel

TINY = Sizes(ar=TransformerConfig(dim=32, num_heads=2, num_layers=2, ffn_dim=64))


def test_random_models_give_finite_logits_and_count_the_bytes_that_a_step_reads():
    model = make_ar(TINY, 6, torch.bfloat16)
    state = generation.open_state(model, 400)
    with torch.inference_mode():
        logits = model.advance(torch.zeros(1, 6, dtype=torch.long), state)
    assert logits[..., :-1].isfinite().all()
    transformer = 2 * (4 * 32 * 32 + 2 * 32 * 64 + 4 * 32 + 64 + 32 + 4 * 32) + 2 * 32
    assert weight_bytes(model) == 2 * (transformer + 33 * (6 * 1024 + 1))


def test_the_rate_of_linear_layers_counts_every_byte_that_they_read(monkeypatch):
    seen = []
    monkeypatch.setattr(generation.F, "linear", lambda x, weight, bias: seen.append(weight.numel() * 4))
    read, bytes_read = linear_rate(TINY.ar, torch.float32)
    read()
    assert sum(seen) == bytes_read


class FakeCodec:
    """Encodes any prompt as 3 s at the lowest rate of a system."""

    sample_rate = 24_000

    def __init__(self, name, rate):
        self.hierarchy = SimpleNamespace(lowest=SimpleNamespace(name=name, frame_rate=rate))

    def encode(self, waveform):
        return {self.hierarchy.lowest.name: torch.zeros(1, 6, round(3 * self.hierarchy.lowest.frame_rate)).long()}

    def decode(self, streams):
        return None


def test_systems_share_a_transformer_take_turns_and_speak_as_long_as_asked(monkeypatch):
    halle = make_ar(TINY, 6)
    valle = make_ar(TINY, 1, around=halle.transformer)
    assert valle.transformer is halle.transformer and len(valle.heads) == 1
    spoken, order = {}, []

    def refine(nar, _, codes, *rest):
        spoken[nar.nar] = codes.shape
        return SimpleNamespace(streams=None)

    monkeypatch.setattr(generation, "refine", refine)
    for name, model in (("halle", halle), ("valle", valle)):
        advance = model.advance
        monkeypatch.setattr(model, "advance", lambda *args, name=name, own=advance: order.append(name) or own(*args))
    systems = {
        "halle": generation.System(halle, "halle", FakeCodec("quant1", 8.0)),
        "valle": generation.System(valle, "valle", FakeCodec("rvq", 48.0)),
    }
    parts = generation.speak(systems, 1.0)
    assert spoken == {"halle": (1, 6, 24 + 8), "valle": (1, 1, 144 + 48)}
    assert all(part.ar > 0 for part in parts.values())
    half = order[: len(order) // 2]
    assert half.count("halle") / order.count("halle") == pytest.approx(0.5, abs=0.15)


def test_shares_add_up():
    assert Parts(ar=1.0, nar=2.0, codec=1.0).shares() == "ar 25%, nar 50%, codec 25%"


def test_passes_of_the_papers_slide_are_98(capsys):
    count_passes()
    assert "paper's slide 98, by default 28" in capsys.readouterr().out


def test_added_memory_sees_a_peak_that_is_gone_at_the_end():
    added, result = in_a_fresh_process(hold_64_mebibytes)
    assert result == "done 1" and added > 0.8 * 2**26


def hold_64_mebibytes():
    """Return what `added_memory` says of it; in a process in which nothing else is freed meanwhile."""
    def peak():
        held = torch.ones(2**24)
        time.sleep(0.5)  # long enough to be seen on a busy machine
        return f"done {held[0]:.0f}"

    return added_memory(peak)


def in_a_fresh_process(function):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function).result()


def test_predictions_of_true_codes_are_the_teacher_forced_ones():
    model = make_ar(TINY, 6)
    text, codes = torch.randint(258, (5,)), torch.randint(1024, (6, 9))
    with torch.inference_mode():
        found = predictions(model, text, codes)  # steps 5 to 8: those at which all streams speak
        true = model.log_probabilities(text[None], torch.tensor([5]), codes[None], torch.tensor([9]))[0]
    for step in range(4):
        for stream in range(6):
            frame = step + 5 - stream
            assert found[step, stream, codes[stream, frame]] == pytest.approx(float(true[stream, frame]), abs=1e-4)


def test_divergence_is_none_of_the_same_weights_and_little_of_8_bits(tmp_path):
    tokens, _ = tiny_tokens(tmp_path, "halle")
    streams = open_store(tokens).stream("quant1").num_codebooks
    config = ARConfig(transformer=TINY.ar, num_codebooks=streams, codebook_size=16, text_vocab_size=40)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "ar", "ar", {"model": config.model_dump(mode="json")}, ARModel(config).state_dict(), {})
    none = measure_divergence(str(tmp_path / "ar"), str(tokens), "fp32", 2)
    little = measure_divergence(str(tmp_path / "ar"), str(tokens), "int8", 2)
    assert abs(none) < 1e-7 < little < 1e-2
