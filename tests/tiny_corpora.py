"""Tiny corpora: each voice line is a different tone, so that no two recordings are alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stages.audio.io import write_audio
from stages.config.stage_configs import CurateConfig

WORDS = "the quick brown fox jumps over a lazy dog while seven bold sailors sing of distant green islands".split()


def sentence(index: int) -> str:
    """A different sentence of about 40 characters for each index."""
    return " ".join(WORDS[(index * 7 + step * (index % 5 + 1)) % len(WORDS)] for step in range(8)) + f" {index}"


def voice(index: int = 0, seconds: float = 3.0, rate: int = 24_000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (100 + 7 * index) * time)).astype(np.float32)


def record(path: Path, index: int = 0, seconds: float = 3.0, rate: int = 24_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, voice(index, seconds, rate), rate)
    return path


def write_lines(path: Path, *rows: dict | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def audio_folder(root: Path, count: int = 12, speakers: int = 2, seconds: float = 3.0) -> Path:
    """An audio folder of `count` recordings, the speakers taking turns."""
    for index in range(count):
        record(root / f"u{index:02d}.wav", index, seconds)
    rows = [{"file_name": f"u{i:02d}.wav", "text": sentence(i), "speaker": f"s{i % speakers}"} for i in range(count)]
    write_lines(root / "metadata.jsonl", *rows)
    return root


def settings(source: Path | str, out: Path | str = "", **changes) -> CurateConfig:
    return CurateConfig(source=str(source), out=str(out), **{"min_seconds": 1.0, "workers": 2, **changes})
