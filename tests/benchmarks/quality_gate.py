"""What the quality gate keeps: speech that is spoilt in known ways, and what wide-band PESQ says of the damage.

    python tests/benchmarks/quality_gate.py --data DATA --out runs/quality-gate

Pieces of 30 s of real and synthetic speech are spoilt by noise, music, babble, reverberation, band-limiting and
clipping. PESQ compares with the unspoilt piece, however good that was, so the two cannot agree altogether. The
threshold of the mean is where an estimator's verdict agrees with PESQ above 2.5, the paper's threshold of PESQ as Squim
estimates it; that of the deviation lies between recordings left alone and recordings spoilt in parts.
A measurement, not a test: nothing here can fail.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pesq import NoUtterancesError, pesq
from scipy.signal import butter, fftconvolve, sosfiltfilt

from stages.artifacts import storage
from stages.audio.io import read_audio
from stages.speech.onnx_models import open_session, package_file
from stages.speech.quality import DNSMOS, THRESHOLDS, DnsmosEstimator

ROOT = Path(__file__).resolve().parents[2]
RATE, PIECE, WINDOW = 16_000, 30 * 16_000, 144_160  # PESQ crashes on many bursts: it hears one window of a piece
LEVEL_DB, GOOD_PESQ = -26.0, 2.5
SPOILT_SHARE = 1 / 3  # of an uneven recording's pieces


@dataclass(frozen=True)
class Score:
    """One piece: what was done to it, its PESQ (None where that finds no speech) and every estimator's score."""

    source: str
    damage: str
    pesq: float | None
    scores: dict[str, float]


# ---- speech


def pieces_of(data: Path, count: int) -> dict[str, list[np.ndarray]]:
    """Return source -> pieces of 30 s: Kathleen, each of three speakers of an4, Barista, four flite voices, others."""
    sources = {name: sorted((data / name).glob("*.flac")) for name in ("kathleen", "barista")}
    for line in (data / "an4" / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        sources.setdefault(f"an4 {row['speaker']}", []).append(data / "an4" / row["file_name"])
    an4 = sorted((name for name in sources if name.startswith("an4")), key=lambda name: -len(sources[name]))
    for name in an4[3:]:
        del sources[name]
    for file in sorted((data / "voices").glob("*.flac")):
        sources[f"voice {file.stem}"] = [file]
    for file in sorted((ROOT / "examples" / "speech" / "audio").glob("*.ogg")):
        sources.setdefault(f"flite {file.stem.split('-')[0]}", []).append(file)
    return {name: _join(files, count) for name, files in sources.items()}


def _join(files: list[Path], count: int) -> list[np.ndarray]:
    """Return pieces at one level, of files far apart; a voice of a few seconds is repeated."""
    random, parts, length = np.random.default_rng(0), [], 0
    for index in random.permutation(len(files)):
        parts += [read_audio(files[index], RATE), np.zeros(RATE // 4, np.float32)]
        length += len(parts[-2]) + len(parts[-1])
        if length >= count * PIECE:
            break
    joined = np.concatenate(parts)
    num_pieces = min(count, max(1, len(joined) // PIECE))
    return [_leveled(piece) for piece in np.split(np.resize(joined, num_pieces * PIECE), num_pieces)]


def _leveled(samples: np.ndarray) -> np.ndarray:
    return (samples * (10 ** (LEVEL_DB / 20) / np.sqrt(np.mean(samples**2)))).astype(np.float32)


# ---- damage


def damages(babble: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return name -> what it does to a piece; the number is the ratio of speech to disturbance in dB."""
    random = np.random.default_rng(1)
    made: dict[str, Callable[[np.ndarray], np.ndarray]] = {"none": lambda piece: piece}
    white = random.standard_normal(PIECE)
    for name, noise, ratios in (
        ("white noise", white, (30, 20)), ("pink noise", _pink(white), (30, 25, 20, 15, 10, 0)),
        ("babble", babble, (20, 10)), ("music", music(random), (30, 20, 10, 0)),
    ):
        for ratio in ratios:
            made[f"{name} {ratio} dB"] = lambda piece, noise=noise, ratio=ratio: piece + noise * np.sqrt(
                np.mean(piece**2) / np.mean(noise**2) / 10 ** (ratio / 10))
    for seconds, ratio in ((0.3, 10), (0.6, 3), (1.0, -6)):
        made[f"reverberation {seconds} s, {ratio} dB"] = lambda piece, room=_room(seconds, ratio, random): fftconvolve(
            piece, room)[:PIECE]
    for low, high in ((0, 6000), (0, 4000), (300, 3400)):
        made[f"band {low}-{high} Hz"] = lambda piece, low=low, high=high: _band(piece, low, high)
    made["clipped 5 %"] = lambda piece: np.clip(piece, *np.quantile(np.abs(piece), 0.95) * np.array([-1, 1]))
    return made


def _pink(white: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(white)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(white))


def music(random: np.random.Generator) -> np.ndarray:
    """Return four chords with an arpeggio and a drum, twice a second: harmonic and percussive, and no voice."""
    beat, sound = RATE // 2, np.zeros(PIECE)
    t = np.arange(beat) / RATE
    for index, start in enumerate(range(0, PIECE, beat)):
        chord = ((57, 60, 64), (53, 57, 60), (48, 52, 55), (55, 59, 62))[index // 4 % 4]
        for note in (*chord, chord[index % 3] + 12, chord[0] - 12):
            pitch = 440 * 2 ** ((note - 69) / 12)
            sound[start : start + beat] += np.exp(-3 * t) * sum(
                np.sin(2 * np.pi * pitch * k * t) / k**1.3 for k in range(1, 9))
        sound[start : start + beat] += random.standard_normal(beat) * np.exp(-40 * t) * (2.0 if index % 2 else 0.7)
    return sound


def _room(seconds: float, ratio: float, random: np.random.Generator) -> np.ndarray:
    """Return a direct sound and, `ratio` dB below it, a tail that falls by 60 dB in so many seconds."""
    tail = random.standard_normal(round(1.2 * seconds * RATE))
    tail *= 10 ** (-3 * np.arange(len(tail)) / RATE / seconds)
    return np.concatenate([[1.0], np.zeros(RATE * 3 // 1000), tail / np.linalg.norm(tail) * 10 ** (-ratio / 20)])


def _band(piece: np.ndarray, low: float, high: float) -> np.ndarray:
    kept = sosfiltfilt(butter(6, high, "low", fs=RATE, output="sos"), piece)
    return sosfiltfilt(butter(4, low, "high", fs=RATE, output="sos"), kept) if low else kept


# ---- estimators


class Overall:
    """P.835's opinion of all that is heard (`ovrl`), on the same windows: the other model that is in the package."""

    def __init__(self) -> None:
        self._session = open_session(package_file("speechmos", "dnsmos_models/sig_bak_ovr.onnx"))

    def estimate(self, waveform: np.ndarray, sample_rate: int) -> float:
        starts = np.linspace(0, len(waveform) - WINDOW, 4).astype(int)
        windows = np.stack([waveform[start : start + WINDOW] for start in starts]).astype(np.float32)
        raw = self._session.run(None, {"input_1": windows})[0][:, 2]
        return float(np.mean(np.poly1d([-0.06766283, 1.11546468, 0.04602535])(raw)))  # speechmos's own fit


def measure(pieces: dict[str, list[np.ndarray]], estimators: dict) -> list[Score]:
    babble = sum(own[0] for own in list(pieces.values())[:6])
    found = []
    for damage, spoil in damages(babble).items():
        for source, own in pieces.items():
            for piece in own:
                spoilt = spoil(piece).astype(np.float32)
                spoilt /= max(1.0, float(np.abs(spoilt).max()))
                found.append(Score(source, damage, _pesq(piece, spoilt),
                                   {name: model.estimate(spoilt, RATE) for name, model in estimators.items()}))
    return found


def _pesq(piece: np.ndarray, spoilt: np.ndarray) -> float | None:
    start = (PIECE - WINDOW) // 2
    try:
        return float(pesq(RATE, piece[start : start + WINDOW], spoilt[start : start + WINDOW], "wb"))
    except NoUtterancesError:
        return None


# ---- what it says


def table(found: list[Score], name: str) -> str:
    """Return a line a damage: PESQ, the mean score, and of how many pieces the score is above the threshold."""
    lines = [f"{'damage':28} {'PESQ':>5} {name:>7} {'kept':>5}"]
    for damage in dict.fromkeys(score.damage for score in found):
        own = [score for score in found if score.damage == damage]
        values = np.array([score.scores[name] for score in own])
        heard = [score.pesq for score in own if score.pesq is not None]
        kept = np.mean(values > THRESHOLDS[DNSMOS].mean) if name == DNSMOS else np.nan
        lines.append(f"{damage:28} {np.mean(heard):5.2f} {values.mean():7.2f} {kept:5.0%}")
    return "\n".join(lines)


def agreement(found: list[Score], name: str) -> str:
    """Return how well scores tell PESQ above 2.5 from below, and the threshold that does it best."""
    judged = [score for score in found if score.pesq is not None and score.damage != "none"]
    values = np.array([score.scores[name] for score in judged])
    truth = np.array([score.pesq for score in judged])
    good, levels = truth > GOOD_PESQ, np.unique(values)
    ranked = np.mean(values[good][:, None] > values[~good][None])
    balanced = [(np.mean(values[good] > level) + np.mean(values[~good] <= level)) / 2 for level in levels]
    slope = np.polyfit(truth, values, 1)[0]
    return (f"{name}: PESQ above {GOOD_PESQ} is told from below with an area under the curve of {ranked:.3f}; best "
            f"at {levels[int(np.argmax(balanced))]:.2f} ({max(balanced):.1%} right, both kinds counting the same); "
            f"{slope:.2f} a PESQ")


def deviations(found: list[Score], name: str) -> str:
    """Return the deviation of recordings left alone, and with a third of their pieces spoilt."""
    lines = []
    clean = {source: [score.scores[name] for score in found if score.source == source and score.damage == "none"]
             for source in dict.fromkeys(score.source for score in found)}
    clean = {source: values for source, values in clean.items() if len(values) >= 3}
    for damage in dict.fromkeys(score.damage for score in found):
        spread = []
        for source, values in clean.items():
            spoilt = [score.scores[name] for score in found if score.source == source and score.damage == damage]
            count = round(SPOILT_SHARE * len(values))
            spread.append(np.std([*spoilt[:count], *values[count:]]))
        lines.append(f"{damage:28} {np.mean(spread):5.2f} {max(spread):5.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with kathleen/, an4/, barista/ and voices/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=3, help="of a source, at most")
    parser.add_argument("--p835", action="store_true", help="hear with P.835 too, which takes 15 times as long")
    options = parser.parse_args()
    estimators = {DNSMOS: DnsmosEstimator(), **({"p835": Overall()} if options.p835 else {})}
    found = measure(pieces_of(options.data, options.pieces), estimators)
    storage.write_jsonl(options.out / "scores.jsonl", [vars(score) for score in found])
    for name in estimators:
        print(table(found, name), agreement(found, name), sep="\n\n")
        print(f"\ndeviation with a third of the pieces spoilt, mean and largest\n{deviations(found, name)}")


if __name__ == "__main__":
    main()
