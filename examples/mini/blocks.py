"""Say what is understood of a multi-resolution codec's first blocks alone: h_1, h_2, .. of equation 15, decoded.

    python blocks.py --data RUNS/data --codec CODEC [--codec OTHER] [--utterances 15]

Prints a table of word error rates on short test utterances of some voices, each with its 95 % interval. What the 8 Hz
block says by itself is what language models can rely on: all above it is guessed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.manifest import Utterance, read_manifest
from stages.audio.io import read_audio
from stages.codec.base import pad_to_multiple
from stages.codec.inference import for_inference
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.probe import block_contributions
from stages.codec.registry import load_codec
from stages.metrics.base import MetricInput
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.summary import Score, summarise
from stages.speech.transcriber import load_transcriber

VOICES = ("rms", "slt", "awb", "kal16", "kathleen")
RECORDINGS = "recordings"


@torch.inference_mode()
def decoded_by_blocks(codec: MultiResolutionCodec, waveform: np.ndarray) -> Iterator[np.ndarray]:
    """Yield float32 [samples]: what the decoder makes of the first 1, 2, .. all blocks of a waveform [samples]."""
    batch = pad_to_multiple(torch.from_numpy(waveform)[None, None], codec.alignment)
    latents = torch.zeros(())
    for part in block_contributions(codec.mrvq, codec.encode_all(batch)):
        latents = latents + part
        yield codec.decode_latents(latents)[0, 0, : len(waveform)].float().clamp(-1, 1).numpy()


def chosen(data: Path, number: int) -> list[Utterance]:
    """Return the first `number` short test utterances of each voice, in the order of their ids."""
    short = sorted((u for u in read_manifest(data).utterances if u.extra.get("set") == "test-short"),
                   key=lambda utterance: utterance.id)
    return [u for voice in VOICES for u in [u for u in short if u.speaker == voice][:number]]


def heard_in(codecs: dict[str, MultiResolutionCodec], utterance: Utterance) -> dict[tuple[str, int], dict]:
    """Return the measured word errors of the recording, and of each codec's first blocks, by name and number."""
    rate = next(iter(codecs.values())).sample_rate
    recording = read_audio(utterance.audio, rate, utterance.start, utterance.duration)
    transcriber, metric = load_transcriber("pocketsphinx"), CorpusWER()
    sounds = {(RECORDINGS, 0): recording}
    for name, codec in codecs.items():
        sounds |= {(name, s): sound for s, sound in enumerate(decoded_by_blocks(codec, recording), start=1)}
    return {key: metric.measure(MetricInput(utterance.text, rate, sound,
                                            transcript=transcriber.transcribe(sound, rate).text))
            for key, sound in sounds.items()}  # fmt: skip


def scores_of(codecs: dict[str, MultiResolutionCodec], utterances: list[Utterance]) -> dict[tuple[str, int], Score]:
    """Return the score of the recordings and of every codec's first blocks over all utterances."""
    rows = [heard_in(codecs, utterance) for utterance in utterances]
    return {key: summarise(CorpusWER(), [row[key] for row in rows]) for key in rows[0]}


def as_markdown(scores: dict[tuple[str, int], Score]) -> str:
    lines = ["| speech | first blocks | WER, % |", "|---|---|---|"]
    for (name, number), score in scores.items():
        low, high = score.interval
        lines.append(f"| {name} | {number or ''} | {score.value:.1f} ({low:.1f} to {high:.1f}) |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True, action="append")
    parser.add_argument("--utterances", type=int, default=15, help="of each voice (default: 15)")
    options = parser.parse_args()
    codecs = {path.as_posix(): for_inference(load_codec(path)) for path in options.codec}
    utterances = chosen(options.data, options.utterances)
    print(as_markdown(scores_of(codecs, utterances)))
    print(f"\n{len(utterances)} utterances, {sum(len(u.text.split()) for u in utterances)} words")


if __name__ == "__main__":
    main()
