"""The measurement of windows compares plans on the same lowest codes, and counts passes as the paper does."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import windows
from windows import OURS, PAPER, Spoken, long_scripts, measure, num_passes, plans, spoken_codes, true_codes

from stages.artifacts.checkpoint import save_checkpoint
from stages.codec.registry import load_codec
from stages.config.models import ARConfig, NARConfig, TransformerConfig
from stages.data.tokens import open_tokens
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel
from stages.speech.transcriber import Transcript


class Listener:
    """Hear one word in everything, and count what it was given."""

    name, version = "listener", "1"

    def __init__(self):
        self.lengths = []

    def transcribe(self, waveform, sample_rate):
        self.lengths.append(len(waveform))
        return Transcript("speaker")


@pytest.fixture
def opened(halle_tokens):
    data = open_tokens(halle_tokens[0], None)
    data = replace(data, validation=np.arange(9))
    return data, load_codec(halle_tokens[1]).requires_grad_(False)


def test_scripts_are_the_shortest_long_ones_with_a_prompt_and_too_few_are_refused(opened):
    data, _ = opened
    durations = sorted(row["duration"] for row in data.store.rows[:9])
    scripts = long_scripts(data, 3, durations[2])
    assert [script.utterance.duration for script in scripts] == durations[2:5]
    assert all(script.prompt.speaker == script.utterance.speaker != "" for script in scripts)
    assert all(script.prompt.id != script.utterance.id for script in scripts)
    with pytest.raises(ValueError, match="expected 9 utterances"):
        long_scripts(data, 9, durations[2])


def test_the_papers_slide_takes_98_passes_for_90_seconds_and_ours_a_third():
    class Halle:
        class hierarchy:
            frame_rate, num_levels = 48.0, 7

            class lowest:
                hop_length = 3000

        hop_length = 500

    spoken = Spoken(None, torch.zeros(1, 6, 720))
    found = plans(Halle, 28.0, 3.0)
    assert num_passes(Halle, spoken, found[PAPER]) == 98
    assert num_passes(Halle, spoken, found[OURS]) <= 98 / 3


def test_codes_that_an_ar_model_speaks_are_those_behind_the_prompt(opened, tmp_path, monkeypatch):
    data, codec = opened
    lowest = codec.hierarchy.lowest
    config = ARConfig(transformer=TransformerConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=32), text_pointer=True,
                      num_codebooks=lowest.num_codebooks, codebook_size=16, text_vocab_size=40)  # fmt: skip
    save_checkpoint(tmp_path / "ar", "ar", {"model": config.model_dump(mode="json")}, ARModel(config).state_dict(), {})
    new = torch.randint(16, (lowest.num_codebooks + 1, 7))
    monkeypatch.setattr(windows, "generate", lambda ar, text, start, *rest: SimpleNamespace(
        codes=torch.cat([start, new], dim=1)))  # fmt: skip
    script = long_scripts(data, 1, 0.1)[0]
    spoken = spoken_codes(codec, str(tmp_path / "ar"))(script)
    assert torch.equal(spoken.lowest[0], new[1:])
    prompt = true_codes(codec)(replace(script, utterance=script.prompt)).lowest.shape[-1]
    assert spoken.places.shape == (1, prompt + 7), "the text is read over prompt and speech"


def test_every_plan_refines_the_same_codes_and_is_heard_without_its_prompt(opened):
    data, codec = opened
    torch.manual_seed(0)
    small = TransformerConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=32)
    nar = NARModel(NARConfig(transformer=small, num_levels=codec.hierarchy.num_levels, codebook_size=16,
                             latent_dim=8, text_vocab_size=data.tokenizer.vocab_size)).eval()  # fmt: skip
    items = [true_codes(codec)(script) for script in long_scripts(data, 2, 0.1)]
    listener = Listener()
    lines = measure(codec, nar, plans(codec, 0.3, 0.1), items, listener)
    assert listener.lengths == [item.script.utterance.num_samples for item in items for _ in range(2)]
    assert lines[0].startswith(f"{OURS}: ") and lines[1].startswith(f"{PAPER}: ")
    assert "ours less this +0.00 points" in lines[1]
