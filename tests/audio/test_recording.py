"""Long recordings by parts: what is read in blocks is the whole, and memory stays flat."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr
import test_containers

from stages.audio.io import AudioError, read_audio, write_audio
from stages.audio.recording import ForwardReader, open_recording


@pytest.fixture
def noise(tmp_path):
    path = tmp_path / "noise.flac"
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 22_050 + 117).astype(np.float32)
    write_audio(path, waveform, 22_050)
    return path


@pytest.mark.parametrize("rate", [None, 16_000, 48_000])
@pytest.mark.parametrize("seconds", [0.05, 0.7, 10.0])
def test_blocks_joined_are_the_whole_recording(noise, rate, seconds):
    blocks = list(open_recording(noise).blocks(seconds, rate))
    joined = np.concatenate([block for _, block in blocks])
    whole = read_audio(noise, rate)
    assert len(joined) == len(whole)
    np.testing.assert_allclose(joined, whole, atol=2e-4)
    size = round(seconds * (rate or 22_050))
    assert [round(start * (rate or 22_050)) for start, _ in blocks] == list(range(0, len(whole), size))


def test_a_part_is_what_the_whole_has_there(noise):
    recording = open_recording(noise)
    part, whole = recording.read(1.0, 1.5), read_audio(noise)
    np.testing.assert_array_equal(part, whole[22_050 : 22_050 + 11_025])
    assert (recording.sample_rate, recording.channels) == (22_050, 1)
    assert recording.seconds == pytest.approx(3 + 117 / 22_050)
    expected = soxr.resample(part, 22_050, 16_000)
    np.testing.assert_array_equal(recording.read(1.0, 1.5, 16_000), expected)


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".m4a"])
def test_parts_in_order_are_exactly_those_of_the_whole_and_going_back_is_allowed(tmp_path, suffix):
    waveform = np.random.default_rng(0).uniform(-0.3, 0.3, 30 * 16_000).astype(np.float32)
    path = tmp_path / f"noise{suffix}"
    if suffix == ".m4a":
        test_containers.make(path, waveform)
    else:
        write_audio(path, waveform, 16_000)
    whole, reader = read_audio(path), ForwardReader(path)
    rate = reader.info.sample_rate
    for start, end in ((0.25, 1.0), (1.0, 1.5), (1.25, 1.5), (4.0, 8.5), (0.5, 0.75), (9.1234, 9.9)):
        expected = whole[round(start * rate) : round(end * rate)]
        np.testing.assert_array_equal(reader.read(start, end), expected)
        np.testing.assert_array_equal(reader.read(start, end, 8000), soxr.resample(expected, rate, 8000))
    assert len(reader.read(9.5, 1000.0)) == len(whole) - round(9.5 * rate)
    with pytest.raises(AudioError, match="OUT_OF_FILE"):
        reader.read(1000.0, 1001.0)


def test_a_file_that_is_no_audio_is_refused_when_it_is_opened(tmp_path):
    (tmp_path / "page.wav").write_text("<html>", encoding="utf-8")
    with pytest.raises(AudioError, match="text/html"):
        open_recording(tmp_path / "page.wav")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is in other units elsewhere")
def test_an_hour_is_read_in_little_memory(tmp_path):
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", 16_000, 2, "PCM_16") as sound:
        for _ in range(60):
            sound.write(np.zeros((60 * 16_000, 2), dtype=np.int16))
    program = """
import resource, sys
from stages.audio.recording import open_recording
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = sum(len(block) for _, block in open_recording(sys.argv[1]).blocks(30.0, 8000)) / 8000
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, encoding="utf-8",
                          check=True)
    seconds, megabytes = done.stdout.split()
    assert float(seconds) == 3600.0
    assert int(megabytes) < 60  # the hour alone would be 115 MB as float32 at 8 kHz
