"""Seventy voices out of four: flite's own, and what other pitch, vocal tracts, tempo and timbre make of them.

flite sets the pitch and its range itself, without touching the formants. A vocal tract that is shorter by a factor
moves all formants up by that factor, which is what playing faster does; flite is therefore asked for a pitch that is
lower and for speech that is slower by the same factor first. Nothing is stretched afterwards, so no variant has the
echo of a time stretcher. The voice rms has a pitch that flite cannot set: it moves with the formants.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from stages.errors import UsageError

SAMPLE_RATE = 24_000
BASES = {"rms": 100.0, "slt": 174.0, "awb": 131.0, "kal16": 95.0}  # flite voice: its pitch in Hz, measured
_EDGE = 0.02  # of the peak; flite's silence before and after a sentence lies below
_KEPT_EDGE_SECONDS = 0.05
_GOLDEN = 0.618034


@dataclass(frozen=True)
class Voice:
    """A flite voice and how it is changed; with `pitch` None and all else neutral it is flite's own."""

    name: str
    base: str
    formants: float = 1.0  # above 1: a shorter vocal tract
    pitch: float | None = None  # Hz
    tempo: float = 1.0
    liveliness: float = 0.1  # standard deviation of the pitch, as a share of it
    tilt: float = 0.0  # dB an octave, around 1 kHz
    test_only: bool = False

    @property
    def is_plain(self) -> bool:
        return self.name == self.base


_LOW_BASE = {  # formants and pitch of variants of a man's voice, by whom they resemble
    "m": ((0.92, 88), (0.94, 102), (0.94, 122), (0.92, 105), (0.92, 130), (0.96, 90), (0.96, 118), (1.0, 145),
          (1.04, 125), (1.04, 100)),
    "f": ((1.10, 165), (1.10, 190), (1.14, 178), (1.14, 205), (1.18, 195), (1.18, 220)),
    "c": ((1.24, 235), (1.24, 260), (1.28, 250)),
}
_HIGH_BASE = {  # of a woman's
    "m": ((0.80, 95), (0.80, 115), (0.84, 105), (0.84, 130), (0.88, 120)),
    "f": ((0.94, 160), (0.94, 185), (0.96, 170), (0.98, 200), (1.0, 150), (1.02, 175), (1.02, 215), (1.06, 190),
          (1.06, 230)),
    "c": ((1.07, 245), (1.07, 265), (1.08, 230), (1.08, 255), (1.05, 280)),
}
_FIXED_PITCH = {"m": tuple((factor, None) for factor in (0.90, 0.92, 0.95, 0.98, 1.04, 1.08, 1.12, 1.16, 1.20, 1.25))}
_VARIANTS = {"rms": _FIXED_PITCH, "slt": _HIGH_BASE, "awb": _LOW_BASE, "kal16": _LOW_BASE}
TEST_ONLY = ("rms-m3", "slt-m2", "slt-f6", "awb-m5", "awb-f3", "kal16-c2")  # never trained on


def further_unseen() -> list[Voice]:
    """Return four more voices that are never trained on, for results only."""
    return [
        Voice("rms-x1", "rms", 1.01, None, tempo=0.95, tilt=-1.2, test_only=True),
        Voice("slt-x1", "slt", 0.91, 140, tempo=0.93, liveliness=0.12, tilt=1.0, test_only=True),
        Voice("awb-x1", "awb", 1.07, 150, tempo=1.02, liveliness=0.13, tilt=-1.5, test_only=True),
        Voice("kal16-x1", "kal16", 1.20, 228, tempo=0.97, liveliness=0.11, tilt=1.4, test_only=True),
    ]


def unseen_voices() -> list[Voice]:
    """Return the ten voices that are never trained on."""
    return [voice for voice in all_voices() if voice.test_only] + further_unseen()


def all_voices() -> list[Voice]:
    """Return the voices of the corpus: the four plain ones first, then variants of each base in turn."""
    families = [_family(base) for base in BASES]
    longest = max(map(len, families))
    return [family[index] for index in range(longest) for family in families if index < len(family)]


def _family(base: str) -> list[Voice]:
    """The plain voice and its variants; tempo, liveliness and timbre are spread evenly, unrelated to each other."""
    family = [Voice(base, base)]
    for kind, settings in _VARIANTS[base].items():
        for number, (formants, pitch) in enumerate(settings, start=1):
            index, name = len(family), f"{base}-{kind}{number}"
            family.append(Voice(
                name, base, formants, pitch,
                tempo=round(0.84 + 0.28 * (index * _GOLDEN % 1), 3),
                liveliness=round(0.06 + 0.10 * (index * _GOLDEN**2 * 1.7 % 1), 3),
                tilt=round(-2.0 + 4.0 * (index * _GOLDEN * 2.3 % 1), 2),
                test_only=name in TEST_ONLY,
            ))
    return family


def say(voice: Voice, sentence: str) -> np.ndarray:
    """Return `sentence` as `voice` says it, [samples] at 24 kHz, with 0.05 s of silence left at either end."""
    with tempfile.TemporaryDirectory(prefix="mini-") as folder:
        wav = Path(folder, "sentence.wav")
        command = ["flite", "-voice", voice.base, *_settings(voice), "-t", sentence, "-o", str(wav)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, encoding="utf-8")
        if done.returncode:
            raise UsageError(f"flite could not say `{sentence}`: {done.stderr.strip() or done.returncode}",
                             f"`flite -lv` should list `{voice.base}`")
        waveform, sample_rate = soundfile.read(wav, dtype="float32")
    waveform = _trim(waveform, sample_rate)
    waveform = soxr.resample(waveform, sample_rate * voice.formants, SAMPLE_RATE)
    return tilt_spectrum(waveform, voice.tilt) if voice.tilt else waveform


def _settings(voice: Voice) -> list[str]:
    wanted = {}
    if voice.formants != voice.tempo:
        wanted["duration_stretch"] = voice.formants / voice.tempo
    if voice.pitch is not None:
        wanted["int_f0_target_mean"] = voice.pitch / voice.formants
        wanted["int_f0_target_stddev"] = voice.liveliness * voice.pitch / voice.formants
    return [part for name, value in wanted.items() for part in ("--setf", f"{name}={value:.4f}")]


def _trim(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    loud = np.flatnonzero(np.abs(waveform) > _EDGE * np.abs(waveform).max(initial=0.0))
    if not len(loud):
        return waveform
    kept = round(_KEPT_EDGE_SECONDS * sample_rate)
    return waveform[max(0, loud[0] - kept) : loud[-1] + kept]


def tilt_spectrum(waveform: np.ndarray, tilt: float) -> np.ndarray:
    """Make [samples] brighter (or duller, below 0) by `tilt` dB an octave between 125 Hz and 8 kHz."""
    spectrum = np.fft.rfft(waveform)
    frequencies = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    octaves = np.log2(np.clip(frequencies, 125, 8000) / 1000)
    return np.fft.irfft(spectrum * 10 ** (tilt * octaves / 20), len(waveform)).astype(np.float32)


def seconds_to_say(voice: Voice, sentence: str) -> float:
    """Estimate how long `say` would take, within about 10 % of a sentence (measured on WordNet's)."""
    return (0.064 if voice.base == "rms" else 0.056) * len(sentence) / voice.tempo
