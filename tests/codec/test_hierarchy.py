from __future__ import annotations

import pytest
import torch
from test_mrvq import VARIANTS
from tiny_codecs import make_student, synthetic_speech

from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.residual import ResidualCodec


def true_streams(codec, batch: int = 2, seed: int = 21):
    wave = synthetic_speech(batch, 24_000, seed)
    return wave, codec.encode(wave)


def lowest_of(codec, streams):
    lowest = codec.hierarchy.lowest
    return streams[lowest.name][:, : lowest.num_codebooks]


def refine(hierarchy, state, streams):
    """Accept the true codes level by level, yielding each state."""
    yield state
    while state.level <= hierarchy.num_levels:
        state = hierarchy.accept(state, hierarchy.level_codes(streams, state.level))
        yield state


@pytest.mark.parametrize("name", ["1223", "8/48", "8/16/48", "4 Hz"])
def test_refining_with_true_codes_gives_exactly_the_training_features(name: str, teacher: ResidualCodec) -> None:
    codec = make_student(teacher, VARIANTS[name][0])
    wave, streams = true_streams(codec)
    hierarchy = codec.hierarchy
    states = list(refine(hierarchy, hierarchy.start(lowest_of(codec, streams)), streams))
    assert [state.level for state in states] == list(range(1, 9))
    for state in states:
        assert torch.equal(state.feature, hierarchy.teacher_feature(streams, state.level)), state.level
    for spec in codec.streams:
        assert torch.equal(states[-1].streams[spec.name], streams[spec.name]), spec.name
    with torch.no_grad():
        assert torch.equal(states[-1].feature, codec.mrvq(codec.encode_latents(wave)).quantized)


def test_a_plain_codec_refines_to_its_own_embeddings(teacher: ResidualCodec) -> None:
    wave, streams = true_streams(teacher)
    hierarchy = teacher.hierarchy
    assert (hierarchy.num_levels, hierarchy.lowest.num_codebooks) == (7, 1)
    states = list(refine(hierarchy, hierarchy.start(lowest_of(teacher, streams)), streams))
    with torch.no_grad():
        sums = teacher.quantize(teacher.encode_latents(wave)).partial_sums
    assert len(states) == 8
    for state in states:
        assert torch.equal(state.feature, sums[state.level - 1])
        assert torch.equal(state.feature, hierarchy.teacher_feature(streams, state.level))
    assert torch.equal(states[-1].streams["rvq"], streams["rvq"])


@pytest.mark.parametrize("plain", [True, False])
def test_streams_know_how_deep_they_are(plain, teacher, student) -> None:
    codec = teacher if plain else student
    _, streams = true_streams(codec)
    hierarchy, state = codec.hierarchy, codec.hierarchy.start(lowest_of(codec, streams))
    assert hierarchy.levels_in(streams) == hierarchy.num_levels and hierarchy.levels_in(state.streams) == 0
    for depth, refined in enumerate(refine(hierarchy, state, streams)):
        assert hierarchy.levels_in(refined.streams) == depth


def test_levels_are_the_pre_codebooks_of_blocks_two_to_k(student: MultiResolutionCodec) -> None:
    _, streams = true_streams(student)
    names = [("pre2", 0), ("pre2", 1), ("pre3", 0), ("pre3", 1), ("quant4", 0), ("quant4", 1), ("quant4", 2)]
    for level, (name, index) in enumerate(names, start=1):
        assert torch.equal(student.hierarchy.level_codes(streams, level), streams[name][:, index])


@pytest.mark.parametrize("plain", [True, False])
def test_codebooks_are_what_the_codes_of_a_level_add_to_the_feature(plain, teacher, student) -> None:
    codec = teacher if plain else student
    _, streams = true_streams(codec)
    hierarchy = codec.hierarchy
    features = [hierarchy.teacher_feature(streams, level) for level in range(1, hierarchy.num_levels + 2)]
    within_a_block = range(1, 8) if plain else (1, 3, 5, 6, 7)  # elsewhere PreQ makes way for PostQ
    for level in within_a_block:
        added = hierarchy.level_codebooks()[level - 1][hierarchy.level_codes(streams, level)].transpose(1, 2)
        torch.testing.assert_close(features[level] - features[level - 1], added, atol=1e-5, rtol=1e-4)
    lowest = lowest_of(codec, streams)
    summed = sum(book[lowest[:, index]] for index, book in enumerate(hierarchy.lowest_codebooks())).transpose(1, 2)
    given = features[0] if plain else student.mrvq.blocks[0].quant.embed(lowest)
    torch.testing.assert_close(summed, given)


@pytest.mark.parametrize("plain", [True, False])
def test_the_prompts_codes_stay_as_they_are(plain: bool, teacher: ResidualCodec, student: MultiResolutionCodec) -> None:
    codec = teacher if plain else student
    prompt = codec.encode(synthetic_speech(2, 6000, seed=5))
    _, streams = true_streams(codec)
    hierarchy = codec.hierarchy
    state = hierarchy.start(lowest_of(codec, streams), prompt)
    *_, last = refine(hierarchy, state, streams)
    differed = False
    for spec in codec.streams:
        frames = prompt[spec.name].shape[-1]
        found = last.streams[spec.name]
        assert found.shape == streams[spec.name].shape
        assert torch.equal(found[..., :frames], prompt[spec.name]), spec.name
        differed |= not torch.equal(streams[spec.name][..., :frames], prompt[spec.name])
    assert differed, "the prompt must differ from the sequence for this to mean anything"
    assert torch.equal(last.feature, hierarchy.teacher_feature(last.streams, 8))
    pre = last.feature[..., :12]
    assert torch.equal(pre, hierarchy.teacher_feature({k: v[..., :12] for k, v in prompt.items()}, 8))


def test_codes_are_made_without_tf32_in_encoding_decoding_and_refining(student, waveform, monkeypatch) -> None:
    seen: dict[str, list[bool]] = {}
    for name in ("encoder", "sub_encoder", "sub_decoder"):
        module = student.autoencoder.encoder if name == "encoder" else getattr(student.mrvq.blocks[1], name)
        note = seen.setdefault(name, [])
        module.register_forward_pre_hook(lambda *_, note=note: note.append(torch.backends.cudnn.allow_tf32))
    streams = student.encode(waveform)
    state = student.hierarchy.start(streams["quant1"])
    for level in range(1, student.hierarchy.num_levels + 1):
        state = student.hierarchy.accept(state, student.hierarchy.level_codes(streams, level))
    student.decode(streams)
    assert seen == {"encoder": [False], "sub_encoder": [False] * 2, "sub_decoder": [False] * 3}
    assert torch.backends.cudnn.allow_tf32
