from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from tiny_codecs import make_student, synthetic_speech, tiny_config

from stages.codec.encodec import BidirectionalLSTM
from stages.codec.quantizer import Ranks
from stages.codec.registry import codec_fingerprint, export_codec, load_codec, load_teacher
from stages.codec.residual import ResidualCodec
from stages.codec.speech_tokenizer import SemanticDistillation, d_axis_loss, gradients_at_latents
from stages.config.models import CodecConfig, MRVQConfig, SEANetConfig


@pytest.fixture
def tokenizer() -> ResidualCodec:
    codec = ResidualCodec(tiny_config(arch="speechtokenizer"))
    with torch.no_grad():
        latents = codec.encode_latents(synthetic_speech(4, 48_000, seed=1))
    codec.quantizer.initialise(latents.transpose(1, 2).reshape(-1, latents.shape[1]))
    return codec.eval()


def test_it_differs_from_encodec_by_the_encoders_lstm_and_the_convolution_after_it_alone() -> None:
    plain, ours = (ResidualCodec(tiny_config(arch=arch)).state_dict() for arch in ("encodec", "speechtokenizer"))
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (plain, ours)]
    different = {name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)}
    lstm, convolution = "autoencoder.encoder.model.13.", "autoencoder.encoder.model.15."
    assert different and all(name.startswith((lstm, convolution)) for name in different)
    weight = f"{convolution}conv.conv.parametrizations.weight.original1"
    assert shapes[1][weight] == (16, 64, 7) and shapes[0][weight] == (16, 32, 7)
    assert any("reverse" in name for name in different)


def test_the_papers_speech_tokenizer_has_encodecs_rates_and_more_parameters() -> None:
    with torch.device("meta"):
        ours, plain = (ResidualCodec(CodecConfig(arch=arch)) for arch in ("speechtokenizer", "encodec"))
    assert (ours.hop_length, ours.streams, ours.bits_per_second) == (plain.hop_length, plain.streams, 3840)
    # both directions of two LSTM layers 512 wide; the second reads 1024; 512 more inputs of a convolution to 128
    lstm = [2 * 4 * 512 * (inputs + 512 + 2) for inputs in (512, 1024)]
    more = sum(lstm) - 2 * 4 * 512 * (512 + 512 + 2) + 512 * 128 * 7
    count = [sum(p.numel() for p in codec.parameters()) for codec in (ours, plain)]
    assert count[0] - count[1] == more


def test_the_skip_adds_the_input_to_both_directions() -> None:
    lstm = BidirectionalLSTM(4, 2)
    latents = torch.randn(2, 4, 5)
    hidden = lstm.lstm(latents.transpose(1, 2))[0].transpose(1, 2)
    found = lstm(latents)
    assert torch.equal(found[:, :4], latents + hidden[:, :4])
    assert torch.equal(found[:, 4:], latents + hidden[:, 4:])


def test_latents_know_the_future_and_the_decoder_does_not() -> None:
    codec = ResidualCodec(tiny_config(arch="speechtokenizer")).eval()
    wave = synthetic_speech(1, 5000)
    changed = wave.clone()
    changed[..., 3000:] = 0
    with torch.no_grad():
        before, after = codec.encode_latents(wave), codec.encode_latents(changed)
        assert not torch.equal(before[..., :1], after[..., :1])
        after[..., :6] = before[..., :6]
        sound, cut = codec.decode_latents(before), codec.decode_latents(after)
    assert torch.equal(sound[..., :3000], cut[..., :3000]) and not torch.equal(sound, cut)


@pytest.mark.parametrize("multi_resolution", [False, True])
def test_a_batch_has_the_codes_of_its_items(tokenizer: ResidualCodec, multi_resolution: bool) -> None:
    codec = make_student(tokenizer, MRVQConfig()) if multi_resolution else tokenizer
    wave = synthetic_speech(3, 45_000, seed=9)
    for precision, least in ((torch.float32, 0.999), (torch.float64, 1.0)):
        exact = codec.to(precision)
        together = exact.encode(wave.to(precision))
        for name, codes in together.items():
            single = torch.cat([exact.encode(item.unsqueeze(0))[name] for item in wave.to(precision)])
            assert (codes == single).double().mean() >= least, name


def test_an_export_is_read_again_and_teaches_a_student_that_keeps_its_lstm(tokenizer, tmp_path) -> None:
    export_codec(tokenizer, tmp_path / "speechtokenizer.pt")
    assert codec_fingerprint(load_codec(tmp_path / "speechtokenizer.pt")) == codec_fingerprint(tokenizer)
    student = make_student(load_teacher(tmp_path / "speechtokenizer.pt"), MRVQConfig())
    export_codec(student, tmp_path / "mreq.pt")
    again = load_codec(tmp_path / "mreq.pt")
    assert again.config.arch == "speechtokenizer"
    assert isinstance(again.autoencoder.encoder.model[-3], BidirectionalLSTM)
    wave = synthetic_speech(1, 12_000)
    assert all(torch.equal(codes, again.encode(wave)[name]) for name, codes in student.encode(wave).items())


def test_without_an_lstm_there_is_no_speech_tokenizer() -> None:
    with pytest.raises(ValidationError, match="lstm_layers of at least 1, got 0"):
        CodecConfig(arch="speechtokenizer", seanet=SEANetConfig(lstm_layers=0))


def test_the_loss_is_the_papers_sum_over_channels() -> None:
    projected, features = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    total = 0.0
    for item in range(2):
        for channel in range(3):
            ours, theirs = projected[item, channel], features[item, channel]
            cosine = float(ours @ theirs / (ours.norm() * theirs.norm()))
            total += -math.log(1 / (1 + math.exp(-cosine))) / 3
    assert float(d_axis_loss(projected, features)) == pytest.approx(total / 2)
    for factor, expected in ((5.0, 0.3133), (-0.2, 1.3133)):
        assert float(d_axis_loss(factor * features, features)) == pytest.approx(expected, abs=1e-4)


def test_the_first_codebooks_output_is_taught_and_passes_its_gradient_straight_to_the_encoder(tokenizer) -> None:
    distillation = SemanticDistillation(16, 24)
    latents = tokenizer.encode_latents(synthetic_speech(2, 12_000))
    latents.retain_grad()
    output = tokenizer.quantizer(latents)
    assert torch.equal(output.partial_sums[0], tokenizer.quantizer.embed_codebook(0, output.codes[:, 0]))
    features = torch.randn(2, 24, 24)
    distillation(output.partial_sums[0], features).backward()
    first = tokenizer.quantizer.embed_codebook(0, output.codes[:, 0]).requires_grad_()
    distillation(first, features).backward()
    assert torch.equal(latents.grad, first.grad) and float(latents.grad.abs().max()) > 0
    encoder = tokenizer.autoencoder.encoder
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert all(parameter.grad is None for parameter in tokenizer.autoencoder.decoder.parameters())


def test_what_is_taught_is_what_was_decoded_not_what_the_codebook_has_become(tokenizer) -> None:
    latents = tokenizer.encode_latents(synthetic_speech(2, 12_000))
    entries = tokenizer.codebook(0).clone()
    output = tokenizer.train().quantizer(latents)
    embedded = torch.nn.functional.embedding(output.codes[:, 0], entries)
    assert torch.equal(output.partial_sums[0], embedded.transpose(1, 2))
    assert not torch.equal(tokenizer.codebook(0), entries)


def test_gradient_norms_are_those_of_the_losses() -> None:
    latents = torch.randn(2, 3, 4, requires_grad=True)
    found = gradients_at_latents(latents, {"nac": 2 * latents.sum(), "semantic": latents.square().sum() / 2}, Ranks())
    assert float(found["gradient_at_latents.nac"]) == pytest.approx(2 * math.sqrt(24))
    assert float(found["gradient_at_latents.semantic"]) == pytest.approx(float(latents.norm()))
    assert latents.grad is None


def test_distillation_falls_when_the_features_can_be_predicted(tokenizer) -> None:
    """Features that are a linear map of the first codebook's output itself."""
    latents = tokenizer.encode_latents(synthetic_speech(4, 12_000)).detach()
    first = tokenizer.quantizer(latents).partial_sums[0]
    features = torch.einsum("fd,bdt->bft", torch.randn(24, 16), first)
    distillation = SemanticDistillation(16, 24)
    optimizer = torch.optim.Adam(distillation.parameters(), lr=0.02)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = distillation(first, features)
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[0] > 0.6 and values[-1] < 0.45
