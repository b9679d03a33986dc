from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.audio.io import read_audio
from stages.errors import MissingModelError
from stages.speech import onnx_models, quality
from stages.speech.quality import DNSMOS, RATE, SQUIM, THRESHOLDS, load_quality, missing_quality

SPEECH = Path(__file__).parents[2] / "examples" / "speech"


@pytest.fixture(scope="module")
def speech():
    """Ten seconds of sentences at 16 kHz."""
    rows = [json.loads(line) for line in (SPEECH / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    return np.concatenate([read_audio(SPEECH / row["file_name"], RATE) for row in rows[:5]])[: 10 * RATE]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of the real network, as torchaudio's file holds them."""
    from torchaudio.models import squim_objective_base

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("squim") / "squim.pth"
    torch.save(squim_objective_base().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def squim(weights):
    return load_quality(SQUIM, str(weights))


@pytest.fixture(scope="module")
def dnsmos():
    for package in ("speechmos", "onnxruntime", "librosa"):
        pytest.importorskip(package)
    return load_quality(DNSMOS)


def noise(seconds, level=0.1):
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_the_papers_thresholds_are_those_of_squim():
    assert (THRESHOLDS[SQUIM].mean, THRESHOLDS[SQUIM].deviation) == (2.5, 0.6)


# ---- Squim


def test_squim_is_torchaudios_pesq(weights, squim, speech):
    from torchaudio.models import squim_objective_base

    model = squim_objective_base().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        expected = float(model(torch.from_numpy(speech[None, : 2 * RATE]))[1])
    assert squim.estimate(speech[: 2 * RATE], RATE) == pytest.approx(expected, abs=1e-4)


def test_squim_leaves_torchs_fast_path_as_it_was(squim, speech):
    squim.estimate(speech[:RATE], RATE)
    assert torch.backends.mha.get_fastpath_enabled()


def test_squim_is_known_by_its_weights(weights, squim, tmp_path):
    state = torch.load(weights, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, tmp_path / "other.pth")
    other = load_quality(SQUIM, str(tmp_path / "other.pth"))
    assert other.name == squim.name == "squim-pesq" and other.version != squim.version


def test_squim_is_taken_from_where_torchaudio_keeps_it(weights, squim, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "torchaudio" / "models").mkdir(parents=True)
    (tmp_path / "torchaudio" / "models" / "squim_objective_dns2020.pth").write_bytes(weights.read_bytes())
    assert missing_quality(SQUIM) == ""
    assert load_quality(SQUIM).version == squim.version


def test_missing_weights_name_their_size_licence_and_source(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    told = missing_quality(SQUIM)
    for part in ("28 MB", "CC BY 4.0", "curl -fL", "https://download.pytorch.org/torchaudio/models/squim_objective",
                 "--quality-gate dnsmos", str(tmp_path)):
        assert part in told
    with pytest.raises(MissingModelError, match="SQUIM_OBJECTIVE"):
        load_quality(SQUIM)


@pytest.mark.parametrize("content", [b"not a pickle", b""])
def test_a_file_that_is_no_weights_is_refused(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(MissingModelError, match="does not hold the weights of SQUIM_OBJECTIVE"):
        load_quality(SQUIM, str(tmp_path / "bad.pth"))


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(MissingModelError, match="does not hold the weights of SQUIM_OBJECTIVE"):
        load_quality(SQUIM, str(tmp_path / "other.pth"))


# ---- DNSMOS


def test_dnsmos_of_a_window_is_the_packages(dnsmos, speech):
    from speechmos import dnsmos as package

    window = speech[:144_160]
    assert dnsmos.estimate(window, RATE) == pytest.approx(float(package.run(window, RATE)["p808_mos"]), abs=1e-3)


def test_dnsmos_of_short_sound_is_that_of_the_sound_repeated(dnsmos, speech):
    short = speech[: 3 * RATE]
    assert dnsmos.estimate(short, RATE) == pytest.approx(dnsmos.estimate(np.tile(short, 4)[:144_160], RATE), abs=1e-6)


def test_windows_cover_all_of_the_sound():
    samples = np.arange(30 * RATE)
    windows = quality._windows(samples)
    assert len(windows) == 4
    assert len(np.unique(np.concatenate(windows))) == len(samples)


def test_noise_over_speech_lowers_dnsmos(dnsmos, speech):
    clean, noisy, drowned = (dnsmos.estimate(speech + noise(10, level), RATE) for level in (0, 0.02, 0.2))
    assert clean > noisy + 0.2 and noisy > drowned + 0.2


def test_what_follows_one_window_counts(dnsmos, speech):
    assert dnsmos.estimate(np.concatenate([speech, noise(10)]), RATE) < dnsmos.estimate(speech, RATE) - 0.3


def test_dnsmos_does_not_take_another_processor(dnsmos):
    assert dnsmos._session.get_session_options().intra_op_num_threads == 1


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(onnx_models, "find_spec", lambda package: None)
    with pytest.raises(MissingModelError, match=r"`speechmos`, .*`librosa` \(pip install 'halle\[mos\]'\)"):
        load_quality(DNSMOS)


# ---- both


def test_an_unknown_estimator_is_refused():
    with pytest.raises(MissingModelError, match="got `pesq`"):
        load_quality("pesq")


@pytest.fixture(params=["squim", "dnsmos"])
def estimator(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(RATE), np.full(RATE, 5e-5), np.full(RATE, np.nan),
                                     np.r_[np.ones(RATE), np.inf]],
                         ids=["nothing", "silence", "-86 dB", "nan", "one inf"])
def test_what_cannot_be_judged_has_no_score(estimator, samples):
    assert np.isnan(estimator.estimate(samples.astype(np.float32), RATE))


@pytest.mark.parametrize("samples", [np.full(1, 0.5), np.sin(np.arange(2 * RATE) * 0.2) * 0.1, np.ones(100)],
                         ids=["one sample", "a tone", "a hundred samples"])
def test_whatever_sounds_has_a_score_in_range(estimator, samples):
    assert 0.5 < estimator.estimate(samples.astype(np.float32), RATE) < 5


def test_sound_beyond_full_scale_is_judged_as_clipped(estimator, speech):
    loud = speech[: 2 * RATE] * (2 / np.abs(speech).max())
    assert estimator.estimate(loud, RATE) == pytest.approx(estimator.estimate(loud.clip(-1, 1), RATE), abs=1e-5)


def test_the_sample_rate_is_brought_to_16_khz(estimator, speech):
    import soxr

    short = speech[: 2 * RATE]
    assert estimator.estimate(soxr.resample(short, RATE, 48_000), 48_000) == pytest.approx(
        estimator.estimate(short, RATE), abs=0.15)
