"""Every metric against its own library, called as its authors say, or against a slow reference written here."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest
import soxr
import torch
from scipy.stats import wasserstein_distance
from whisper_normalizer.english import EnglishTextNormalizer

from stages.audio.io import read_audio
from stages.metrics.base import MetricInput
from stages.metrics.duration import DurationDistance, PeakMemory, RealTimeFactor
from stages.metrics.intelligibility import CorpusWER, MeanWER
from stages.metrics.opinion import DNSMOS, UTMOS
from stages.metrics.quality import PESQ, STOI, MelDistance
from stages.metrics.speaker import SimilarityDrift, SpeakerSimilarity
from stages.metrics.summary import summarise

SPEECH = Path(__file__).parents[2] / "examples" / "speech" / "audio"
RATE = 16_000


def speech(name, sample_rate=RATE):
    return read_audio(SPEECH / f"{name}.ogg", sample_rate)


def noisy(waveform, level=0.02):
    return (waveform + np.random.default_rng(0).normal(0, level, len(waveform))).astype(np.float32)


def total(metric, items):
    return summarise(metric, [metric.measure(item) for item in items], bootstrap_samples=10).value


def test_pesq_is_that_of_its_library():
    pesq = pytest.importorskip("pesq").pesq
    reference = speech("rms-001")
    output = noisy(reference)
    ours = PESQ().measure(MetricInput("text", RATE, output, reference=reference)).value
    assert ours == pytest.approx(pesq(RATE, reference, output, "wb"), abs=1e-6)


def test_stoi_is_that_of_its_library():
    from pystoi import stoi

    reference = speech("slt-001", 24_000)
    output = noisy(reference)
    ours = STOI().measure(MetricInput("text", 24_000, output, reference=reference)).value
    assert ours == pytest.approx(stoi(reference, output, 24_000), abs=1e-6)


def test_the_mel_distance_is_that_of_spectra_computed_one_frame_at_a_time():
    reference = speech("rms-001", 24_000)[24_000:36_000]
    output = noisy(reference)
    ours = MelDistance().measure(MetricInput("text", 24_000, output, reference=reference)).value
    distance = np.abs(slow_log_mel(output, 24_000) - slow_log_mel(reference, 24_000)).mean()
    assert ours == pytest.approx(distance, rel=1e-3)


def slow_log_mel(waveform, sample_rate, window=1024, hop=256, bands=64):
    """log10 of mel powers [bands, frames] (HTK mels from 64 Hz up, Hann window normalised by its energy)."""
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + f / 700) for f in (64, sample_rate / 2)), bands + 2)
                          / 2595) - 1)  # fmt: skip
    frequencies = np.linspace(0, sample_rate / 2, window // 2 + 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(np.pad(waveform.astype(np.float64), (0, -len(waveform) % hop)), (window - hop) // 2, mode="reflect")
    frames = []
    for start in range(0, len(padded) - window + 1, hop):
        power = np.abs(np.fft.rfft(padded[start : start + window] * hann)) ** 2 / (hann**2).sum()
        heard = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
            heard.append((np.clip(np.minimum(rising, falling), 0, None) * power).sum())
        frames.append(np.log10(np.array(heard) + 1e-5))
    return np.array(frames).T


@pytest.mark.parametrize("opinion", ["p808", "sig", "bak", "ovrl"])
def test_dnsmos_is_that_of_its_library(opinion):
    for package in ("speechmos", "onnxruntime", "librosa"):
        pytest.importorskip(package)
    from speechmos import dnsmos

    waveform = speech("rms-001")
    theirs = dnsmos.run(waveform, RATE)[f"{opinion}_mos"]
    assert DNSMOS(opinion).measure(MetricInput("text", RATE, waveform)).value == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("seconds", [0.7, 4.0, 9.0, 9.01, 10.0, 24.6])
def test_dnsmos_p808_hears_the_windows_of_its_library(seconds):
    for package in ("speechmos", "onnxruntime", "librosa"):
        pytest.importorskip(package)
    from speechmos import dnsmos

    rising = np.random.default_rng(0).normal(0, np.linspace(0.001, 0.1, int(seconds * 16_000)))  # no window is another
    samples = (rising + np.sin(np.arange(len(rising)) / 7) * 0.1).clip(-1, 1).astype(np.float32)
    theirs = dnsmos.run(samples, 16_000)["p808_mos"]
    assert DNSMOS().measure(MetricInput("text", 16_000, samples)).value == pytest.approx(theirs, abs=1e-6)


def test_dnsmos_p808_does_without_the_model_of_p835(monkeypatch):
    for package in ("speechmos", "onnxruntime", "librosa"):
        pytest.importorskip(package)
    from speechmos import dnsmos

    monkeypatch.setattr(dnsmos, "run", lambda *arguments: pytest.fail("both models were run"))
    assert 1 < DNSMOS().measure(MetricInput("text", RATE, speech("rms-001"))).value < 5


class LoudnessJudge(torch.nn.Module):
    """Stands in for UTMOS, whose weights are a download: float32 [1, samples] at 16 kHz to [1]."""

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return 5 * waveform.square().mean(dim=1).sqrt() + waveform.shape[1] / 1e6


def test_utmos_is_what_its_torchscript_file_says_of_the_same_samples(tmp_path):
    file = tmp_path / "utmos.pt"
    torch.jit.script(LoudnessJudge()).save(str(file))
    waveform, theirs = speech("rms-001", 24_000), torch.jit.load(str(file))
    metric = UTMOS(str(file))
    assert metric.unavailable() == ""
    at_16_khz = torch.from_numpy(soxr.resample(waveform, 24_000, 16_000).astype(np.float32))
    ours = metric.measure(MetricInput("text", 24_000, waveform)).value
    assert ours == pytest.approx(float(theirs(at_16_khz[None])), abs=1e-6)
    minute = np.tile(waveform, 20)[: 61 * 24_000]
    thirds = np.array_split(soxr.resample(minute, 24_000, 16_000).astype(np.float32), 3)
    expected = np.mean([float(theirs(torch.from_numpy(third)[None])) for third in thirds])
    assert metric.measure(MetricInput("text", 24_000, minute)).value == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def encoder():
    return pytest.importorskip("resemblyzer").VoiceEncoder("cpu", verbose=False)


def cosine(first, second):
    return float(np.dot(first, second) / np.sqrt(np.dot(first, first) * np.dot(second, second)))


def test_sim_is_the_cosine_of_the_vectors_that_the_speaker_model_itself_gives(encoder):
    from resemblyzer import preprocess_wav

    prompt, output = speech("slt-001", 24_000), speech("rms-002", 24_000)
    metric = SpeakerSimilarity("resemblyzer")
    assert metric.unavailable() == ""
    whole = np.concatenate([prompt, output])
    ours = metric.measure(MetricInput("text", 24_000, whole, prompt_samples=len(prompt), voice=prompt)).value
    vectors = [encoder.embed_utterance(preprocess_wav(each.copy(), 24_000)) for each in (output, prompt)]
    assert ours == pytest.approx(cosine(*vectors), abs=1e-5)


def test_sim_over_time_is_the_cosine_of_each_window_and_its_drift_that_of_the_thirds(encoder):
    from resemblyzer import preprocess_wav

    his, hers = (np.concatenate([speech(f"{voice}-00{index}") for index in (1, 2, 3)]) for voice in ("rms", "slt"))
    made = np.concatenate([his, hers])
    count = round(len(made) / RATE / 5)
    voice = encoder.embed_utterance(preprocess_wav(his.copy(), RATE))
    expected = []
    for index in range(count):
        edges = (round(index * len(made) / count), round((index + 1) * len(made) / count))
        expected.append(cosine(voice, encoder.embed_utterance(preprocess_wav(made[slice(*edges)].copy(), RATE))))
    metric = SimilarityDrift("resemblyzer")
    assert metric.unavailable() == "" and count >= 3
    measured = metric.measure(MetricInput("text", RATE, made, voice=his))
    np.testing.assert_allclose(measured.details["similarity"], expected, atol=2e-3)
    middles = [(index + 0.5) * len(made) / RATE / count for index in range(count)]
    np.testing.assert_allclose(measured.details["seconds"], middles, atol=1e-3)
    third = count // 3
    assert measured.value == pytest.approx(np.mean(expected[-third:]) - np.mean(expected[:third]), abs=2e-3)
    assert measured.value < -0.1  # another voice came in


def slow_word_errors(reference, heard):
    """The least number of edits between two lists of words, one cell of the table at a time."""
    table = [[i + j if 0 in (i, j) else 0 for j in range(len(heard) + 1)] for i in range(len(reference) + 1)]
    for i in range(1, len(reference) + 1):
        for j in range(1, len(heard) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1,
                              table[i - 1][j - 1] + (reference[i - 1] != heard[j - 1]))
    return table[-1][-1]


def test_word_error_rates_are_those_of_the_textbook_and_of_jiwer():
    rng, words = np.random.default_rng(0), "the cat sat on a mat and saw my dog run over there".split()
    texts = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(40)]
    heard = [" ".join(word for word in text.split() for _ in range(rng.choice([0, 1, 1, 1, 2]))
                      if rng.random() > 0.1) for text in texts]  # fmt: skip
    items = [MetricInput(text, RATE, np.ones(9, np.float32), transcript=said)
             for text, said in zip(texts, heard, strict=True)]
    normalise = EnglishTextNormalizer()
    pairs = [(normalise(text).split(), normalise(said).split()) for text, said in zip(texts, heard, strict=True)]
    pairs = [pair for pair in pairs if pair[0]]
    errors = [slow_word_errors(*pair) for pair in pairs]
    lengths = [len(reference) for reference, _ in pairs]
    assert total(CorpusWER(), items) == pytest.approx(100 * sum(errors) / sum(lengths))
    assert total(MeanWER(), items) == pytest.approx(100 * np.mean(np.divide(errors, lengths)))
    references, hypotheses = ([" ".join(side) for side in sides] for sides in zip(*pairs, strict=True))
    assert total(CorpusWER(), items) == pytest.approx(100 * jiwer.wer(references, hypotheses))


def lasting(output, reference=1.0, **more):
    waveforms = [np.ones(round(seconds * 100), np.float32) for seconds in (output, reference)]
    return MetricInput("text", 100, waveforms[0], reference=waveforms[1], **more)


def test_the_duration_distance_is_that_of_scipy_and_of_sorted_durations():
    pairs = np.random.default_rng(1).uniform(1, 90, (30, 2)).round(2)
    ours = total(DurationDistance(), [lasting(*pair) for pair in pairs])
    assert ours == pytest.approx(wasserstein_distance(pairs[:, 0], pairs[:, 1]))
    assert ours == pytest.approx(np.abs(np.sort(pairs[:, 0]) - np.sort(pairs[:, 1])).mean())


def test_the_real_time_factor_and_peak_memory_are_sums_and_maxima_by_hand():
    items = [lasting(2, seconds_to_make=3.0, peak_memory=5 * 2**20), lasting(8, seconds_to_make=1.0, peak_memory=2**20)]
    assert total(RealTimeFactor(), items) == pytest.approx((3 + 1) / (2 + 8))
    assert total(PeakMemory(), items) == 5.0
