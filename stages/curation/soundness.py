"""Step `check`: a recording is whole, plausible audio with sound in it, and what it is.

It is decoded once from beginning to end, in blocks, so that ten hours need no more memory than a minute.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts.storage import sha256_file
from stages.audio.base import AudioInfo
from stages.audio.io import AudioError, audio_info, mix_down, stream_audio
from stages.audio.loudness import LoudnessMeter
from stages.config.stage_configs import CurateConfig
from stages.curation.oddities import oddities
from stages.curation.recordings import Recording
from stages.curation.screening import check_inside
from stages.curation.steps import Results, Step

_FLOOR = 1e-4  # -80 dB: what never exceeds it is silence


def run(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    """Say what the recording is, and in `reason` why it cannot be used, if so."""
    assert recording.audio is not None
    found = {"id": recording.id, "path": recording.source, "seconds": 0.0, "sample_rate": 0, "channels": 0,
             "sha256": "", "content": "", "loudness": None, "warnings": [], "reason": "", "detail": ""}
    try:
        check_inside(recording, source_root(config), config)
        info = audio_info(recording.audio)
        found |= {"seconds": round(info.duration, 6), "sample_rate": info.sample_rate, "channels": info.channels}
        reason, detail = _refused(info, config)
        if reason:
            return found | {"reason": reason, "detail": detail}
        sound = _listen(recording.audio, info)
        sound.check(recording.audio, config)
        return found | sound.facts() | {"sha256": sha256_file(recording.audio),
                                        "warnings": sound.oddities(recording.audio, info)}
    except AudioError as error:
        return found | {"reason": error.reason, "detail": error.detail}


def settings(config: CurateConfig) -> dict:
    return {"version": 2, "min_rate": config.min_rate, "min_seconds": config.min_seconds,
            "max_offset": config.max_offset, "follow_links": config.follow_links}


CHECK = Step("check", needs=(), settings=settings, run=run)


def source_root(config: CurateConfig) -> Path:
    """Return the folder that the recordings of a source may not leave."""
    source = Path(config.source)
    return source if source.is_dir() else source.parent


def _refused(info: AudioInfo, config: CurateConfig) -> tuple[str, str]:
    """Return (reason, detail) of what the header alone rules out."""
    if info.sample_rate < config.min_rate:
        return "LOW_RATE", f"expected at least {config.min_rate} Hz, got {info.sample_rate}"
    if info.duration < config.min_seconds:
        return "TOO_SHORT", f"expected at least {config.min_seconds:g} s, got {info.duration:.2f}"
    return "", ""


@dataclass
class _Sound:
    """What the samples told, block by block."""

    meter: LoudnessMeter
    hash: hashlib._Hash
    count: int = 0
    peak: float = 0.0
    sum: float = 0.0
    power: float = 0.0  # of the mean of the channels, summed over samples
    channel_power: float = 0.0

    def add(self, block: np.ndarray) -> None:
        """Take in [samples, channels]."""
        mono = np.ascontiguousarray(mix_down(block))
        self.hash.update(mono.tobytes())
        self.meter.add(mono)
        self.count += len(mono)
        self.peak = max(self.peak, float(np.abs(mono).max()))
        self.sum += float(mono.sum(dtype=np.float64))
        self.power += float(np.vdot(mono, mono))
        self.channel_power += float(np.vdot(block, block)) / block.shape[1]

    def check(self, path: Path, config: CurateConfig) -> None:
        if self.peak <= _FLOOR:
            why = "its channels are opposite and cancel" if self.channel_power > self.power + self.count * _FLOOR**2 \
                else "nothing is heard"
            raise AudioError(path, "SILENT", f"{why}: the loudest sample is {self.peak:.2g}")
        offset = self.sum / self.count
        if abs(offset) > config.max_offset:
            raise AudioError(path, "OFFSET",
                             f"expected a mean sample within {config.max_offset:g} of 0, got {offset:.3f}")

    def oddities(self, path: Path, info: AudioInfo) -> list[str]:
        return oddities(path, info, self.power, self.channel_power)

    def facts(self) -> dict:
        level = self.meter.loudness
        return {"content": self.hash.hexdigest(), "loudness": round(level, 2) if math.isfinite(level) else None}


def _listen(path: Path, info: AudioInfo) -> _Sound:
    """Decode the whole file; raise `AudioError` where it is damaged."""
    sound = _Sound(LoudnessMeter(info.sample_rate),
                   hashlib.blake2b(digest_size=16, key=str(info.sample_rate).encode()))
    for block in stream_audio(path):
        sound.add(block)
    return sound
