"""Read and write audio files, and say exactly what is wrong with those that cannot be read.

Decoders are lenient: a truncated WAV reads as its first half, a damaged Ogg as a third, without a word.
Whatever can be known is checked here, so that a file is either the whole recording or an `AudioError`.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from stages.artifacts import storage
from stages.audio import containers
from stages.audio.base import AudioError, AudioInfo, check_format
from stages.audio.unsized_wav import UnsizedWav
from stages.errors import UsageError

__all__ = ["AUDIO_SUFFIXES", "SYNTHETIC", "AudioError", "AudioInfo", "audio_info", "check_sound", "check_suffix",
           "encode_audio", "is_synthetic", "mix_down", "read_audio", "stream_audio", "write_audio"]

SYNTHETIC = "synthetic speech made by halle"  # in the metadata of all audio that a model made
MAX_PEAK = 4.0  # 12 dB above full scale; beyond it the samples were never -1..1
_READ_FRAMES = 1 << 18  # a block of all channels in memory at a time
_STREAMING_SIZE = 0xFFFFFF00  # sizes from here on mean "not known when the header was written"
_BINARY = "binary data of another kind"
_CODECS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS", "OPUS", "MPEG_LAYER_", "ALAC_")
_ENCODINGS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".au", ".sph", ".m4a", ".mp4", ".webm")


def audio_info(path: Path | str) -> AudioInfo:
    """Describe an audio file without decoding it; raise `AudioError` if its header or size is wrong."""
    path = Path(path)
    size = _file_size(path)
    if containers.is_container(path):
        return containers.describe(path)
    with _open_sound(path, size) as sound:
        return _describe(sound)


def read_audio(
    path: Path | str, sample_rate: int | None = None, start: float = 0.0, duration: float | None = None
) -> np.ndarray:
    """Return float32 samples [samples], mono (the mean of the channels), resampled when `sample_rate` is given.

    `start` and `duration` are seconds in the file; without them the whole file is read. Raises `AudioError`
    when the file is not complete, finite, plausible audio. Silence is not an error here: see `check_sound`.
    The first audio stream of an MP4 or WebM file (m4a, mp4, webm) is read too, where PyAV is installed.
    """
    path = Path(path)
    size = _file_size(path)
    if containers.is_container(path):
        info, waveform = _decode_container(path, start, duration)
    else:
        with _open_sound(path, size) as sound:
            info = _describe(sound)
            first, count = _span(path, info, start, duration)
            waveform = _decode(path, sound, info, first, count)
    _check_unchanged(path, size)
    _check_values(path, waveform)
    if sample_rate is not None and sample_rate != info.sample_rate:
        waveform = soxr.resample(waveform, info.sample_rate, sample_rate)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def stream_audio(path: Path | str) -> Iterator[np.ndarray]:
    """Yield the whole file as float32 blocks [samples, channels] at its own rate, in memory that does not grow.

    Raises `AudioError` where `read_audio` would, though what comes before a fault is yielded before it.
    """
    path = Path(path)
    size = _file_size(path)
    blocks = containers.stream(path) if containers.is_container(path) else _stream_sound(path, size)
    for block in blocks:
        _check_values(path, block)
        yield block
    _check_unchanged(path, size)


def check_sound(path: Path | str, waveform: np.ndarray, floor: float = 1e-4) -> None:
    """Raise `AudioError` SILENT if no sample [samples] is louder than `floor` (-80 dB by default)."""
    peak = float(np.abs(waveform).max()) if len(waveform) else 0.0
    if peak <= floor:
        raise AudioError(path, "SILENT", f"nothing is heard: the loudest sample is {peak:.2g}")


def write_audio(path: Path | str, waveform: np.ndarray, sample_rate: int, comment: str | None = None) -> None:
    """Write mono samples [samples] as 16-bit WAV or FLAC, Ogg Vorbis or MP3, by the path's suffix.

    The file appears complete or not at all. Samples outside -1..1 are clipped. `comment` goes into the
    file's metadata. Raises `UsageError` for another suffix or a sample rate that the format cannot hold.
    """
    path = Path(path)
    storage.write_bytes(path, encode_audio(waveform, sample_rate, path.suffix, comment, path))


def is_synthetic(path: Path | str) -> bool:
    """Say whether the metadata of an audio file say that halle spoke it; what is no audio says nothing."""
    try:
        with soundfile.SoundFile(path) as sound:
            return sound.comment == SYNTHETIC
    except (soundfile.LibsndfileError, OSError):
        return False


def check_suffix(path: Path | str) -> None:
    """Raise `UsageError` unless the path's suffix names a format that `write_audio` writes."""
    _encoding(Path(path).suffix, path)


def _encoding(suffix: str, path: Path | str) -> tuple[str, str]:
    if suffix.lower() not in _ENCODINGS:
        raise UsageError(f"expected an audio file ending in {', '.join(_ENCODINGS)}, got `{path}`",
                         f"for example `{Path(path).with_suffix('.wav')}`")
    return _ENCODINGS[suffix.lower()]


def encode_audio(
    waveform: np.ndarray, sample_rate: int, suffix: str, comment: str | None = None, path: Path | str = "audio",
    compression: float | None = None,
) -> bytes:
    """Return the bytes of an audio file; `path` only names it in errors. See `write_audio`.

    `compression` of a format that loses something is from 0 (best) to 1 (smallest); by default libsndfile's own.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"expected samples [samples], got shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise AudioError(path, "NON_FINITE", "refused to write samples that are not finite")
    container, subtype = _encoding(suffix, path)
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", sample_rate, 1, subtype, format=container,
                                 compression_level=compression) as sound:
            if comment:
                sound.comment = comment
            # Blocks: libsndfile's Vorbis encoder keeps a whole write on its stack.
            for first in range(0, len(samples), _READ_FRAMES):
                sound.write(samples[first : first + _READ_FRAMES])
    except (soundfile.LibsndfileError, ValueError) as error:
        raise UsageError(f"cannot write `{path}` as {container} at `{sample_rate}` Hz: {error}") from error
    return buffer.getvalue()


def _file_size(path: Path) -> int:
    """Return the size in bytes of a regular file; asked before opening, since opening a FIFO blocks."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise AudioError(path, "NOT_REGULAR", "a symbolic link to a file that does not exist") from None
        raise AudioError(path, "MISSING", "no such file") from None
    except PermissionError:
        raise AudioError(path, "DENIED", "no permission to read it") from None
    except (OSError, ValueError) as error:
        raise AudioError(path, "NOT_REGULAR", f"not a file: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise AudioError(path, "NOT_REGULAR", f"expected a regular file, got {kind}")
    if status.st_size == 0:
        raise AudioError(path, "EMPTY_FILE", "the file has no bytes")
    return status.st_size


def _check_unchanged(path: Path, size: int) -> None:
    try:
        now = path.stat().st_size
    except OSError as error:
        raise AudioError(path, "CHANGED", "the file vanished while it was read") from error
    if now != size:
        raise AudioError(path, "CHANGED", f"the file changed while it was read: it had {size} bytes, then {now}")


def _open_sound(path: Path, size: int) -> soundfile.SoundFile:
    source, head = _inspect(path, size)
    try:
        sound = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        guess = _guess(head)
        if error.code == 1 or guess != _BINARY:  # SF_ERR_UNRECOGNISED_FORMAT; of text named .mp3 it is another
            raise AudioError(path, "NOT_AUDIO", f"not an audio file; it looks like {guess}") from error
        raise AudioError(path, "DECODE_ERROR", f"the decoder says: {error.error_string}") from error
    except (struct.error, TypeError, ValueError, ZeroDivisionError) as error:
        raise AudioError(path, "DECODE_ERROR", f"the header makes no sense: {error}") from error
    try:
        _check_header(path, sound)
    except AudioError:
        sound.close()
        raise
    return sound


def _inspect(path: Path, size: int) -> tuple[bytes | str | BinaryIO, bytes]:
    """Return what to open, and the first bytes. A WAV with sizes that cannot be right is read with right ones."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            chunks = _wav_chunks(file, size) if head[:4] in (b"RIFF", b"RF64") else {}
            if head[:4] == b"RIFF":
                mended = _check_wav(path, file, head, chunks, size)
                if mended is not None:
                    return mended, head
    except PermissionError:
        raise AudioError(path, "DENIED", "no permission to read it") from None
    except OSError as error:
        raise AudioError(path, "DECODE_ERROR", f"reading failed: {error}") from error
    _check_declared_size(path, head, size)
    # Bytes reach file names that are not valid text; Windows wants a str.
    return (str(path) if os.name == "nt" else os.fsencode(path)), head


def _wav_chunks(file: BinaryIO, size: int) -> dict[bytes, tuple[int, int]]:
    """Map chunk names to (offset of the content, declared bytes), up to the sound itself."""
    chunks: dict[bytes, tuple[int, int]] = {}
    position = 12
    while position + 8 <= size and b"data" not in chunks:
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        name, length = struct.unpack("<4sI", header)
        chunks[name] = (position + 8, length)
        position += 8 + length + length % 2
    return chunks


def _check_wav(
    path: Path, file: BinaryIO, head: bytes, chunks: dict[bytes, tuple[int, int]], size: int
) -> BinaryIO | None:
    """Check what the decoder would accept in silence; return what to read of a WAV with sizes that say nothing.

    Those of a WAV written to a pipe were never filled in, and beyond 4 GB they do not fit into 32 bits.
    """
    start, length = chunks.get(b"fmt ", (0, 0))
    file.seek(start)
    description = file.read(min(length, 64))
    if len(description) >= 16:
        _, channels, sample_rate = struct.unpack("<HHI", description[:8])
        check_format(path, sample_rate, channels)
    (riff_size,) = struct.unpack("<I", head[4:8].ljust(4, b"\0"))
    offset, length = chunks.get(b"data", (size, 0))
    unknown = riff_size >= _STREAMING_SIZE or riff_size + 8 <= offset
    unsized = size > _STREAMING_SIZE or (length == 0 and offset < size and unknown)
    if unsized and len(description) >= 16:
        return UnsizedWav(path, description, offset, size)
    if length < _STREAMING_SIZE and offset + length > size:
        raise _truncated(path, offset + length, size)
    return None


def _check_declared_size(path: Path, head: bytes, size: int) -> None:
    """Compare the size in a RIFF, RF64 or AIFF header with the file's; one byte of padding may be missing."""
    if len(head) < 12:
        return
    declared = {
        b"RIFF": struct.unpack("<I", head[4:8])[0],
        b"FORM": struct.unpack(">I", head[4:8])[0],
        b"RF64": struct.unpack("<Q", head[20:28])[0] if len(head) >= 28 else 0,
    }.get(head[:4], 0)
    if head[:4] != b"RF64" and declared >= _STREAMING_SIZE:
        return
    if declared + 8 > size + 1:
        raise _truncated(path, declared + 8, size)


def _truncated(path: Path, expected: int, actual: int) -> AudioError:
    return AudioError(path, "TRUNCATED", f"expected {expected} bytes by its header, got {actual}")


def _check_header(path: Path, sound: soundfile.SoundFile) -> None:
    check_format(path, sound.samplerate, sound.channels)
    if not sound.subtype.startswith(_CODECS):
        # Block codecs such as ADPCM have a history of crashing decoders; no speech corpus needs them.
        raise AudioError(path, "CODEC_REFUSED", f"the encoding `{sound.subtype}` is not accepted")
    if sound.frames <= 0 and sound.format == "OGG":
        raise AudioError(path, "DECODE_SHORT", "the stream ends before its first sample")
    if sound.frames <= 0:
        raise AudioError(path, "NO_SAMPLES", "it has a header but no samples")


def _describe(sound: soundfile.SoundFile) -> AudioInfo:
    return AudioInfo(
        sample_rate=sound.samplerate,
        num_samples=sound.frames,
        duration=sound.frames / sound.samplerate,
        channels=sound.channels,
        subtype=sound.subtype,
        format=sound.format,
    )


def _span(path: Path, info: AudioInfo, start: float, duration: float | None) -> tuple[int, int]:
    """Return the first sample and the number of samples that `start` and `duration` (seconds) stand for."""
    first = round(start * info.sample_rate)
    count = info.num_samples - first if duration is None else round(duration * info.sample_rate)
    # A manifest's seconds are rounded: up to 10 ms too many are forgiven.
    slack = info.sample_rate // 100
    if first < 0 or count <= 0 or first + count > info.num_samples + slack:
        end = "its end" if duration is None else f"{start + duration:.3f} s"
        detail = f"expected a part of its {info.duration:.3f} s, got {start:.3f} s to {end}"
        raise AudioError(path, "OUT_OF_FILE", detail)
    return first, min(count, info.num_samples - first)


def _decode(path: Path, sound: soundfile.SoundFile, info: AudioInfo, first: int, count: int) -> np.ndarray:
    """Return `count` mono samples from sample `first` on, a block at a time."""
    return np.concatenate([mix_down(block) for block in _decoded_blocks(path, sound, info, first, count)])


def _decode_container(path: Path, start: float, duration: float | None) -> tuple[AudioInfo, np.ndarray]:
    if start == 0 and duration is None:
        return containers.decode(path)
    info = containers.describe(path)
    return info, containers.decode_part(path, *_span(path, info, start, duration))


def mix_down(block: np.ndarray) -> np.ndarray:
    """Return the mean of the channels of [samples, channels]."""
    return block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0]


def _stream_sound(path: Path, size: int) -> Iterator[np.ndarray]:
    with _open_sound(path, size) as sound:
        info = _describe(sound)
        yield from _decoded_blocks(path, sound, info, 0, info.num_samples)


def _decoded_blocks(
    path: Path, sound: soundfile.SoundFile, info: AudioInfo, first: int, count: int
) -> Iterator[np.ndarray]:
    missing = count
    try:
        if first:
            sound.seek(first)
        while missing > 0:
            block = sound.read(min(missing, _READ_FRAMES), dtype="float32", always_2d=True)
            if not len(block):
                break
            yield block
            missing -= len(block)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(path, "DECODE_ERROR", f"the decoder says: {error}") from error
    if missing > 0:
        reason = "TRUNCATED" if info.format == "MP3" else "DECODE_SHORT"
        raise AudioError(path, reason, f"expected {count} samples by its header, decoded {count - missing}")


def _check_values(path: Path, waveform: np.ndarray) -> None:
    bad = int(np.count_nonzero(~np.isfinite(waveform)))
    if bad:
        raise AudioError(path, "NON_FINITE", f"{bad} of {len(waveform)} samples are not finite")
    peak = float(np.abs(waveform).max())
    if peak > MAX_PEAK:
        raise AudioError(path, "OUT_OF_RANGE", f"expected samples in -1..1, got a peak of {peak:.4g}")


def _guess(head: bytes) -> str:
    """Name what a file that is no audio looks like."""
    start = head.lstrip()[:256].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "text/html"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer (run `git lfs pull`)"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head[:1024])  # which may end within a character
    except UnicodeDecodeError:
        return _BINARY
    return _BINARY if b"\0" in head else "text"
