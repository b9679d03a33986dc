"""Samples of a run to listen to: kept as FLAC for the newest validations, shown with spectrograms."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts.samples import SAMPLES, Sample, list_samples, samples_folder
from stages.artifacts.storage import remove_folder, staged_folder, sweep_temporaries, write_text
from stages.audio.io import SYNTHETIC, read_audio, write_audio
from stages.reports.page import article, sounds

KEPT = 4  # newest validations whose samples stay
SILENT = 1e-4  # -80 dB of full scale
_WINDOW = 512  # samples of a spectrogram's Hann window
_RANGE = 70.0  # dB below the loudest, drawn from black to white
_MOST_COLUMNS = 400
_GREYS = 32  # so few shades make a picture a third as large, and look the same


def keep_samples(run_dir: Path, step: int, samples: Sequence[Sample]) -> None:
    """Write the samples of a step and drop old ones, and those of steps that a continued run has not come to."""
    sweep_temporaries(run_dir / SAMPLES)
    if samples:
        with staged_folder(samples_folder(run_dir, step)) as folder:
            for sample in samples:
                write_audio(folder / sample.group / f"{sample.name}.flac", sample.waveform, sample.sample_rate,
                            SYNTHETIC if sample.synthetic else None)
                if sample.caption:
                    write_text(folder / sample.group / f"{sample.name}.txt", sample.caption)
    kept = [folder for found, folder in list_samples(run_dir) if found <= step][-KEPT:]
    for _, folder in list_samples(run_dir):
        if folder not in kept:
            remove_folder(folder)


@dataclass
class _Sound:
    name: str
    file: Path
    steps: list[int]  # newest first


def listening_parts(run_dir: Path) -> list[str]:
    """Return one article a group: its sounds, the newest first; one that stayed the same is shown once."""
    groups: dict[str, dict[bytes, _Sound]] = {}
    for step, folder in reversed(list_samples(run_dir)):
        for file in sorted(folder.glob("*/*.flac")):
            found = groups.setdefault(file.parent.name, {})
            found.setdefault(file.read_bytes(), _Sound(file.stem, file, [])).steps.append(step)
    return [article(group, [_side_by_side(run_dir, list(found.values()))]) for group, found in sorted(groups.items())]


def silent_samples(run_dir: Path) -> list[str]:
    """Return `GROUP NAME` of every sample of the newest validation in which nothing is heard."""
    newest = [folder for _, folder in list_samples(run_dir)][-1:]
    files = [file for folder in newest for file in sorted(folder.glob("*/*.flac"))]
    return [f"{file.parent.name} {file.stem}" for file in files if np.abs(read_audio(file)).max() < SILENT]


def _side_by_side(run_dir: Path, found: list[_Sound]) -> str:
    waveforms = [read_audio(sound.file) for sound in found]
    powers = [_power(waveform) for waveform in waveforms]
    loudest = max(float(power.max()) for power in powers)
    shown = []
    for sound, power in zip(found, powers, strict=True):
        caption = sound.name if len(sound.steps) > 1 else f"{sound.name}, step {sound.steps[0]}"
        words = sound.file.with_suffix(".txt")
        caption += f"; {words.read_text(encoding='utf-8')}" if words.is_file() else ""
        shown.append((caption, grey_png(_shades(power, loudest)), sound.file.relative_to(run_dir).as_posix()))
    return sounds(shown)


def _power(waveform: np.ndarray) -> np.ndarray:
    """Return the power spectrogram [frequencies, frames] of samples [samples], the lowest frequency last."""
    hop = max(_WINDOW // 4, len(waveform) // _MOST_COLUMNS)
    padded = np.pad(waveform, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[: len(waveform) : hop]
    return np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=1)).T[::-1] ** 2


def _shades(power: np.ndarray, loudest: float) -> np.ndarray:
    """Return greys, uint8: black for the loudest power of the group, white for `_RANGE` dB less."""
    below = 10 * np.log10(max(loudest, 1e-12) / np.maximum(power, 1e-12)) / _RANGE
    return (np.round(np.clip(below, 0, 1) * (_GREYS - 1)) * (255 / (_GREYS - 1))).astype(np.uint8)


def grey_png(image: np.ndarray) -> bytes:
    """Return a PNG of uint8 greys [rows, columns]."""
    rows, columns = image.shape
    lines = np.hstack([np.zeros((rows, 1), np.uint8), np.ascontiguousarray(image)])  # each begins with its filter, none

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
            + chunk(b"IEND", b""))
