"""Recordings that cannot be used, and odd ones that can, made as they come about: cut off, overwritten, misnamed."""

from __future__ import annotations

import io
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tiny_corpora import voice

from stages.audio.io import encode_audio

RATE = 24_000
HOSTILE = "\n\x1b[1m[/x]"  # a line, a colour and what some libraries take for markup


@dataclass(frozen=True)
class Bad:
    """A case of the list, the file's name and how it is made, the reason it is dropped for and what is said of it."""

    case: int
    name: str
    make: Callable[[Path], object]
    reason: str
    told: str = ""

    def __str__(self) -> str:
        return f"{self.case}-{ascii(self.name)[1:-1].replace('/', '_')}"


@dataclass(frozen=True)
class Odd:
    """A case of the list that is no reason to drop a recording, and the warning that is counted, if any."""

    case: int
    name: str
    make: Callable[[Path], object]
    warning: str = ""

    __str__ = Bad.__str__


def sound(samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16", container: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype=subtype, format=container)
    return buffer.getvalue()


def speech(rate: int = RATE, seconds: float = 3.0) -> np.ndarray:
    """What is in no good recording."""
    return voice(40, seconds, rate)


def holds(content: bytes | Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content() if callable(content) else content)


def wav(samples: Callable[[], np.ndarray], rate: int = RATE, subtype: str = "PCM_16") -> Callable[[Path], object]:
    return holds(lambda: sound(samples(), rate, subtype))


def cut_off(suffix: str, share: float) -> Callable[[Path], object]:
    def content() -> bytes:
        whole = encode_audio(speech(), RATE, suffix)
        return whole[: int(len(whole) * share)]

    return holds(content)


def overwritten(suffix: str, share: float, count: int) -> Callable[[Path], object]:
    """The whole file, but for `count` bytes of which every bit is the other one."""
    def content() -> bytes:
        whole = bytearray(encode_audio(speech(), RATE, suffix))
        at = int(len(whole) * share)
        whole[at : at + count] = bytes(byte ^ 0xFF for byte in whole[at : at + count])
        return bytes(whole)

    return holds(content)


def patched(offset: int, layout: str, *values: int) -> Callable[[Path], object]:
    """A sound WAV with other numbers in its header."""
    def content() -> bytes:
        whole = bytearray(sound(speech()))
        struct.pack_into(layout, whole, offset, *values)
        return bytes(whole)

    return holds(content)


def streamed(riff: int, data: int) -> Callable[[Path], object]:
    """A WAV written to a pipe, whose sizes nobody could go back to fill in."""
    def content() -> bytes:
        whole = bytearray(sound(speech()))
        struct.pack_into("<I", whole, 4, riff)
        struct.pack_into("<I", whole, 40, data)
        return bytes(whole)

    return holds(content)


def with_samples(value: float, *places: int) -> Callable[[], np.ndarray]:
    def samples() -> np.ndarray:
        changed = speech()
        changed[list(places)] = value
        return changed

    return samples


def channels(*gains: float) -> Callable[[], np.ndarray]:
    return lambda: speech()[:, None] * np.array(gains, dtype=np.float32)


def long_rf64(path: Path) -> None:
    """Ten hours of silence in more than 4 GB, most of which no disk holds."""
    length = 36_000 * RATE * 6
    head = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQI", 28, length + 72, length, length // 6, 0)
    head += b"fmt " + struct.pack("<IHHIIHH", 16, 1, 3, RATE, RATE * 6, 6, 16) + b"data\xff\xff\xff\xff"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + length)


def link_outside(path: Path) -> None:
    target = path.parent.parent / "elsewhere.wav"
    target.write_bytes(sound(speech()))
    path.symlink_to(target)


def again(path: Path) -> None:
    """What a good recording holds, in another kind of file."""
    samples, rate = soundfile.read(path.parent / "u00.wav", dtype="int16")
    soundfile.write(path, samples, rate)


def socket_file(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def named(name: bytes | str) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else name


truncated = cut_off(".wav", 0.5)
BAD = (
    Bad(1, "empty.wav", holds(b""), "EMPTY_FILE"),
    Bad(2, "page.wav", holds(b"<!DOCTYPE html><html><p>404"), "NOT_AUDIO", "text/html"),
    Bad(2, "notes.mp3", holds(b"to be recorded on Monday\n"), "NOT_AUDIO", "looks like text"),
    Bad(3, "header.wav", wav(lambda: np.zeros(0)), "NO_SAMPLES"),
    Bad(4, "half.wav", truncated, "TRUNCATED", "expected 144044 bytes by its header, got 72022"),
    Bad(5, "torn.mp3", cut_off(".mp3", 0.6), "TRUNCATED", "samples by its header, decoded"),
    Bad(6, "ended.ogg", cut_off(".ogg", 0.5), "DECODE_SHORT"),
    Bad(7, "flipped.ogg", overwritten(".ogg", 0.7, 40), "DECODE_SHORT"),
    Bad(8, "broken.flac", cut_off(".flac", 0.5), "DECODE_ERROR"),
    Bad(8, "overwritten.flac", overwritten(".flac", 0.5, 200), "DECODE_ERROR"),
    Bad(11, "nan.wav", wav(with_samples(np.nan, 5, 6, 70_000), subtype="FLOAT"), "NON_FINITE", "3 of 72000 samples"),
    Bad(11, "inf.wav", wav(with_samples(-np.inf, 71_999), subtype="FLOAT"), "NON_FINITE", "1 of 72000 samples"),
    Bad(12, "loud.wav", wav(lambda: 32768 * speech(), subtype="FLOAT"), "OUT_OF_RANGE", "peak of 9830"),
    Bad(12, "huge.wav", wav(with_samples(1e29, 9), subtype="FLOAT"), "OUT_OF_RANGE", "peak of 1e+29"),
    Bad(13, "silent.wav", wav(lambda: np.zeros(72_000)), "SILENT"),
    Bad(14, "offset.wav", wav(lambda: speech() + 0.5), "OFFSET", "got 0.5"),
    Bad(17, "telephone.wav", wav(lambda: speech(8000), 8000), "LOW_RATE", "got 8000"),
    Bad(18, "one.wav", patched(24, "<I", 1), "BAD_RATE", "got `1`"),
    Bad(18, "zero.wav", patched(24, "<I", 0), "BAD_RATE", "got `0`"),
    Bad(19, "nine.wav", wav(channels(*[0.5] * 9)), "BAD_CHANNELS", "got `9`"),
    Bad(19, "many.wav", patched(22, "<H", 65_535), "BAD_CHANNELS", "got `65535`"),
    Bad(19, "opposite.wav", wav(channels(1, -1)), "SILENT"),
    Bad(21, "sample.wav", wav(lambda: speech()[100:101]), "TOO_SHORT"),
    Bad(21, "short.wav", wav(lambda: speech(seconds=0.5)), "TOO_SHORT", "got 0.50"),
    Bad(22, "folder.wav", Path.mkdir, "NOT_REGULAR", "a folder"),
    Bad(22, "dangling.wav", lambda path: path.symlink_to("nowhere.wav"), "NOT_REGULAR", "a file that does not exist"),
    Bad(22, "circle.wav", lambda path: path.symlink_to(path.name), "NOT_REGULAR"),
    Bad(23, "link.wav", link_outside, "OUTSIDE_ROOT", "elsewhere.wav"),
    Bad(23, "device.wav", lambda path: path.symlink_to("/dev/zero"), "OUTSIDE_ROOT", "/dev/zero"),
    Bad(24, "pipe.wav", os.mkfifo, "NOT_REGULAR", "a pipe, socket or device"),
    Bad(24, "socket.wav", socket_file, "NOT_REGULAR", "a pipe, socket or device"),
    Bad(27, named(b"caf\xe9.wav"), truncated, "TRUNCATED"),
    Bad(28, f"{HOSTILE}.wav", truncated, "TRUNCATED"),
    Bad(29, "u99.flac", again, "DUPLICATE", "as `u00`"),
    Bad(30, "blocks.wav", wav(speech, subtype="IMA_ADPCM"), "CODEC_REFUSED", "IMA_ADPCM"),
)
ODD = (
    Odd(9, "glitch.mp3", overwritten(".mp3", 0.5017, 1)),
    Odd(10, "zero.wav", streamed(0, 0), "UNSIZED"),
    Odd(10, "unknown.wav", streamed(0xFFFFFFFF, 0xFFFFFFFF), "UNSIZED"),
    Odd(15, "eight.wav", wav(speech, subtype="PCM_U8"), "LOW_BIT_DEPTH"),
    Odd(15, "law.wav", wav(speech, subtype="ULAW"), "LOW_BIT_DEPTH"),
    Odd(16, "96.wav", wav(lambda: speech(96_000), 96_000)),
    Odd(16, "192.flac", holds(lambda: sound(speech(192_000), 192_000, container="FLAC"))),
    Odd(19, "six.wav", wav(channels(1, 0.5, 0.5, 0, 1, 1))),
    Odd(19, "opposed.wav", wav(channels(1, -0.9)), "OPPOSITE_CHANNELS"),
    Odd(20, "big.wav", holds(lambda: sound(speech(), container="RF64"))),
    Odd(27, named(b"caf\xe9.wav"), wav(speech)),
    Odd(28, f"{HOSTILE}.wav", wav(speech)),
)
