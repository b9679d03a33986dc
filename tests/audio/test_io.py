"""What is read is the whole recording; everything else is refused with the right reason."""

from __future__ import annotations

import io
import os
import struct
import sys

import numpy as np
import pytest
import soundfile

from stages.audio.io import AudioError, audio_info, check_sound, encode_audio, read_audio, write_audio
from stages.errors import UsageError

RATE = 24_000


def tone(seconds: float = 0.5, rate: int = RATE, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def reason_of(path, **arguments) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, **arguments)
    assert str(path) in caught.value.message
    assert caught.value.reason in caught.value.message
    return caught.value.reason


@pytest.mark.parametrize(("suffix", "tolerance"), [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.05), (".mp3", 0.1)])
def test_what_is_written_reads_back(tmp_path, suffix, tolerance):
    path = tmp_path / f"a{suffix}"
    write_audio(path, tone(), RATE, comment="made by a machine")
    back = read_audio(path)
    assert back.dtype == np.float32 and back.shape == tone().shape
    assert np.abs(back - tone()).max() < tolerance
    assert soundfile.SoundFile(path).comment == "made by a machine"
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_info_matches_the_file(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((800, 2)), 16_000, subtype="PCM_24")
    info = audio_info(path)
    assert (info.sample_rate, info.num_samples, info.duration) == (16_000, 800, 0.05)
    assert (info.channels, info.subtype, info.format) == (2, "PCM_24", "WAV")


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(), 3 * tone()], axis=1) / 4, RATE, subtype="FLOAT")
    assert np.allclose(read_audio(path), tone() / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_the_tone_and_its_length(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate=rate), rate, subtype="FLOAT")
    back = read_audio(path, sample_rate=RATE)
    assert len(back) == RATE // 2
    assert np.abs(back - tone())[1200:-1200].max() < 0.01


def test_a_part_equals_the_same_part_of_the_whole(tmp_path):
    path = tmp_path / "a.flac"
    write_audio(path, tone(1.0), RATE)
    whole = read_audio(path)
    assert np.array_equal(read_audio(path, start=0.25, duration=0.5), whole[6000:18000])
    assert np.array_equal(read_audio(path, start=0.75), whole[18000:])
    assert len(read_audio(path, start=0.5, duration=0.505)) == 12_000  # rounding in a manifest
    assert reason_of(path, start=0.5, duration=0.6) == "OUT_OF_FILE"
    assert reason_of(path, start=-0.1) == "OUT_OF_FILE"
    assert reason_of(path, start=1.0) == "OUT_OF_FILE"


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.wav").touch()
    assert reason_of(tmp_path / "a.wav") == "EMPTY_FILE"


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><p>", b"version https://git-lfs", b"hi", b"\x00\x01" * 99])
def test_what_is_no_audio_is_named(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    assert reason_of(tmp_path / "a.wav") == "NOT_AUDIO"


def test_a_text_is_called_text_wherever_its_first_kilobyte_ends(tmp_path):
    (tmp_path / "a.wav").write_text("a" * 1023 + "–" * 9, encoding="utf-8")
    with pytest.raises(AudioError, match="text"):
        read_audio(tmp_path / "a.wav")


def test_a_missing_file_a_folder_and_a_dangling_link_are_told_apart(tmp_path):
    assert reason_of(tmp_path / "none.wav") == "MISSING"
    assert reason_of(tmp_path) == "NOT_REGULAR"
    (tmp_path / "link.wav").symlink_to(tmp_path / "none.wav")
    assert reason_of(tmp_path / "link.wav") == "NOT_REGULAR"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert reason_of(tmp_path / "pipe.wav") == "NOT_REGULAR"


def test_a_file_that_may_not_be_read_is_denied(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_audio(path, tone(), RATE)

    def deny(*arguments, **options):
        raise PermissionError

    monkeypatch.setattr(type(path), "open", deny)
    assert reason_of(path) == "DENIED"


def test_a_header_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    assert reason_of(tmp_path / "a.wav") == "NO_SAMPLES"


@pytest.mark.parametrize(
    ("suffix", "kept", "reason"),
    [
        (".wav", 0.5, "TRUNCATED"),
        (".mp3", 0.6, "TRUNCATED"),
        (".ogg", 0.95, "DECODE_SHORT"),
        (".flac", 0.5, "DECODE_ERROR"),
    ],
)
def test_a_truncated_file_is_refused(tmp_path, suffix, kept, reason):
    content = encode_audio(tone(2.0), RATE, suffix)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[: int(len(content) * kept)])
    assert reason_of(path) == reason


@pytest.mark.parametrize("container", ["AIFF", "RF64", "WAVEX"])
def test_truncation_is_seen_in_related_containers(tmp_path, container):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), RATE, format=container, subtype="PCM_16")
    path = tmp_path / "a.wav"
    path.write_bytes(buffer.getvalue())
    assert len(read_audio(path)) == len(tone())
    path.write_bytes(buffer.getvalue()[:-2000])
    assert reason_of(path) == "TRUNCATED"


@pytest.mark.parametrize(
    ("riff", "data"), [(0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0), (0xFFFFFFF0, 0xFFFFFFF0)]
)
def test_a_wav_written_to_a_pipe_is_read_whole(tmp_path, riff, data):
    content = bytearray(encode_audio(tone(), RATE, ".wav"))
    struct.pack_into("<I", content, 4, riff)
    struct.pack_into("<I", content, 40, data)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "a.wav")) == len(tone())


def test_truncation_is_seen_by_the_data_chunk_alone(tmp_path):
    content = bytearray(encode_audio(tone(), RATE, ".wav"))
    struct.pack_into("<I", content, 4, 0xFFFFFFFF)
    (tmp_path / "a.wav").write_bytes(content[:-2000])
    assert reason_of(tmp_path / "a.wav") == "TRUNCATED"


def test_a_damaged_flac_is_refused(tmp_path):
    content = bytearray(encode_audio(tone(2.0), RATE, ".flac"))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.flac").write_bytes(content)
    assert reason_of(tmp_path / "a.flac") == "DECODE_ERROR"


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "NON_FINITE"), (np.inf, "NON_FINITE"), (1e29, "OUT_OF_RANGE"), (4494, "OUT_OF_RANGE")],
)
def test_impossible_samples_are_refused(tmp_path, value, reason):
    samples = tone()
    samples[100] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert reason_of(tmp_path / "a.wav") == reason


@pytest.mark.parametrize("rate", [0, 1, 999, 2**31])
def test_impossible_sample_rates_are_refused(tmp_path, rate):
    content = bytearray(encode_audio(tone(), RATE, ".wav"))
    struct.pack_into("<I", content, 24, rate)
    (tmp_path / "a.wav").write_bytes(content)
    assert reason_of(tmp_path / "a.wav") == "BAD_RATE"


@pytest.mark.parametrize("channels", [0, 9, 65_535])
def test_impossible_channel_counts_are_refused(tmp_path, channels):
    content = bytearray(encode_audio(tone(), RATE, ".wav"))
    struct.pack_into("<H", content, 22, channels)
    (tmp_path / "a.wav").write_bytes(content)
    assert reason_of(tmp_path / "a.wav") == "BAD_CHANNELS"


def test_block_codecs_are_refused_and_telephone_codecs_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), RATE, subtype="IMA_ADPCM")
    assert reason_of(tmp_path / "a.wav") == "CODEC_REFUSED"
    soundfile.write(tmp_path / "b.wav", tone(), RATE, subtype="ULAW")
    assert np.abs(read_audio(tmp_path / "b.wav") - tone()).max() < 0.02


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_audio(path, tone(), RATE)
    original = soundfile.SoundFile.read

    def grow(self, *arguments, **options):
        with path.open("ab") as file:
            file.write(b"more")
        return original(self, *arguments, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", grow)
    assert reason_of(path) == "CHANGED"


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_file_name_that_is_no_text_can_be_read(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(encode_audio(tone(), RATE, ".wav"))
    assert len(read_audio(path)) == len(tone())


def test_silence_is_an_error_only_where_sound_is_needed(tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros(2400, np.float32), RATE)
    silence = read_audio(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="SILENT"):
        check_sound("a.wav", silence)
    check_sound("a.wav", tone())


def test_what_cannot_be_written_says_why(tmp_path):
    with pytest.raises(UsageError, match=r"expected an audio file ending in .*got `.*a\.xyz`"):
        write_audio(tmp_path / "a.xyz", tone(), RATE)
    with pytest.raises(UsageError, match="MP3 at `96000` Hz"):
        write_audio(tmp_path / "a.mp3", tone(), 96_000)
    with pytest.raises(AudioError, match="NON_FINITE"):
        write_audio(tmp_path / "a.wav", np.full(9, np.nan), RATE)
    assert not list(tmp_path.iterdir())


def test_loud_samples_are_clipped_and_do_not_wrap(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([1.5, -1.5, 0.0], np.float32), RATE)
    assert np.allclose(read_audio(tmp_path / "a.wav"), [1, -1, 0], atol=1e-4)


def test_long_ogg_files_do_not_crash_the_encoder(tmp_path):
    write_audio(tmp_path / "a.ogg", tone(60.0), RATE)
    assert audio_info(tmp_path / "a.ogg").num_samples == 60 * RATE


@pytest.mark.parametrize("told", [0, 0xFFFFFFFF, 5_000_000_004 % 2**32])
def test_a_wav_beyond_4_gb_is_read_whole_whatever_its_sizes_say(tmp_path, told):
    path, sound = tmp_path / "a.wav", tone()
    head = b"RIFF" + struct.pack("<I", told) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", max(told - 44, 0)))
        file.seek(5_000_000_004 - 2 * len(sound))  # what is skipped takes no place on the disk
        file.write((sound * 32767).astype("<i2").tobytes())
    info = audio_info(path)
    assert info.num_samples == (5_000_000_004 - 44) // 2
    start = (info.num_samples - len(sound)) / RATE
    assert np.abs(read_audio(path, start=start) - sound).max() < 1e-3
