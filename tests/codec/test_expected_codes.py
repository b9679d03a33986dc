"""Means of codes in place of codes: what they add to the feature, and that a prompt stays as it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_hierarchy import lowest_of, refine, true_streams
from tiny_codecs import make_student, synthetic_speech

from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.residual import ResidualCodec
from stages.config.models import MRVQConfig


@pytest.fixture
def codec(request, teacher: ResidualCodec) -> ResidualCodec | MultiResolutionCodec:
    """The plain codec, or a student whose hierarchy is told which codes of a block count."""
    if request.param == "plain":
        return teacher
    student = make_student(teacher, MRVQConfig())
    student.refine_by(request.param)
    return student


def expect(hierarchy, state, streams, share: float = 1.0):
    """Go through all levels with this share of probability on the true code and the rest spread evenly."""
    yield state
    while state.level <= hierarchy.num_levels:
        codes = hierarchy.level_codes(streams, state.level)
        sure = F.one_hot(codes, hierarchy.codebook_size).float()
        state = hierarchy.expect(state, share * sure + (1 - share) / hierarchy.codebook_size)
        yield state


@pytest.mark.parametrize("codec", ["plain", "pre", "post"], indirect=True)
def test_codes_that_are_certain_are_what_they_are_as_codes(codec) -> None:
    _, streams = true_streams(codec)
    begun = codec.hierarchy.start(lowest_of(codec, streams))
    as_means = list(expect(codec.hierarchy, begun, streams))
    as_codes = list(refine(codec.hierarchy, begun, streams))
    for mean, code in zip(as_means, as_codes, strict=True):
        torch.testing.assert_close(mean.feature, code.feature, atol=1e-4, rtol=1e-4)
        assert mean.streams.keys() == code.streams.keys()
        assert all(torch.equal(mean.streams[name], codes) for name, codes in code.streams.items())


@pytest.mark.parametrize("codec", ["plain", "both"], indirect=True)
def test_within_a_block_the_feature_grows_by_the_mean_of_the_entries(codec) -> None:
    _, streams = true_streams(codec)
    hierarchy = codec.hierarchy
    begun, first, *_ = expect(hierarchy, hierarchy.start(lowest_of(codec, streams)), streams, share=0.5)
    entries = hierarchy.level_codebooks()[0]
    true = entries[hierarchy.level_codes(streams, 1)].transpose(1, 2)
    mean = 0.5 * true + 0.5 * entries.mean(0)[:, None]
    torch.testing.assert_close(first.feature - begun.feature, mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("codec", ["both"], indirect=True)
def test_a_finished_block_adds_its_mean_resampled_and_not_quantized(codec) -> None:
    _, streams = true_streams(codec)
    hierarchy = codec.hierarchy
    states = list(expect(hierarchy, hierarchy.start(lowest_of(codec, streams)), streams, share=0.5))
    books = hierarchy.level_codebooks()
    part = sum(0.5 * book[hierarchy.level_codes(streams, level)].transpose(1, 2) + 0.5 * book.mean(0)[:, None]
               for level, book in ((1, books[0]), (2, books[1])))
    block = codec.mrvq.blocks[1]
    with torch.no_grad():
        resampled = block.sub_decoder(block.sub_encoder(part))
    torch.testing.assert_close(states[2].feature - states[0].feature, resampled, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("codec", ["both"], indirect=True)
def test_means_go_on_from_codes_in_the_middle_of_a_block(codec) -> None:
    _, streams = true_streams(codec)
    hierarchy = codec.hierarchy
    begun = hierarchy.start(lowest_of(codec, streams))
    accepted = hierarchy.accept(begun, hierarchy.level_codes(streams, 1))
    *_, by_codes = expect(hierarchy, accepted, streams)
    *_, by_means = expect(hierarchy, begun, streams)
    torch.testing.assert_close(by_codes.feature, by_means.feature, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("codec", ["plain", "both", "pre"], indirect=True)
def test_the_prompts_part_of_the_feature_is_that_of_its_codes(codec) -> None:
    prompt = codec.encode(synthetic_speech(2, 6000, seed=5))
    _, streams = true_streams(codec)
    hierarchy = codec.hierarchy
    begun = hierarchy.start(lowest_of(codec, streams), prompt)
    for state in list(expect(hierarchy, begun, streams, share=0.3))[1:]:
        known = hierarchy.teacher_feature(prompt, state.level)
        torch.testing.assert_close(state.feature[..., : known.shape[-1]], known, atol=1e-4, rtol=1e-4)
        held, given = state.streams[hierarchy.lowest.name], prompt[hierarchy.lowest.name]
        assert torch.equal(held[..., : given.shape[-1]], given[:, : held.shape[1]])


def entries_of(hierarchy, codes):
    """Return the sum of the entries [batch, dim, frames] of codes [batch, codebooks, frames]."""
    return sum(F.embedding(codes[:, index], book) for index, book in enumerate(hierarchy.lowest_codebooks())).mT


@pytest.mark.parametrize("codec", ["plain", "both"], indirect=True)
def test_a_refinement_starts_from_means_behind_the_prompt_whose_codes_stay(codec) -> None:
    prompt = codec.encode(synthetic_speech(2, 6000, seed=5))
    _, streams = true_streams(codec)
    hierarchy, lowest = codec.hierarchy, lowest_of(codec, streams)
    means = entries_of(hierarchy, lowest) + 0.1
    state = hierarchy.start(lowest, prompt, means)
    known = hierarchy.teacher_feature(prompt, 1)
    frames = known.shape[-1]
    assert 0 < frames < state.feature.shape[-1]
    torch.testing.assert_close(state.feature[..., :frames], known)
    with torch.no_grad():
        spread = codec.mrvq.blocks[0].sub_decoder(means) if isinstance(codec, MultiResolutionCodec) else means
    torch.testing.assert_close(state.feature[..., frames:], spread[..., frames:])
    by_codes = hierarchy.start(lowest, prompt)
    assert all(torch.equal(state.streams[name], codes) for name, codes in by_codes.streams.items())


@pytest.mark.parametrize("codec", ["plain"], indirect=True)
def test_means_of_certain_codes_are_their_entries(codec) -> None:
    _, streams = true_streams(codec)
    hierarchy, lowest = codec.hierarchy, lowest_of(codec, streams)
    begun = hierarchy.start(lowest, means=entries_of(hierarchy, lowest))
    torch.testing.assert_close(begun.feature, hierarchy.start(lowest).feature)
