"""Sound of a telephone's or a browser's files: the first audio stream, whole; without PyAV, what to install."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from stages.audio import containers
from stages.audio.io import AudioError, audio_info, read_audio, write_audio

RATE = 48_000


def tone(seconds: float, hertz: float = 220.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def make(path: Path, *sounds: np.ndarray, codec: str = "aac", layout: str = "mono", video: bool = False,
         container: str | None = None, **options: str) -> Path:
    """Write audio streams of [channels, samples] or [samples], beside a video of four black pictures if asked."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=container, options=options) as file:
        pictures = file.add_stream("mpeg4", rate=4) if video else None
        streams = [file.add_stream(codec, rate=RATE, layout=layout) for _ in sounds]
        if pictures is not None:
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
            for _ in range(4):
                file.mux(pictures.encode(av.VideoFrame(64, 64, "yuv420p")))
            file.mux(pictures.encode())
        for stream, sound in zip(streams, sounds, strict=True):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(np.atleast_2d(sound)), "fltp", layout)
            frame.sample_rate = RATE
            for piece in av.AudioResampler("flt" if codec == "libopus" else "fltp", layout).resample(frame):
                file.mux(stream.encode(piece))
            file.mux(stream.encode())
    return path


def reason_of(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    return caught.value.reason


@pytest.mark.parametrize(("name", "codec", "video"), [
    ("a.m4a", "aac", False), ("a.mp4", "aac", True), ("a.mov", "aac", False), ("a.webm", "libopus", False)])
def test_the_sound_of_a_container_is_read_whole(tmp_path, name, codec, video):
    path = make(tmp_path / name, tone(1.0), codec=codec, video=video)
    waveform = read_audio(path)
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(RATE, abs=0.05 * RATE)  # encoders pad their last block
    steady = slice(RATE // 4, RATE // 2)
    assert np.abs(waveform[steady]).max() == pytest.approx(0.3, abs=0.03)
    assert np.abs(np.fft.rfft(waveform[:RATE // 2])).argmax() == 110  # 220 Hz in half a second
    info = audio_info(path)
    assert (info.sample_rate, info.channels, info.subtype) == (RATE, 1, "AAC" if codec == "aac" else "OPUS")
    assert info.duration == pytest.approx(len(waveform) / RATE, abs=0.05)


def test_what_a_file_is_shows_in_its_bytes_and_not_in_its_name(tmp_path):
    shutil.move(make(tmp_path / "a.m4a", tone(0.5)), tmp_path / "voice.wav")
    assert len(read_audio(tmp_path / "voice.wav")) > 0.4 * RATE
    write_audio(tmp_path / "b.wav", tone(0.5), RATE)
    shutil.move(tmp_path / "b.wav", tmp_path / "b.mp4")
    assert len(read_audio(tmp_path / "b.mp4")) == RATE // 2


def test_the_first_of_several_audio_streams_is_read(tmp_path):
    waveform = read_audio(make(tmp_path / "a.mp4", tone(1.0), tone(1.0, 1000.0)))
    assert np.abs(np.fft.rfft(waveform[:RATE // 2])).argmax() == 110


def test_channels_are_averaged_and_the_rate_is_the_asked_one(tmp_path):
    path = make(tmp_path / "a.m4a", np.stack([tone(1.0), np.zeros_like(tone(1.0))]), layout="stereo")
    assert audio_info(path).channels == 2
    waveform = read_audio(path, 24_000)
    assert len(waveform) == pytest.approx(24_000, abs=1_200)
    assert np.abs(waveform[6_000:12_000]).max() == pytest.approx(0.15, abs=0.03)


def test_a_part_equals_the_same_part_of_the_whole(tmp_path):
    path = make(tmp_path / "a.m4a", tone(1.0))
    whole = read_audio(path)
    assert np.array_equal(read_audio(path, start=0.25, duration=0.5), whole[RATE // 4 : 3 * RATE // 4])


def chirps(seconds: float) -> np.ndarray:
    """A sound that is nowhere what it is elsewhere."""
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * times) * times)).astype(np.float32)


@pytest.mark.parametrize(("name", "codec", "options"), [
    ("a.m4a", "aac", {}), ("a.webm", "libopus", {}), ("live.webm", "libopus", {"live": "1"})])
@pytest.mark.parametrize(("start", "seconds"), [(0.25, 0.5), (1.5, 1.0), (17.1234, 2.0), (19.0, None)])
def test_a_part_of_a_long_container_is_decoded_alone(tmp_path, monkeypatch, name, codec, options, start, seconds):
    path, decoded, convert = make(tmp_path / name, chirps(20.0), codec=codec, **options), [], containers._converted
    whole = read_audio(path)

    def counted(container, frames):
        for block in convert(container, frames):
            decoded.append(block.shape[1])
            yield block

    monkeypatch.setattr(containers, "_converted", counted)
    part = read_audio(path, start=start, duration=seconds)
    expected = whole[round(start * RATE) :][: len(part)]
    assert len(part) == pytest.approx(RATE * (seconds or len(whole) / RATE - start), abs=0.1 * RATE)
    assert np.abs(part - expected).max() < 0.01, "of AAC the decoder makes up some noise"
    assert sum(decoded) < (2.5 + (seconds or 1.0)) * RATE, "a second before it and a block after it at most"


def test_a_part_of_a_container_that_was_cut_off_is_refused(tmp_path):
    whole = make(tmp_path / "a.m4a", tone(8.0), movflags="faststart").read_bytes()
    (tmp_path / "b.m4a").write_bytes(whole[: len(whole) // 2])
    assert len(read_audio(tmp_path / "b.m4a", start=2.0, duration=1.0)) == RATE
    with pytest.raises(AudioError, match=r"TRUNCATED|DECODE_ERROR"):
        read_audio(tmp_path / "b.m4a", start=6.0, duration=1.0)


def test_a_recording_of_a_browser_has_no_duration_and_is_read(tmp_path):
    path = make(tmp_path / "a.webm", tone(1.0), codec="libopus", live="1")
    assert audio_info(path).duration == pytest.approx(1.0, abs=0.05)
    assert len(read_audio(path)) == pytest.approx(RATE, abs=0.05 * RATE)


def test_a_video_without_sound_says_so(tmp_path):
    path = make(tmp_path / "a.mp4", video=True)
    with pytest.raises(AudioError, match=r"no sound in it, only video \(NO_AUDIO\)"):
        read_audio(path)
    with pytest.raises(AudioError, match="NO_AUDIO"):
        audio_info(path)


def test_a_damaged_container_is_refused(tmp_path):
    whole = make(tmp_path / "a.m4a", tone(2.0)).read_bytes()  # its index stands at the end
    (tmp_path / "b.m4a").write_bytes(whole[: len(whole) // 2])
    assert reason_of(tmp_path / "b.m4a") == "DECODE_ERROR"


def test_a_container_that_was_cut_off_is_refused(tmp_path):
    whole = make(tmp_path / "a.m4a", tone(4.0), movflags="faststart").read_bytes()  # its index stands at the start
    (tmp_path / "b.m4a").write_bytes(whole[: 3 * len(whole) // 4])
    assert reason_of(tmp_path / "b.m4a") in ("TRUNCATED", "DECODE_ERROR")
    whole = make(tmp_path / "a.webm", tone(4.0), codec="libopus").read_bytes()
    (tmp_path / "b.webm").write_bytes(whole[: len(whole) // 2])
    assert reason_of(tmp_path / "b.webm") == "TRUNCATED"


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "voice memo.m4a").write_bytes(b"\0\0\0\x1cftypM4A \0\0\0\0")
    real = importlib.import_module

    def without_av(name: str, *arguments):
        if name == "av":
            raise ModuleNotFoundError(name)
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", without_av)
    for read in (read_audio, audio_info):
        with pytest.raises(AudioError, match=r"MP4 and WebM files need the package `av`.*NEEDS_AV") as caught:
            read(tmp_path / "voice memo.m4a")
        assert "pip install 'halle[av]'" in caught.value.hint
        assert caught.value.exit_code == 7
