from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor, nn

from stages.audio.stft import mel_distance
from stages.codec.base import TeacherCodes
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.probe import EXPLAINED, FIRST_AVERAGED, IgnoredBlockWatch, in_words, probe_blocks
from stages.codec.quantizer import Ranks, ResidualQuantizer
from stages.config.models import CodecConfig, MRVQConfig, QuantizerConfig
from stages.config.stage_configs import IgnoredBlockConfig
from stages.errors import DivergedError

HOP, RATE, SIZE = 480, 24_000, 16
QUANTIZER = QuantizerConfig(codebook_size=SIZE, kmeans_iterations=10)


class Tones(nn.Module):
    """Latents are the loudnesses of four tones, of which whole periods fill a frame; decoding loses nothing."""

    sample_rate, hop_length, latent_dim = RATE, HOP, 4

    def __init__(self):
        super().__init__()
        time = torch.arange(HOP) / RATE
        self.tones = torch.stack([torch.sin(2 * math.pi * 50 * k * time) for k in (5, 12, 26, 60)])

    def encode_latents(self, waveform: Tensor) -> Tensor:
        frames = waveform.view(len(waveform), -1, HOP)
        return (frames @ self.tones.T / self.tones.square().sum(dim=1)).transpose(1, 2)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return (latents.transpose(1, 2) @ self.tones).reshape(len(latents), 1, -1)


class Teacher(Tones):
    num_codebooks, codebook_size = 8, SIZE

    def __init__(self):
        super().__init__()
        self.quantizer = ResidualQuantizer(self.latent_dim, self.num_codebooks, QUANTIZER)
        self.quantizer.initialise(self.encode_latents(sound(8)).transpose(1, 2).reshape(-1, self.latent_dim))

    def quantize(self, latents: Tensor) -> TeacherCodes:
        codes = self.quantizer.encode(latents)
        return TeacherCodes(codes, self.quantizer.partial_sums(codes))

    def codebook(self, index: int) -> Tensor:
        return self.quantizer.codebooks[index].codebook


class Zero(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return torch.zeros_like(latents).repeat_interleave(6, dim=-1)


def sound(items: int, slots: int = 16, seed: int = 0) -> Tensor:
    """Tones that keep their loudness for six frames, which is a frame of the lowest block: [items, 1, samples]."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.rand(items, 4, slots, generator=generator).repeat_interleave(6, dim=-1)
    return Tones().decode_latents(0.2 * latents)


def make_student(teacher: Teacher, carries: bool) -> MultiResolutionCodec:
    """A student whose sub-decoders undo its sub-encoders, so the first block has the teacher's first codebook; or one
    whose first sub-decoder gives nothing, so the later blocks have it all."""
    codec = MultiResolutionCodec(CodecConfig(quantizer=QUANTIZER, mrvq=MRVQConfig()), Tones())
    for block, spec in zip(codec.mrvq.blocks[:-1], codec.config.mrvq.blocks, strict=False):
        block.sub_encoder, block.sub_decoder = nn.AvgPool1d(spec.stride), nn.Upsample(scale_factor=spec.stride)
    if not carries:
        codec.mrvq.blocks[0].sub_decoder = Zero()
    codec.mrvq.copy_codebooks(teacher)
    codec.mrvq.initialise(codec.encode_latents(sound(8)), "teacher" if carries else "kmeans")
    return codec.eval()


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher()


@pytest.fixture(scope="module")
def carrying(teacher) -> MultiResolutionCodec:
    return make_student(teacher, carries=True)


@pytest.fixture(scope="module")
def ignoring(teacher) -> MultiResolutionCodec:
    return make_student(teacher, carries=False)


def test_a_first_block_that_carries_is_missed_when_held_constant(carrying, teacher) -> None:
    found = probe_blocks(carrying, teacher, [sound(2, seed=5)])
    assert found[FIRST_AVERAGED] > 1.5
    assert found[EXPLAINED] > 0.95


def test_a_first_block_that_carries_nothing_is_not_missed_though_its_codes_vary(ignoring, teacher) -> None:
    found = probe_blocks(ignoring, teacher, [sound(2, seed=5)])
    assert found[FIRST_AVERAGED] == pytest.approx(1)
    assert found[EXPLAINED] == pytest.approx(0, abs=1e-5)
    assert found["probe.block_2_averaged.mel_ratio"] > 1.5, "the second block has it all"
    assert len(ignoring.encode(sound(2, seed=5))["quant1"][:, 0].unique()) > 4


def test_all_blocks_together_are_what_the_codec_decodes_and_fewer_are_worse(carrying, teacher) -> None:
    waves = sound(2, seed=5)
    found = [probe_blocks(carrying, teacher, [waves])[f"probe.only_first_{s}.mel"] for s in range(1, 5)]
    whole = mel_distance(carrying.decode(carrying.encode(waves)), waves, RATE).mean()
    assert found[3] == pytest.approx(float(whole))
    alone = carrying.decode_latents(carrying.mrvq.blocks[0].post.embed(carrying.encode_all(waves)["post1"]))
    assert found[0] == pytest.approx(float(mel_distance(alone, waves, RATE).mean()))
    assert found[0] > found[1] > found[2] > found[3] > 0


def test_a_block_is_averaged_over_the_time_of_each_utterance_and_channel(carrying, teacher) -> None:
    waves = sound(2, seed=5)
    codes = carrying.encode_all(waves)
    second = carrying.mrvq.blocks[1].post.embed(codes["post2"])
    latents = carrying.mrvq.decode(codes)
    for item in range(2):
        for channel in range(4):
            latents[item, channel] += second[item, channel].mean() - second[item, channel]
    whole = mel_distance(carrying.decode(codes), waves, RATE).mean()
    expected = mel_distance(carrying.decode_latents(latents), waves, RATE).mean() / whole
    found = probe_blocks(carrying, teacher, [waves])["probe.block_2_averaged.mel_ratio"]
    assert found == pytest.approx(float(expected), rel=1e-4) and found > 1.1


def test_utterances_weigh_as_much_as_they_are_long(carrying, teacher) -> None:
    short, long = sound(1, 4, seed=5), sound(1, 12, seed=6)
    apart = [probe_blocks(carrying, teacher, [waves])["probe.only_first_1.mel"] for waves in (short, long)]
    together = probe_blocks(carrying, teacher, [short, long])["probe.only_first_1.mel"]
    assert apart[0] != pytest.approx(apart[1])
    assert together == pytest.approx((apart[0] + 3 * apart[1]) / 4)


def test_the_explained_variance_agrees_with_a_loop_over_utterances_and_channels(carrying, teacher) -> None:
    batches = [sound(2, 4, seed=5), sound(1, 12, seed=6)]
    codec = make_student(teacher, carries=True)
    codec.mrvq.blocks[0].post.codebooks[0].codebook.mul_(0.5)
    left = total = 0.0
    for waves in batches:
        taught = teacher.quantize(teacher.encode_latents(waves)).partial_sums[0]
        first = codec.mrvq.blocks[0].post.embed(codec.encode_all(waves)["post1"])
        for item in range(len(waves)):
            for channel in range(4):
                frames = taught.shape[-1]
                left += frames * float((taught - first)[item, channel].var(correction=0))
                total += frames * float(taught[item, channel].var(correction=0))
    found = probe_blocks(codec, teacher, batches)[EXPLAINED]
    assert found == pytest.approx(1 - left / total, rel=1e-4) and 0.1 < found < 0.9


def test_the_probe_in_words_names_every_block(carrying, teacher) -> None:
    found = probe_blocks(carrying, teacher, [sound(1)])
    said = in_words(found)
    for name, value in found.items():
        assert f"{value:.1%}" in said if name == EXPLAINED else f"{value:.3g}" in said, name


LOWEST = MultiResolutionCodec(CodecConfig(quantizer=QUANTIZER, mrvq=MRVQConfig()), Tones()).stream("quant1")


def measured(ratio: float, perplexity: float = 9.0) -> dict[str, float]:
    return {FIRST_AVERAGED: ratio} | {f"perplexity.quant1.{index}": perplexity for index in range(1, 7)}


def watch(**settings) -> IgnoredBlockWatch:
    return IgnoredBlockWatch(IgnoredBlockConfig(from_step=100, **settings))


@pytest.mark.parametrize("ignored", [measured(1.01), measured(1.8, perplexity=1.01)])
def test_a_block_ignored_twice_in_a_row_stops_the_run(ignored) -> None:
    ours = watch()
    ours.look(ignored, LOWEST, 100, Ranks())
    with pytest.raises(DivergedError, match="block is ignored") as caught:
        ours.look(ignored, LOWEST, 110, Ranks())
    assert "ignored_block.stop=false" in caught.value.hint


def test_a_block_that_carries_never_stops_and_begins_the_count_anew() -> None:
    ours = watch()
    counts = []
    for step, ratio in enumerate([1.01, 1.03, 1.01, 1.5, 1.0], start=100):
        ours.look(measured(ratio), LOWEST, step, Ranks())
        counts.append(int(ours.in_a_row))
    assert counts == [1, 0, 1, 0, 1]


def test_the_first_steps_are_exempt() -> None:
    ours = watch()
    for step in (50, 60, 99, 100):
        ours.look(measured(1.0), LOWEST, step, Ranks())
    assert int(ours.in_a_row) == 1


def test_a_resumed_run_goes_on_counting() -> None:
    first, second = watch(), watch()
    first.look(measured(1.0), LOWEST, 100, Ranks())
    second.load_state_dict(first.state_dict())
    with pytest.raises(DivergedError):
        second.look(measured(1.0), LOWEST, 110, Ranks())


def test_stopping_can_be_turned_off_and_is_still_told(caplog) -> None:
    ours = watch(stop=False)
    with caplog.at_level(logging.WARNING, "halle.mreq"):
        for step in (100, 110, 120):
            ours.look(measured(1.0), LOWEST, step, Ranks())
    assert sum("block is ignored" in message for message in caplog.messages) == 3


def test_processes_that_round_differently_come_to_the_same_end() -> None:
    counts = []
    for rank, (own, other) in enumerate([(1.0199, 1.0203), (1.0203, 1.0199)]):
        def add_up(tensor: Tensor, other: float = other) -> Tensor:
            return tensor + torch.tensor([other - 1, 9.0])

        ours = watch()
        ours.look(measured(own), LOWEST, 100, Ranks(rank, 2, add_up))
        counts.append(int(ours.in_a_row))
    assert counts == [0, 0]
