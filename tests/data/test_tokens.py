from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.tokens import ClipRule, ar_batch, ar_lengths, nar_batch, nar_lengths, open_tokens
from stages.errors import UsageError
from stages.text.tokenizer import EOT


def test_the_system_follows_the_store(halle_tokens, valle_tokens):
    halle, valle = open_tokens(halle_tokens[0], None), open_tokens(valle_tokens[0], None)
    assert (halle.system, halle.lowest.name, halle.lowest.num_codebooks) == ("halle", "quant1", 2)
    assert (valle.system, valle.lowest.name, valle.lowest.num_codebooks) == ("valle", "rvq", 1)
    assert (len(halle.train), len(halle.validation)) == (9, 3)


def test_a_system_that_the_store_cannot_serve_is_refused(halle_tokens):
    with pytest.raises(UsageError, match=r"`rvq` for --system valle, got .* with quant1"):
        open_tokens(halle_tokens[0], "valle")


def test_an_ar_batch_holds_the_store_tokens_and_their_lengths(halle_tokens):
    data = open_tokens(halle_tokens[0], None)
    batch = ar_batch(data, data.train[:3])
    for row, index in enumerate(data.train[:3]):
        utterance = data.store[index]
        frames = utterance.codes["quant1"]
        assert batch.frame_lengths[row] == len(frames)
        assert batch.text[row, : batch.text_lengths[row]].tolist() == utterance.text_tokens.tolist()
        assert np.array_equal(batch.codes[row, :, : len(frames)].numpy().T, frames)
        assert (batch.codes[row, :, len(frames) :] == 0).all()
    lengths = ar_lengths(data, data.train[:3])
    assert (lengths[:, 1] == batch.frame_lengths.numpy() + 2).all() and (lengths[:, 0] > 0).all()
    without = ar_lengths(data, data.train[:3], text_prefix=False)
    assert (without[:, 1] == lengths[:, 1]).all() and (without[:, 0] == 0).all()


def test_valle_reads_one_codebook(valle_tokens):
    data = open_tokens(valle_tokens[0], None)
    batch = ar_batch(data, data.train[:2])
    assert batch.codes.shape[1] == 1
    utterance = data.store[data.train[1]]
    assert batch.codes[1, 0, : len(utterance.codes["rvq"])].tolist() == utterance.codes["rvq"][:, 0].tolist()


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 60),
    st.sampled_from([1, 3, 6]),
    st.one_of(st.none(), st.integers(1, 200)),
    st.integers(1, 60),
    st.integers(0, 10**6),
)
def test_clips_and_prompts_are_aligned_inside_and_apart(units, unit, window, prompt, seed):
    num_frames = units * unit
    rule = ClipRule(unit, window, prompt, no_prompt_probability=0.1)
    clip = rule.choose(num_frames, Random(seed))
    assert all(edge % unit == 0 for edge in (clip.start, clip.stop, clip.prompt_start, clip.prompt_stop))
    assert 0 <= clip.start < clip.stop <= num_frames
    length = clip.prompt_stop - clip.prompt_start
    assert 0 <= length <= max(prompt, unit) and 0 <= clip.prompt_start <= clip.prompt_stop <= num_frames
    if length:
        assert clip.prompt_stop <= clip.start or clip.stop <= clip.prompt_start
        assert 2 * length <= num_frames
    if window is None:
        assert clip.stop == num_frames and clip.start == length and clip.prompt_start == 0
    else:
        assert clip.stop - clip.start <= max(window, unit)
        assert clip.stop - clip.start == min(max(1, window // unit) * unit, num_frames - length)


def test_prompts_stand_on_both_sides_and_are_missing_at_the_given_rate():
    rule = ClipRule(6, 60, 30, no_prompt_probability=0.1)
    clips = [rule.choose(240, Random(seed)) for seed in range(2000)]
    without = sum(clip.prompt_stop == 0 for clip in clips)
    before = sum(0 < clip.prompt_stop <= clip.start for clip in clips)
    assert 140 < without < 260
    assert 700 < before < 1100
    assert {clip.prompt_stop - clip.prompt_start for clip in clips} == {0, 12, 18, 24, 30}
    assert {clip.start for clip in clips} == set(range(0, 181, 6))


def batch_of(data, items, step=1, seed=0, hop=500):
    return nar_batch(data, items, hop, ClipRule(2, 20, 8, 0.1), level_weights=(1, 1), seed=seed, step=step)


def test_a_nar_batch_cuts_all_streams_at_the_same_frames(halle_tokens):
    data = open_tokens(halle_tokens[0], None)
    items = data.train[:4]
    batch = batch_of(data, items)
    assert set(batch.clips) == {"post1", "quant2"}  # only what runs at the latent rate
    for row, index in enumerate(items):
        codes, length = data.store[index].codes, int(batch.lengths[row])
        cut = {name: clip[row, :, :length].numpy().T for name, clip in batch.clips.items()}
        starts = [
            start
            for start in range(len(codes["post1"]) - length + 1)
            if all(np.array_equal(codes[name][start : start + length], cut[name]) for name in cut)
        ]
        assert len(starts) == 1 and starts[0] % 2 == 0
    assert (batch.lengths <= 20).all() and (batch.prompt_lengths <= 8).all()
    assert batch.lengths.sum() + batch.prompt_lengths.sum() <= nar_lengths(data, items, 500, ClipRule(2, 20, 8, 0))[
        :, 1
    ].sum()


def test_levels_are_drawn_as_often_as_their_weights_say(halle_tokens):
    data = open_tokens(halle_tokens[0], None)
    drawn = [level for step in range(200)
             for level in nar_batch(data, data.train[:5], 500, ClipRule(2, 20, 8, 0.1), (3, 0.5, 1.5), 0, step).levels]
    assert [drawn.count(level) / 1000 for level in (1, 2, 3)] == pytest.approx([0.6, 0.1, 0.3], abs=0.05)


def test_texts_are_hidden_in_training_as_often_as_asked_for_and_never_in_validation(halle_tokens):
    data = open_tokens(halle_tokens[0], None)
    rule, items = ClipRule(2, 20, 8, 0.1, no_text_probability=0.3), data.train[:5]
    read = {int(index): np.full(999, 3) for index in items}
    steps = [nar_batch(data, items, 500, rule, (1, 1), 0, step, read.__getitem__) for step in range(60)]
    hidden = torch.cat([batch.text_lengths == 1 for batch in steps])
    assert 0.2 < hidden.float().mean() < 0.4
    for batch in steps:
        assert torch.equal((batch.places > 0).any(1), batch.text_lengths > 1)
        assert (batch.text.gather(1, batch.text_lengths[:, None] - 1) == EOT).all()
    validation = nar_batch(data, items, 500, rule, (1, 1), 0, "validation", read.__getitem__)
    assert (validation.text_lengths > 1).all()


def test_what_an_utterance_gives_depends_on_seed_step_and_id_not_on_its_batch(halle_tokens):
    data = open_tokens(halle_tokens[0], None)
    alone, among = batch_of(data, data.train[2:3]), batch_of(data, data.train[[4, 2, 0]])
    length = int(alone.lengths[0])
    assert among.lengths[1] == length and among.levels[1] == alone.levels[0]
    assert torch.equal(among.clips["quant2"][1, :, :length], alone.clips["quant2"][0])
    others = [batch_of(data, data.train[2:3], step=step) for step in range(2, 8)]
    assert any(not torch.equal(other.clips["quant2"], alone.clips["quant2"]) for other in others)
    assert {other.levels[0] for other in others} == {1, 2}
