"""Measure a plain codec and its multi-resolution successor on the test speech of this corpus.

    python figures.py --data RUNS/data --codec RUNS/codec-spectral --mreq RUNS/mreq --out RUNS/figures

Every tested voice is scored by `halle eval --reconstruct` in OUT/VOICE, whose report has all players; the rest is
measured here. Prints a table and writes it, with all that it rests on, as OUT/figures.md and OUT/figures.json. Without
--codec, what compares the two is left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.artifacts.manifest import Manifest, Utterance, read_manifest
from stages.artifacts.storage import read_json, read_jsonl, write_json, write_text
from stages.audio.io import read_audio
from stages.audio.stft import mel_distance
from stages.codec.base import Codec
from stages.codec.health import code_histogram, usage
from stages.codec.inference import for_inference
from stages.codec.probe import EXPLAINED, FIRST_AVERAGED, probe_blocks
from stages.codec.registry import load_codec
from stages.config.stage_configs import EvalConfig
from stages.metrics.comparison import compare_systems, score_system
from stages.metrics.registry import choose_metrics
from stages.metrics.scoring import RECORDINGS

VOICES = ("rms", "awb", "kathleen")
METRICS = ("wer", "pesq", "stoi", "mel_distance")
CLIP_SECONDS = 5.0
PROBED_UTTERANCES = 60
HOUR = 3600.0


@dataclass(frozen=True)
class Figure:
    """One line of the table: what is wanted as a sentence, and whether the value is that."""

    name: str
    wanted: str
    value: str
    reached: bool


def score_voice(data: Path, codecs: Iterable[Path], voice: str, out: Path, metrics: Iterable[str],
                limit: int | None = None) -> Path:
    """Run `halle eval --reconstruct` on the short test utterances of a voice, in `out/voice`; it continues what it
    finds there."""
    out = out / voice
    command = [sys.executable, "-m", "halle_cli", "eval", "--reconstruct", "--quiet", "--set", str(data),
               "--only", "set=test-short", "--only", f"speaker={voice}", "--out", str(out),
               "-O", f"metrics=[{', '.join(metrics)}]"]  # fmt: skip
    command += [word for codec in codecs for word in ("--codec", str(codec))]
    command += ["--max-items", str(limit)] if limit else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return out


def pooled_scores(folders: Iterable[Path], names: Iterable[str] = METRICS) -> dict:
    """Return the scores of all voices together: words weigh alike, whoever says them."""
    rows, systems = [], []
    for folder in folders:
        systems = list(read_json(folder / "scores.json")["systems"])
        rows += read_jsonl(folder / "items.jsonl")
    config, metrics = EvalConfig(setting="reconstruction"), choose_metrics(tuple(names), ())
    coded = [system for system in systems if system != RECORDINGS]
    return {
        "utterances": len(rows),
        "systems": {system: score_system(metrics, rows, system, config) for system in systems},
        "differences": compare_systems(metrics, rows, coded, config),
    }


def waveforms(utterances: Iterable[Utterance], sample_rate: int) -> Iterator[torch.Tensor]:
    """Yield [1, 1, samples] of each utterance."""
    for utterance in utterances:
        found = read_audio(utterance.audio, sample_rate, utterance.start, utterance.duration)
        yield torch.from_numpy(found)[None, None]


def of_set(manifest: Manifest, name: str) -> list[Utterance]:
    return [utterance for utterance in manifest.utterances if utterance.extra.get("set") == name]


def perplexities(codec: Codec, manifest: Manifest) -> tuple[list[float], float]:
    """Return the perplexity of every codebook of the lowest stream over an hour held out, and the seconds of it."""
    stream, seconds, histogram = codec.hierarchy.lowest, 0.0, torch.zeros(())
    chosen = sorted((u for u in manifest.utterances if u.split != "train"), key=lambda u: u.id)
    for waveform in waveforms(chosen, codec.sample_rate):
        histogram = histogram + code_histogram(codec.encode(waveform)[stream.name], stream.codebook_size)
        seconds += waveform.shape[-1] / codec.sample_rate
        if seconds >= HOUR:
            break
    return usage(histogram).perplexity.tolist(), seconds


@torch.no_grad()
def long_over_short(codec: Codec, manifest: Manifest) -> tuple[float, int]:
    """Return the mel distance of whole long utterances over that of the same audio in clips of 5 s, and how many."""
    clip, whole, parts, count = int(CLIP_SECONDS * codec.sample_rate), 0.0, 0.0, 0
    for waveform in waveforms(of_set(manifest, "test-long"), codec.sample_rate):
        used = waveform[..., : waveform.shape[-1] // clip * clip]
        clips = used.reshape(-1, 1, clip)
        whole += _distance(codec, used)
        parts += _distance(codec, clips)
        count += 1
    return whole / parts, count


def _distance(codec: Codec, waveform: torch.Tensor) -> float:
    decoded = codec.decode(codec.encode(waveform), waveform.shape[-1])
    return float(mel_distance(decoded, waveform, codec.sample_rate).mean())


def score_figures(scores: dict) -> list[Figure]:
    """Return the lines about WER, PESQ and STOI."""
    _, plain, multi = scores["systems"]
    found = {(row["system"], row["against"], row["metric"]): row for row in scores["differences"]}
    lines = [
        _difference("WER of the codec above the recordings", found[plain, RECORDINGS, "wer"], 5.0),
        _difference("WER of MReQ above the codec", found[multi, plain, "wer"], 3.0),
    ]
    for metric in ("pesq", "stoi"):
        ours, theirs = (scores["systems"][system]["scores"][metric]["value"] for system in (multi, plain))
        lines.append(Figure(f"{metric.upper()} of MReQ over the codec's", "at least 0.95",
                            f"{ours / theirs:.3f} ({ours:.3f} over {theirs:.3f})", ours / theirs >= 0.95))
    return lines


def _difference(name: str, difference: dict, most: float) -> Figure:
    low, high = difference["interval"]
    text = f"{difference['value']:+.2f} points ({low:+.2f} to {high:+.2f}, {difference['pairs']} utterances)"
    return Figure(name, f"at most {most:g} points", text, difference["value"] <= most)


def latent_figures(codec: Codec | None, mreq: Codec, manifest: Manifest) -> list[Figure]:
    """Return the lines about the 8 Hz block and about long utterances."""
    found, seconds = perplexities(mreq, manifest)
    size = mreq.hierarchy.lowest.codebook_size
    every = max(1, len(of_set(manifest, "test-short")) // PROBED_UTTERANCES)
    probed = of_set(manifest, "test-short")[::every]
    probe = probe_blocks(mreq, codec, waveforms(probed, mreq.sample_rate))
    ratio, count = long_over_short(mreq, manifest)
    beside = "" if codec is None else f"; the plain codec {long_over_short(codec, manifest)[0]:.3f}"
    explained = [] if codec is None else [
        Figure("variance of the codec's first codebook that the 8 Hz block explains", "at least 50 %",
               f"{probe[EXPLAINED]:.1%}", probe[EXPLAINED] >= 0.5)]  # fmt: skip
    return [
        Figure("perplexity of each 8 Hz codebook", f"at least {size // 4}",
               ", ".join(f"{value:.0f}" for value in found) + f" over {seconds / 60:.0f} min", min(found) >= size / 4),
        Figure("mel distance with the 8 Hz block averaged over time", "at least x 1.5",
               f"x {probe[FIRST_AVERAGED]:.2f} ({len(probed)} utterances)", probe[FIRST_AVERAGED] >= 1.5),
        *explained,
        Figure("mel distance of whole long utterances over 5 s clips of them", "at most 1.05",
               f"{ratio:.3f} ({count} utterances{beside})", ratio <= 1.05),
    ]  # fmt: skip


def as_markdown(figures: list[Figure], scores: dict) -> str:
    """Return both tables: the figures, and every voice's scores."""
    lines = ["| figure | wanted | measured | |", "|---|---|---|---|"]
    lines += [f"| {f.name} | {f.wanted} | {f.value} | {'reached' if f.reached else 'missed'} |" for f in figures]
    lines += ["", "| system | voice | " + " | ".join(METRICS) + " |", "|---|---|" + "---|" * len(METRICS)]
    for system, entry in scores["systems"].items():
        for voice, values in (("all", entry["scores"]), *entry["speakers"].items()):
            cells = [_cell(values.get(metric)) for metric in METRICS]
            lines.append(f"| {system} | {voice} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(score: dict | None) -> str:
    return "" if score is None or score["value"] is None else f"{score['value']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "codec", "mreq", "out"):
        parser.add_argument(f"--{name}", type=Path, required=name != "codec")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="voices that are scored at once")
    parser.add_argument("--limit", type=int, help="utterances a voice, for a quick look")
    options = parser.parse_args()
    torch.set_num_threads(1)
    manifest = read_manifest(options.data)
    with ThreadPoolExecutor(options.jobs) as pool:
        codecs = [path for path in (options.codec, options.mreq) if path]
        scored = pool.map(lambda voice: score_voice(options.data, codecs, voice, options.out, METRICS, options.limit),
                          VOICES)
        *plain, mreq = (for_inference(load_codec(path)) for path in codecs)
        figures = latent_figures(plain[0] if plain else None, mreq, manifest)
        scores = pooled_scores(list(scored))
    figures = (score_figures(scores) if plain else []) + figures
    write_json(options.out / "figures.json", {"figures": [vars(figure) for figure in figures], "scores": scores})
    write_text(options.out / "figures.md", as_markdown(figures, scores))
    print((options.out / "figures.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
