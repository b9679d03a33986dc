"""Table 10's NAR models of PreQ only and PostQ only: what they read, what they predict, and what is then decoded."""

from __future__ import annotations

import pytest
import torch
from test_hierarchy import lowest_of, refine, true_streams
from tiny_codecs import make_student

from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.residual import ResidualCodec
from stages.config.models import MRVQConfig
from stages.errors import UsageError

ONLY = ("pre", "post")


@pytest.fixture
def student(teacher: ResidualCodec) -> MultiResolutionCodec:
    """A codec of one's own, since these tests change how it refines."""
    return make_student(teacher, MRVQConfig())


@pytest.mark.parametrize("only", ONLY)
def test_refining_with_true_codes_gives_exactly_the_training_features(only: str, student: MultiResolutionCodec) -> None:
    _, streams = true_streams(student)
    student.refine_by(only)
    hierarchy = student.hierarchy
    states = list(refine(hierarchy, hierarchy.start(lowest_of(student, streams)), streams))
    assert hierarchy.num_levels == 7 and [state.level for state in states] == list(range(1, 9))
    for state in states:
        assert torch.equal(state.feature, hierarchy.teacher_feature(streams, state.level)), state.level
    for name, codes in states[-1].streams.items():
        assert torch.equal(codes, streams[name]), name


@pytest.mark.parametrize("only", ONLY)
def test_only_one_kind_of_codes_is_read_and_predicted_of_the_middle_blocks(
    only: str, student: MultiResolutionCodec
) -> None:
    _, streams = true_streams(student)
    student.refine_by(only)
    hierarchy, other = student.hierarchy, "post" if only == "pre" else "pre"
    features = [hierarchy.teacher_feature(streams, level) for level in range(1, 9)]
    codes = [hierarchy.level_codes(streams, level) for level in range(1, 8)]
    unread = {name: torch.zeros_like(value) if name in (f"{other}2", f"{other}3") else value
              for name, value in streams.items()}
    for level in range(1, 8):
        assert torch.equal(hierarchy.teacher_feature(unread, level), features[level - 1])
        assert torch.equal(hierarchy.level_codes(unread, level), codes[level - 1])
    read = {**streams, f"{only}2": streams[f"{only}2"].roll(1, dims=-1)}
    assert not torch.equal(hierarchy.teacher_feature(read, 3), features[2])


def test_with_both_a_finished_block_is_read_from_its_post_and_predicted_by_its_pre(
    student: MultiResolutionCodec
) -> None:
    _, streams = true_streams(student)
    hierarchy = student.hierarchy
    without_pre = {**streams, "pre2": streams["pre2"] * 0}
    assert torch.equal(hierarchy.teacher_feature(without_pre, 3), hierarchy.teacher_feature(streams, 3))
    assert torch.equal(hierarchy.level_codes(streams, 1), streams["pre2"][:, 0])


@pytest.mark.parametrize("only", ONLY)
def test_what_is_refined_by_true_codes_decodes_to_the_codec_s_own_sound(
    only: str, student: MultiResolutionCodec
) -> None:
    _, streams = true_streams(student)
    expected = student.decode(streams)
    student.refine_by(only)
    hierarchy = student.hierarchy
    *_, last = refine(hierarchy, hierarchy.start(lowest_of(student, streams)), streams)
    assert torch.equal(student.decode(last.streams), expected)
    assert ("quant2" in last.streams) == (only == "pre")
    assert ("post2" in last.streams) == (only == "post")


def test_a_prompt_s_codes_stay_as_they_are(student: MultiResolutionCodec) -> None:
    _, streams = true_streams(student)
    prompt = {name: codes[..., : codes.shape[-1] // 4] for name, codes in streams.items()}
    for only in ONLY:
        student.refine_by(only)
        hierarchy = student.hierarchy
        state = hierarchy.start(lowest_of(student, streams), prompt)
        while state.level <= hierarchy.num_levels:
            state = hierarchy.accept(state, torch.zeros_like(hierarchy.level_codes(streams, state.level)))
        for name, codes in state.streams.items():
            assert torch.equal(codes[..., : prompt[name].shape[-1]], prompt[name]), (only, name)


def test_a_codec_without_blocks_has_both_and_nothing_else(teacher: ResidualCodec) -> None:
    teacher.refine_by("both")
    with pytest.raises(UsageError, match=r"expected block_codes `both`.*got `post`"):
        teacher.refine_by("post")
