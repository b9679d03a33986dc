"""A recording as a prompt: cut to its sound, and told when it is a poor one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_tokens import tiny_codec

from stages.audio.io import AudioError, read_audio
from stages.errors import UsageError
from stages.synthesis.prompt import MARGIN_SECONDS, Prompt, PromptLimits, read_prompt

RATE = 24_000
SPEECH = read_audio(Path(__file__).parents[2] / "examples" / "speech" / "prompt.ogg", RATE)
SPEECH = SPEECH[round(0.16 * RATE) : round(6.48 * RATE)]  # without the silence at its ends


@pytest.fixture(scope="module")
def codec():
    return tiny_codec("halle")


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def noise(seconds: float, level: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, round(seconds * RATE)).astype(np.float32)


def read(tmp_path: Path, codec, *parts: np.ndarray, limits: PromptLimits = PromptLimits(), **options) -> Prompt:
    soundfile.write(tmp_path / "voice.wav", np.concatenate(parts), RATE, subtype="FLOAT")
    return read_prompt(tmp_path / "voice.wav", codec, limits, "what it says", **options)


@pytest.mark.parametrize("gain", [0.02, 1.0])
@pytest.mark.parametrize("room", [0.0, 0.0005])
def test_silence_at_the_ends_is_cut_off_but_for_a_margin(tmp_path, codec, gain, room):
    parts = np.concatenate([silence(1.5), SPEECH, silence(2.0)])
    prompt = read(tmp_path, codec, gain * (parts + noise(len(parts) / RATE, room)))
    cut = prompt.checks["trimmed_seconds"]
    assert cut["start"] == pytest.approx(1.5 - MARGIN_SECONDS, abs=0.05)
    frame = codec.alignment / RATE
    assert 2.0 - MARGIN_SECONDS - frame - 0.1 < cut["end"] < 2.0 - MARGIN_SECONDS + 0.1
    kept = gain * parts[round(cut["start"] * RATE) :][: len(prompt.waveform)]
    assert np.allclose(prompt.waveform, kept, atol=gain * 0.003)
    assert len(prompt.waveform) % codec.alignment == 0
    assert len(prompt.waveform) >= len(SPEECH) + MARGIN_SECONDS * RATE  # nothing of the speech is lost


@pytest.mark.parametrize("samples", [95_500, 96_000, 96_700])
def test_the_whole_margin_is_kept_behind_the_sound_and_the_prompt_ends_with_a_frame(tmp_path, codec, samples):
    tone = 0.3 * np.sin(np.arange(samples) / 20).astype(np.float32)
    prompt = read(tmp_path, codec, silence(1.5), tone, silence(1.5))
    heard = np.flatnonzero(prompt.waveform)
    assert heard[0] == pytest.approx(MARGIN_SECONDS * RATE, abs=2)
    behind = len(prompt.waveform) - heard[-1]
    assert MARGIN_SECONDS * RATE <= behind <= MARGIN_SECONDS * RATE + 480 + codec.alignment  # a frame of 20 ms, and one


def test_a_recording_without_silence_is_left_whole(tmp_path, codec):
    prompt = read(tmp_path, codec, SPEECH)
    assert prompt.checks == {"trimmed_seconds": {"start": 0.0, "end": 0.0}, "warnings": []}
    assert len(prompt.waveform) == len(SPEECH) // codec.alignment * codec.alignment


def test_trimming_can_be_switched_off(tmp_path, codec):
    prompt = read(tmp_path, codec, silence(1.0), SPEECH, trim=False)
    assert prompt.checks["trimmed_seconds"] == {"start": 0.0, "end": 0.0}
    assert not prompt.waveform[: RATE // 2].any()


def test_a_click_is_no_beginning_of_speech(tmp_path, codec):
    click = silence(1.5)
    click[500:700] = 0.5
    assert read(tmp_path, codec, click, SPEECH).checks["trimmed_seconds"]["start"] > 1.3


def test_pauses_inside_stay(tmp_path, codec):
    half = len(SPEECH) // 2
    prompt = read(tmp_path, codec, SPEECH[:half], silence(1.0), SPEECH[half:])
    assert len(prompt.waveform) > len(SPEECH) + 0.9 * RATE


def test_the_speech_and_not_the_silence_must_be_long_enough(tmp_path, codec):
    with pytest.raises(UsageError, match=r"expected at least 3 s, got 2\.\d+ s and [67]\.\d+ s of silence at its ends"):
        read(tmp_path, codec, silence(4.0), SPEECH[: 2 * RATE], silence(3.0))
    read(tmp_path, codec, silence(4.0), SPEECH[: 2 * RATE], silence(3.0), limits=PromptLimits(min_seconds=1.5))
    read(tmp_path, codec, silence(20.0), SPEECH, silence(20.0))  # of at most 30 s too
    with pytest.raises(UsageError, match="expected at most 4 s"):
        read(tmp_path, codec, SPEECH, limits=PromptLimits(max_seconds=4.0))


def test_loudness_is_that_of_the_speech_and_not_of_the_silence_around_it(tmp_path, codec):
    alone = read(tmp_path, codec, 0.1 * SPEECH, loudness_db=-20.0)
    padded = read(tmp_path, codec, silence(5.0), 0.1 * SPEECH, silence(5.0), loudness_db=-20.0)
    assert padded.waveform.std() == pytest.approx(0.1, rel=0.01)
    assert padded.waveform[RATE:].std() == pytest.approx(alone.waveform[RATE:].std(), rel=0.05)


@pytest.mark.parametrize(("parts", "warning"), [
    ([np.clip(12 * SPEECH, -1, 1)], "% of its samples are at full scale: it is clipped"),
    ([SPEECH[:RATE], silence(5.0), SPEECH[RATE : RATE * 2]], "% of it is sound"),
    ([noise(5.0, 0.1)], "its level varies by 1 dB only"),
    ([SPEECH + noise(len(SPEECH) / RATE, 0.1)], "its level varies by . dB only"),
])
def test_a_poor_recording_is_warned_of(tmp_path, codec, caplog, parts, warning):
    caplog.set_level("WARNING", logger="halle.synth")
    (found,) = read(tmp_path, codec, *parts).checks["warnings"]
    assert found in caplog.text
    assert re.search(warning, found)


def test_silence_is_refused(tmp_path, codec):
    with pytest.raises(AudioError, match="SILENT"):
        read(tmp_path, codec, silence(5.0))
