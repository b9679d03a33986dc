from __future__ import annotations

import pytest
import torch
from tiny_codecs import make_student, synthetic_speech, tiny_config

from stages.codec.losses import hsr_loss
from stages.codec.mrvq import MultiResolutionCodec, SubDecoder, SubEncoder
from stages.codec.quantizer import ResidualQuantizer
from stages.codec.residual import ResidualCodec
from stages.config.models import BlockConfig, CodecConfig, MRVQConfig
from stages.errors import UsageError


def mrvq(*blocks: tuple[int, int, int, int]) -> MRVQConfig:
    """Blocks of (Hz, pre, quant, post)."""
    return MRVQConfig(blocks=tuple(BlockConfig(stride=48 // hz, pre=a, quant=b, post=c) for hz, a, b, c in blocks))


VARIANTS = {
    "8/48": (mrvq((8, 1, 6, 1), (48, 7, 0, 0)), 3840, [(1, 1), (2, 8)]),
    "8/16/48": (mrvq((8, 1, 6, 1), (16, 2, 6, 2), (48, 5, 0, 0)), 3840, [(1, 1), (2, 3), (3, 8)]),
    "1124": (mrvq((8, 1, 6, 1), (16, 1, 3, 1), (24, 2, 4, 2), (48, 4, 0, 0)), 3840, [(1, 1), (2, 2), (3, 4), (4, 8)]),
    "1133": (mrvq((8, 1, 6, 1), (16, 1, 3, 1), (24, 3, 6, 3), (48, 3, 0, 0)), 3840, [(1, 1), (2, 2), (3, 5), (4, 8)]),
    "1223": (MRVQConfig(), 3840, [(1, 1), (2, 3), (3, 5), (4, 8)]),
    "1232": (mrvq((8, 1, 6, 1), (16, 2, 6, 2), (24, 3, 6, 3), (48, 2, 0, 0)), 3840, [(1, 1), (2, 3), (3, 6), (4, 8)]),
    "half": (mrvq((8, 1, 3, 1), (16, 2, 3, 2), (24, 2, 2, 2), (48, 3, 0, 0)), 2640, [(1, 1), (2, 3), (3, 5), (4, 8)]),
    "4 Hz": (mrvq((4, 1, 12, 1), (16, 2, 6, 2), (24, 2, 4, 2), (48, 3, 0, 0)), 3840, [(1, 1), (2, 3), (3, 5), (4, 8)]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_of_the_paper_has_its_bit_rate_and_distillation_pairs(name: str) -> None:
    config, bits, pairs = VARIANTS[name]
    with torch.device("meta"):
        codec = MultiResolutionCodec(CodecConfig(mrvq=config))
    assert codec.bits_per_second == bits == codec.config.bits_per_second
    assert list(config.fld_pairs) == pairs
    assert config.num_levels == 7 == codec.hierarchy.num_levels


def test_table_1_has_its_frame_rates_and_alignment() -> None:
    with torch.device("meta"):
        codec = MultiResolutionCodec(CodecConfig(mrvq=MRVQConfig()))
    assert codec.alignment == 3000
    assert [(spec.name, spec.frame_rate, spec.num_codebooks) for spec in codec.transmitted] == [
        ("quant1", 8.0, 6), ("quant2", 16.0, 6), ("quant3", 24.0, 4), ("quant4", 48.0, 3)
    ]  # fmt: skip
    assert {spec.name: spec.role for spec in codec.streams if spec.role != "transmitted"} == {
        "pre2": "target", "pre3": "target", "post1": "input", "post2": "input", "post3": "input"
    }  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_round_trips_its_shapes(name: str, teacher: ResidualCodec) -> None:
    config = VARIANTS[name][0]
    codec = MultiResolutionCodec.from_teacher(teacher, config).eval()
    samples = codec.alignment + 7
    streams = codec.encode(synthetic_speech(1, samples))
    for spec in codec.streams:
        assert streams[spec.name].shape == (1, spec.num_codebooks, 2 * codec.alignment // spec.hop_length)
    only = {spec.name: streams[spec.name] for spec in codec.transmitted}
    assert codec.decode(only, samples).shape == (1, 1, samples)


@pytest.mark.parametrize("stride", [2, 3, 5, 6, 7, 12])
def test_sub_modules_divide_and_multiply_the_frames_exactly(stride: int) -> None:
    encoder, decoder = (kind(8, stride, MRVQConfig()) for kind in (SubEncoder, SubDecoder))
    for frames in (1, 2, 9):
        short = encoder(torch.randn(1, 8, frames * stride))
        assert short.shape == (1, 8, frames)
        assert decoder(short).shape == (1, 8, frames * stride)


def test_the_student_starts_as_a_copy_of_the_teacher(teacher: ResidualCodec, waveform) -> None:
    student = MultiResolutionCodec.from_teacher(teacher, MRVQConfig()).eval()
    latents = teacher.encode_latents(waveform)
    assert torch.equal(student.encode_latents(waveform), latents)
    assert torch.equal(student.decode_latents(latents), teacher.decode_latents(latents))
    named = student.mrvq.quantizers()
    groups = {"pre1": [0], "post1": [0], "pre2": [1, 2], "post2": [1, 2], "post3": [3, 4], "pre4": [5, 6, 7]}
    for name, indices in groups.items():
        for codebook, index in zip(named[name].codebooks, indices, strict=True):
            assert torch.equal(codebook.codebook, teacher.codebook(index)), name
    next(student.autoencoder.parameters()).data.add_(1)
    assert not torch.equal(next(student.autoencoder.parameters()), next(teacher.autoencoder.parameters()))


def test_without_pretraining_the_student_shares_nothing_with_the_teacher(teacher: ResidualCodec) -> None:
    student = MultiResolutionCodec.from_teacher(teacher, MRVQConfig(), "kmeans", "fresh")
    taught, own = teacher.autoencoder.state_dict(), student.autoencoder.state_dict()
    weights = [name for name in own if name.endswith("original1")]
    assert weights and own.keys() == taught.keys()
    assert not any(torch.equal(own[name], taught[name]) for name in weights)
    assert all(parameter.requires_grad for parameter in student.parameters())
    entries = torch.stack([teacher.codebook(index) for index in range(8)])
    assert not (student.mrvq.blocks[0].pre.codebooks[0].codebook == entries).flatten(1).all(1).any()


def test_kmeans_finds_quant_codebooks_and_leaves_the_teachers(student: MultiResolutionCodec, teacher) -> None:
    assert all(quantizer.initialised for quantizer in student.mrvq.quantizers().values())
    assert torch.equal(student.mrvq.blocks[1].post.codebooks[0].codebook, teacher.codebook(1))
    with torch.no_grad():
        clips = student.encode_latents(synthetic_speech(24, 24_000, seed=2))
    fresh = MultiResolutionCodec.from_teacher(teacher, MRVQConfig(), "kmeans").eval()
    fresh.mrvq.initialise(clips, "kmeans")
    assert all(quantizer.initialised for quantizer in fresh.mrvq.quantizers().values())
    assert not torch.equal(fresh.mrvq.blocks[1].post.codebooks[0].codebook, teacher.codebook(1))


def test_blocks_start_in_order_each_on_what_the_ones_before_leave(teacher) -> None:
    with torch.no_grad():
        clips = teacher.encode_latents(synthetic_speech(24, 24_000, seed=2))
    codec = MultiResolutionCodec.from_teacher(teacher, MRVQConfig(), "kmeans").eval()
    codec.mrvq.initialise(clips, "kmeans", seed=3)
    codes, residual, salt = codec.mrvq.encode(clips), clips, 0
    for k, (block, spec) in enumerate(zip(codec.mrvq.blocks, MRVQConfig().blocks, strict=True), start=1):
        alone = ResidualQuantizer(codec.latent_dim, spec.pre, codec.config.quantizer, salt)
        alone.initialise(residual.transpose(1, 2).reshape(-1, codec.latent_dim), seed=3)
        for found, expected in zip(block.pre.codebooks, alone.codebooks, strict=True):
            torch.testing.assert_close(found.codebook, expected.codebook, msg=f"block {k}")
        if not block.is_last:
            residual = residual - block.post.embed(codes[f"post{k}"])
            salt += spec.pre + spec.quant + spec.post


def test_partial_sums_are_the_embeddings_of_the_codes(student: MultiResolutionCodec, waveform) -> None:
    with torch.no_grad():
        latents = student.encode_latents(waveform)
        output = student.mrvq(latents)
    assert output.codes.keys() == student.mrvq.quantizers().keys()
    for name, codes in student.mrvq.encode(latents).items():
        assert torch.equal(codes, output.codes[name]), name
    assert torch.equal(output.partial_sums[0], student.mrvq.blocks[0].post.embed(output.codes["post1"]))
    transmitted = {f"quant{k}": output.codes[f"quant{k}" if k < 4 else "pre4"] for k in range(1, 5)}
    assert torch.equal(student.mrvq.decode(transmitted), output.quantized)


ALL_QUANTIZERS = [f"{part}{k}" for k in (1, 2, 3) for part in ("pre", "quant", "post")] + ["pre4"]


@pytest.mark.parametrize("name", ALL_QUANTIZERS)
def test_every_codebook_sends_a_commitment_gradient(name: str, student: MultiResolutionCodec) -> None:
    latents = student.encode_latents(synthetic_speech(1, 6000)).detach().requires_grad_()
    output = student.mrvq.train()(latents)
    block = student.mrvq.blocks[int(name[-1]) - 1]
    for index, commitment in enumerate(output.commitments[name]):
        target = latents
        if name.startswith("quant"):
            target = block.sub_encoder.convolution.bias
        elif name.startswith("post"):
            target = block.sub_decoder.convolution.bias
        (gradient,) = torch.autograd.grad(commitment, [target], retain_graph=True)
        assert float(gradient.abs().sum()) > 0, index


def test_reconstruction_gradients_reach_every_trained_parameter(student: MultiResolutionCodec) -> None:
    student.train()
    output = student.mrvq(student.encode_latents(synthetic_speech(1, 6000)))
    student.decode_latents(output.quantized).square().sum().backward()
    without = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_residuals_subtract_the_detached_embedding(student: MultiResolutionCodec) -> None:
    """The last block's PreQ sees latents minus constants: its gradient at the latents is the identity's."""
    latents = student.encode_latents(synthetic_speech(1, 3000)).detach().requires_grad_()
    output = student.mrvq(latents)
    (output.partial_sums[3] - output.partial_sums[2]).sum().backward()
    torch.testing.assert_close(latents.grad, torch.ones_like(latents))


def test_the_reconstruction_target_is_detached(student: MultiResolutionCodec) -> None:
    output = student.mrvq(student.encode_latents(synthetic_speech(1, 3000)))
    assert len(output.hsr_pairs) == 3
    assert not any(target.requires_grad for target, _ in output.hsr_pairs)
    assert all(reconstruction.requires_grad for _, reconstruction in output.hsr_pairs)
    assert float(hsr_loss(output.hsr_pairs, [1.0] * 3).detach()) > 0


def test_a_batch_has_the_codes_of_its_items(student: MultiResolutionCodec) -> None:
    wave = synthetic_speech(4, 12_000, seed=11)
    together = student.encode(wave)
    single = [student.encode(item.unsqueeze(0)) for item in wave]
    for name, codes in together.items():
        assert (codes == torch.cat([one[name] for one in single])).double().mean() >= 0.999, name
    student.double()
    together = student.encode(wave.double())
    single = [student.encode(item.unsqueeze(0)) for item in wave.double()]
    assert all(torch.equal(codes, torch.cat([one[name] for one in single])) for name, codes in together.items())


def test_a_foreign_teacher_needs_only_its_latents_functions(teacher: ResidualCodec, waveform) -> None:
    class Foreign(torch.nn.Module):
        sample_rate, hop_length, latent_dim, num_codebooks, codebook_size = 24_000, 500, 16, 8, 16

        def __init__(self):
            super().__init__()
            self.inner = teacher

        def encode_latents(self, wave):
            return self.inner.encode_latents(wave)

        def decode_latents(self, latents):
            return self.inner.decode_latents(latents)

        def codebook(self, index):
            return self.inner.codebook(index)

    student = make_student(Foreign(), MRVQConfig())
    assert student.decode(student.encode(waveform), 24_000).shape == waveform.shape
    with pytest.raises(UsageError, match="Foreign"):
        student.export_config()


def test_a_teacher_with_too_few_codebooks_is_refused() -> None:
    teacher = ResidualCodec(tiny_config(num_codebooks=6))
    with pytest.raises(UsageError, match="a teacher of 8 codebooks, got one of `6`"):
        MultiResolutionCodec.from_teacher(teacher, MRVQConfig())


def test_frames_that_do_not_line_up_are_refused(student: MultiResolutionCodec) -> None:
    with pytest.raises(UsageError, match="expected a multiple of 6 latent frames"):
        student.mrvq.encode(torch.zeros(1, 16, 7))
