from __future__ import annotations

import pytest
import torch
from tiny_codecs import synthetic_speech

from stages.codec.residual import ResidualCodec
from stages.codec.spectral import ShortTimeSpectrum, SpectralAutoencoder, compressed_features
from stages.config.models import CodecConfig, SpectralConfig

TINY = {"latent_dim": 8, "channels": 16, "ffn_dim": 16, "encoder_blocks": 2, "decoder_blocks": 2}


@pytest.mark.parametrize("window, hop", [(2000, 500), (150, 50), (150, 75), (1500, 375)])  # even and odd margins
def test_every_hop_is_one_frame_and_the_inverse_gives_the_waveform_back(window: int, hop: int) -> None:
    spectrum = ShortTimeSpectrum(window, hop)
    waveform = torch.randn(2, 7 * hop)
    spectra = spectrum(waveform)
    assert spectra.shape == (2, 7, window // 2 + 1)
    torch.testing.assert_close(spectrum.inverse(spectra), waveform, rtol=0, atol=1e-5)


def test_a_frame_is_the_transform_of_the_window_centred_on_its_hop() -> None:
    spectrum = ShortTimeSpectrum(200, 100)
    waveform = torch.randn(1, 500)
    expected = torch.fft.rfft(waveform[0, 150:350] * torch.hann_window(200), norm="ortho")  # hop 2 is 200..299
    torch.testing.assert_close(spectrum(waveform)[0, 2], expected)


@pytest.mark.parametrize("hop, spectra", [(500, 2), (500, 4), (375, 1), (375, 3)])
def test_a_spectral_codec_keeps_the_length_and_its_frame_rate(hop: int, spectra: int) -> None:
    windows = {"hop_length": hop, "spectra_per_latent": spectra, "window_length": 4 * hop // spectra}
    codec_config = CodecConfig(arch="spectral", spectral=SpectralConfig(**windows, **TINY))
    codec = ResidualCodec(codec_config).eval()
    codes = codec.encode(synthetic_speech(2, 10 * hop - 3))
    assert codes["rvq"].shape == (2, 8, 10)
    assert codec.decode(codes, 10 * hop - 3).shape == (2, 1, 10 * hop - 3)
    assert codec.streams[0].frame_rate == 24_000 / hop


def test_silence_and_half_precision_give_finite_values_and_gradients() -> None:
    autoencoder = SpectralAutoencoder(SpectralConfig(**TINY))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        estimate = autoencoder.decode_latents(autoencoder.encode_latents(torch.zeros(1, 1, 4000)))
    estimate.square().mean().backward()
    assert estimate.dtype == torch.float32 and estimate.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in autoencoder.parameters())


def test_the_encoder_reads_log_magnitudes_and_compressed_magnitudes_with_their_phase() -> None:
    spectra = torch.polar(torch.tensor([[[0.5, 2.0]]]), torch.tensor([[[0.3, -2.0]]]))
    logarithm, real, imaginary = compressed_features(spectra).chunk(3, dim=-1)
    torch.testing.assert_close(logarithm, spectra.abs().log10())
    torch.testing.assert_close(torch.complex(real, imaginary).abs(), spectra.abs() ** 0.3)
    torch.testing.assert_close(torch.complex(real, imaginary).angle(), spectra.angle())


def test_the_spectra_of_a_latent_are_those_within_its_hop() -> None:
    config = SpectralConfig(spectra_per_latent=2, window_length=1000, kernel_size=1, **TINY)
    autoencoder = SpectralAutoencoder(config).eval()
    waveform = synthetic_speech(1, 5000)
    changed = waveform.clone()
    changed[..., 2500:3000] = 0  # the hop of latent 5; windows of 1000 reach 375 samples beyond each end of it
    moved = (autoencoder.encode_latents(waveform) - autoencoder.encode_latents(changed)).abs().amax(dim=(0, 1)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize("windows, message", [({"spectra_per_latent": 3}, "should divide hop_length 500"),
                                              ({"window_length": 125}, "at least twice")])
def test_windows_that_do_not_tile_are_refused(windows: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectralConfig(**windows)


def test_a_magnitude_beyond_all_numbers_has_a_gradient() -> None:
    codec = SpectralAutoencoder(SpectralConfig(**TINY))
    with torch.no_grad():
        for parameter in codec.decoder.parameters():
            parameter.mul_(200)
    latents = torch.randn(1, 8, 4, requires_grad=True)
    waveform = codec.decode_latents(latents)
    waveform.square().mean().backward()
    assert torch.isfinite(waveform).all() and torch.isfinite(latents.grad).all()
