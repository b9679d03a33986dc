"""Say where words are lost between the 8 Hz codes and the speech: what a NAR model makes of true codes.

    python refine.py --tokens RUNS/tokens --codec CODEC --nar RUNS/nar [--true-levels 0 1 3 5 7] [--utterances 5]
        [--guidance 2] [--mean]

Short test utterances of some voices are encoded; the first levels are left as they are, the NAR predicts the others,
or they are left out, and the word error rate of what comes out is printed for each number of true levels. 0 is what the
NAR does in synthesis with a perfect AR model, all levels what the codec does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.checkpoint import load_checkpoint, load_tensors
from stages.artifacts.token_store import TokenUtterance
from stages.codec.base import RefinementState, Streams, TokenHierarchy
from stages.config.aligner import AlignerConfig
from stages.config.models import NARConfig
from stages.data.alignments import align
from stages.data.token_codec import open_codec, streams_of
from stages.data.tokens import TokenData, open_tokens
from stages.lm.nar import NARModel, Refinement, level_logits
from stages.metrics.base import MetricInput
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.summary import numbers_of
from stages.speech.transcriber import load_transcriber
from stages.synthesis.training_samples import decode, decode_feature, windows_of

VOICES = ("rms", "slt", "awb", "kal16")
LONGEST_SECONDS = 13.0


def refine_below(nar: NARModel, hierarchy: TokenHierarchy, true: Streams, true_levels: int, text: Tensor,
                 places: Tensor | None, windows: Refinement) -> RefinementState:  # fmt: skip
    """Return the state of an utterance with all levels above the first `true_levels` predicted, without a prompt.

    `true` are its own streams, `text` [1, tokens] what it says, `places` [1, frames] where, for a text pointer.
    """
    state = hierarchy.start(true[hierarchy.lowest.name][:, : hierarchy.lowest.num_codebooks])
    if places is not None:
        places = places.repeat_interleave(state.feature.shape[-1] // places.shape[-1], dim=1)
    for level in range(1, hierarchy.num_levels + 1):
        if level <= true_levels:
            state = hierarchy.accept(state, hierarchy.level_codes(true, level))
            continue
        logits = level_logits(nar, state.feature, level, text, None, windows, places)
        means = windows.mean
        state = hierarchy.expect(state, logits.softmax(-1)) if means else hierarchy.accept(state, logits.argmax(-1))
    return state


def chosen_utterances(data: TokenData, number: int) -> list[int]:
    """Return the first `number` short test utterances of each voice."""
    short = [index for index, row in enumerate(data.store.rows)
             if row["split"] == "test" and row["duration"] < LONGEST_SECONDS]
    by_voice = [[index for index in short if data.store.rows[index]["speaker"] == voice] for voice in VOICES]
    return [index for found in by_voice for index in found[:number]]


def word_errors(options: argparse.Namespace) -> Iterator[tuple[int, float, float, int]]:
    """Yield each number of true levels, the word error rates in % with the others predicted and left out, and of how
    many utterances."""
    data = open_tokens(options.tokens, None)
    codec = open_codec(options.codec, data)
    checkpoint = load_checkpoint(options.nar, "nar")
    nar = NARModel(NARConfig.model_validate(checkpoint.architecture["model"])).eval()
    load_tensors(nar, checkpoint.tensors, checkpoint.folder)
    codec.refine_by(nar.config.block_codes)
    windows = windows_of(codec, checkpoint.architecture["window_seconds"], checkpoint.architecture["prompt_seconds"])
    windows = replace(windows, guidance=options.guidance, mean=options.mean)
    items = chosen_utterances(data, options.utterances)
    places = align(data, codec, items, AlignerConfig(), 0) if nar.config.text_mode == "pointer" else {}
    transcriber, metric = load_transcriber("pocketsphinx"), CorpusWER()

    def heard(utterance: TokenUtterance, waveform: np.ndarray) -> dict:
        said = transcriber.transcribe(waveform, codec.sample_rate).text
        return metric.measure(MetricInput(utterance.text, codec.sample_rate, waveform, transcript=said))

    for true_levels in options.true_levels:
        predicted, left_out = [], []
        for index in items:
            utterance = data.store[index]
            text = torch.from_numpy(utterance.text_tokens.astype("int64"))[None]
            read = torch.from_numpy(places[index].astype("int64"))[None] if places else None
            true = streams_of(utterance, torch.device("cpu"))
            with torch.inference_mode():
                state = refine_below(nar, codec.hierarchy, true, true_levels, text, read, windows)
                spoken = decode_feature(codec, state.feature) if options.mean else decode(codec, state.streams)
                predicted.append(heard(utterance, spoken))
                left_out.append(heard(utterance, decode(codec, true, true_levels)))
        yield true_levels, *(metric.summarise(numbers_of(metric, found)) for found in (predicted, left_out)), len(items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("tokens", "codec", "nar"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--true-levels", type=int, nargs="+", default=[0, 7], help="(default: 0 7)")
    parser.add_argument("--utterances", type=int, default=5, help="of each voice (default: 5)")
    parser.add_argument("--guidance", type=float, default=1.0, help="as sampling.nar_guidance (default: 1)")
    parser.add_argument("--mean", action="store_true", help="as sampling.nar_mean")
    options = parser.parse_args()
    options.nar = Path(options.nar)
    print("| true levels | WER, the others predicted, % | WER, without the others, % | utterances |\n|---|---|---|---|")
    for true_levels, predicted, left_out, number in word_errors(options):
        print(f"| {true_levels} | {predicted:.1f} | {left_out:.1f} | {number} |", flush=True)


if __name__ == "__main__":
    main()
