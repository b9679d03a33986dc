"""Speech of means: what the models find likely is averaged, and that average is heard."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_voice import LONG, SENTENCES, say_in_time, tiny_model, tiny_pipeline, tiny_prompt

from stages.errors import UsageError
from stages.lm.nar import Refinement, level_logits, refine
from stages.synthesis.seams import alignment_frames, until


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def spoken(model, text, **sampling):
    takes = []
    pipeline = tiny_pipeline(model, lambda _, take: takes.append(take) or take, sampling=sampling)
    return pipeline.speak(text, tiny_prompt(model), seed=1), takes


def test_every_level_is_the_mean_under_what_the_model_finds_likely(model):
    hierarchy, prompt = model.codec.hierarchy, tiny_prompt(model).streams
    lowest = torch.randint(16, (1, hierarchy.lowest.num_codebooks, 40), generator=torch.Generator().manual_seed(3))
    windows = Refinement(window_frames=32, overlap_frames=8, mean=True, guidance=1.5)
    text = torch.tensor([[3, 4, 5, 2]])
    refined = refine(model.nar, hierarchy, lowest, text, prompt, windows)
    state = hierarchy.start(lowest, prompt)
    before = hierarchy.teacher_feature(prompt, hierarchy.num_levels + 1)
    skip = before.shape[-1]
    for level in range(1, hierarchy.num_levels + 1):
        logits = level_logits(model.nar, state.feature[..., skip:], level, text, before, windows)
        assert logits.shape[1] == state.feature.shape[-1] - skip
        state = hierarchy.expect(state, F.pad(logits.softmax(-1), (0, 0, skip, 0)))
    assert torch.equal(refined.feature, state.feature)
    drawn = refine(model.nar, hierarchy, lowest, text, prompt, Refinement(window_frames=32, overlap_frames=8))
    assert not torch.allclose(refined.feature[..., skip:], drawn.feature[..., skip:], atol=1e-3)


def test_the_mean_is_heard_in_every_pass_and_later_ones_have_codes_to_go_on_from(model, monkeypatch):
    say_in_time(monkeypatch, model)
    speech, takes = spoken(model, LONG, nar_mean=True)
    codes, _ = spoken(model, LONG)
    assert len(takes) > 1 and len(speech.waveform) == len(codes.waveform)
    assert np.abs(speech.generated - codes.generated).max() > 1e-3
    assert all(model.codec.hierarchy.levels_in(take.streams) == model.codec.hierarchy.num_levels for take in takes)


def test_what_the_ar_finds_likely_is_heard_in_place_of_what_it_draws(model):
    sampling = {"nar_mean": True, "temperature": 0.5}
    (soft, (take,)), (drawn, (other,)) = (
        spoken(model, SENTENCES[0], mean_temperature=temperature, **sampling) for temperature in (1.5, 0.0))
    assert torch.equal(take.codes, other.codes) and other.means is None
    assert take.means.shape == (model.codec.latent_dim, take.codes.shape[-1])
    assert np.abs(soft.generated - drawn.generated).max() > 1e-3
    prefix = take.request.prefix_codes
    entries = sum(book[row] for row, book in zip(prefix, model.codec.hierarchy.lowest_codebooks(), strict=True)).T
    assert torch.allclose(take.means[:, : prefix.shape[-1]], entries)


def test_what_is_spoken_again_keeps_the_means_of_what_it_keeps(model):
    pipeline = tiny_pipeline(model, sampling={"nar_mean": True, "mean_temperature": 1.5})
    takes = []
    pipeline.improve = lambda _, take: takes.append(take) or take
    pipeline.speak(SENTENCES[0], tiny_prompt(model), seed=1)
    frame = (takes[0].request.prefix_codes.shape[-1] + takes[0].codes.shape[-1]) // 2
    again = pipeline.continue_from(takes[0], frame, seed=9)
    assert torch.equal(again.means[:, :frame], takes[0].means[:, :frame])
    assert again.means.shape[-1] == again.codes.shape[-1]
    assert not torch.equal(again.means[:, frame : frame + 4], takes[0].means[:, frame : frame + 4])


def test_what_a_take_says_until_a_frame_has_the_means_until_there(model):
    _, (take,) = spoken(model, SENTENCES[0], nar_mean=True, mean_temperature=1.0)
    unit = alignment_frames(model.codec)
    frame = take.codes.shape[-1] // 2 // unit * unit
    part = until(replace(take, advances=torch.zeros_like(take.codes[:1])), model.codec, frame)
    assert frame > 0 and torch.equal(part.means, take.means[:, :frame]) and part.codes.shape[-1] == frame


def test_means_of_the_ar_want_means_of_the_nar(model):
    with pytest.raises(UsageError, match=r"sampling\.nar_mean with sampling\.mean_temperature"):
        spoken(model, SENTENCES[0], mean_temperature=1.0)


def test_means_leave_nothing_to_a_temperature(model):
    with pytest.raises(UsageError, match=r"nar_temperature 0 where means are heard, got 0\.5"):
        spoken(model, SENTENCES[0], nar_mean=True, nar_temperature=0.5)
