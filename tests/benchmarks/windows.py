"""What fewer NAR windows cost in words: the same lowest codes refined by two plans of windows, heard and compared.

    python tests/benchmarks/windows.py --nar RUN --codec CODEC --tokens STORE [--ar RUN] [--texts 20]

The lowest codes are those of long held-out utterances; with `--ar`, what that model says of their texts. The prompt is
another utterance of the speaker. Passes are windows times levels. Nothing here can fail: it is a measurement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.checkpoint import load_checkpoint
from stages.artifacts.token_store import TokenUtterance
from stages.codec.base import Codec
from stages.config.aligner import AlignerConfig
from stages.config.models import ARConfig, NARConfig
from stages.data.alignments import FOLDER, load_alignments
from stages.data.token_codec import open_codec, streams_of
from stages.data.tokens import TokenData, open_tokens
from stages.lm.ar import ARModel
from stages.lm.generate import Sampling, generate
from stages.lm.nar import NARModel, Refinement, refine
from stages.lm.pointer import places_after, with_advances
from stages.metrics.base import MetricInput
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.summary import paired_difference, summarise
from stages.speech.transcriber import Transcriber, load_transcriber
from stages.synthesis.training_samples import Script, decode, windows_of

PAPER_SLIDE_SECONDS = 5.0  # appendix A.2
OURS, PAPER = "ours", "slide of 5 s"


@dataclass(frozen=True)
class Spoken:
    """One text: its script and the lowest codes [1, codebooks, frames] that every plan refines.

    `places` [1, frames], of a text pointer, say which text token each frame of prompt and speech ends in.
    """

    script: Script
    lowest: Tensor
    places: Tensor | None = None


def long_scripts(data: TokenData, number: int, shortest_seconds: float) -> list[Script]:
    """Return the `number` shortest held-out utterances from `shortest_seconds` on, each with a prompt of its speaker.

    Raises `ValueError` when there are fewer.
    """
    rows, found = data.store.rows, []
    order = sorted((int(index) for index in data.validation), key=lambda index: rows[index]["duration"])
    for index in order:
        prompts = [other for other in order if other != index and rows[other]["speaker"] == rows[index]["speaker"]]
        if rows[index]["duration"] >= shortest_seconds and prompts and len(found) < number:
            found.append(Script(data.store.utterance(index), data.store.utterance(prompts[0])))
    if len(found) < number:
        raise ValueError(f"expected {number} utterances of {shortest_seconds:g} s or more, got {len(found)}")
    return found


def plans(codec: Codec, window_seconds: float, prompt_seconds: float) -> dict[str, Refinement]:
    """Return our default and the paper's slide, for a NAR model trained with so many seconds."""
    ours = windows_of(codec, window_seconds, prompt_seconds)
    slide = min(ours.window_frames, round(PAPER_SLIDE_SECONDS * codec.hierarchy.frame_rate))
    paper = replace(ours, slide_frames=slide, window_mode="paper")
    return {OURS: ours, PAPER: paper}


def true_codes(
    codec: Codec, places: Callable[[TokenUtterance], np.ndarray] | None = None
) -> Callable[[Script], Spoken]:
    """Return what gives the recording's own codes; `places`, for a text pointer, says which token a frame ends in."""

    def speak(script: Script) -> Spoken:
        lowest, prompt = _lowest(codec, script.utterance), _lowest(codec, script.prompt)
        read = places and script.places(places(script.utterance), prompt.shape[-1] + lowest.shape[-1])
        return Spoken(script, lowest, read)

    return speak


def spoken_codes(codec: Codec, path: str) -> Callable[[Script], Spoken]:
    """Return what gives the codes that an AR model samples for a script, as long as its recording at the most."""
    checkpoint = load_checkpoint(path, "ar")
    ar = ARModel(ARConfig.model_validate(checkpoint.architecture["model"])).eval()
    ar.load_state_dict(checkpoint.tensors)

    def speak(script: Script) -> Spoken:
        prompt, recorded = _lowest(codec, script.prompt), _lowest(codec, script.utterance)
        text, pointer = torch.tensor(script.text_tokens()), ar.config.text_pointer
        start = with_advances(prompt[0], len(script.prompt.text_tokens) - 1) if pointer else prompt[0]
        rule = Sampling(max_frames=recorded.shape[-1])
        codes = generate(ar, text, start, rule, torch.Generator().manual_seed(0)).codes
        read = places_after(codes[:1], ar.fill, torch.tensor([len(text)])) if pointer else None
        return Spoken(script, codes[None, -ar.config.num_codebooks :, prompt.shape[-1] :], read)

    return speak


def _lowest(codec: Codec, utterance: TokenUtterance) -> Tensor:
    lowest = codec.hierarchy.lowest
    return streams_of(utterance, torch.device("cpu"))[lowest.name][:, : lowest.num_codebooks]


def alignments_beside(nar: Path, data: TokenData) -> Callable[[TokenUtterance], np.ndarray]:
    """Return what says where held-out utterances are read, as the run that trained the NAR model found it out."""
    found = load_alignments(nar / FOLDER, AlignerConfig(), data.lowest.frame_rate)
    numbers = {data.store.rows[index]["id"]: int(index) for index in data.validation}
    return lambda utterance: found.of(numbers[utterance.id])


def refined(codec: Codec, nar: NARModel, spoken: Spoken, plan: Refinement) -> np.ndarray:
    """Return float32 [samples] of the text without its prompt."""
    lowest = codec.hierarchy.lowest
    prompt = streams_of(spoken.script.prompt, torch.device("cpu"))
    before = _lowest(codec, spoken.script.prompt)
    text = torch.tensor([spoken.script.text_tokens()])
    codes = torch.cat([before, spoken.lowest], dim=-1)
    places = spoken.places if nar.config.text_mode == "pointer" else None
    whole = decode(codec, refine(nar, codec.hierarchy, codes, text, prompt, plan, places=places).streams)
    return whole[before.shape[-1] * lowest.hop_length :]


def num_passes(codec: Codec, spoken: Spoken, plan: Refinement) -> int:
    hierarchy = codec.hierarchy
    frames = spoken.lowest.shape[-1] * hierarchy.lowest.hop_length // codec.hop_length
    return len(plan.windows(frames)) * hierarchy.num_levels


def measure(codec: Codec, nar: NARModel, plans: dict[str, Refinement], items: Sequence[Spoken],
            transcriber: Transcriber) -> list[str]:  # fmt: skip
    """Return a line for each plan: its passes, its WER, and the paired difference from the first plan's."""
    metric, heard, lines = CorpusWER(), {name: [] for name in plans}, []
    for number, spoken in enumerate(items, start=1):
        for name, plan in plans.items():
            waveform = refined(codec, nar, spoken, plan)
            transcript = transcriber.transcribe(waveform, codec.sample_rate).text
            item = MetricInput(spoken.script.utterance.text, codec.sample_rate, waveform, transcript=transcript)
            heard[name].append(metric.measure(item))
        print(f"{number} of {len(items)} texts", end="\r", flush=True)
    for name, plan in plans.items():
        passes = sum(num_passes(codec, spoken, plan) for spoken in items)
        score = summarise(metric, heard[name])
        line = f"{name}: {passes} passes, WER {score.value:.2f} %"
        if name != OURS:
            against = paired_difference(metric, heard[OURS], heard[name])
            low, high = against.interval
            line += f"; ours less this {against.value:+.2f} points ({low:+.2f} to {high:+.2f})"
        lines.append(line)
    return lines


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nar", required=True)
    parser.add_argument("--codec", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--ar", help="speak the texts with this model; by default the true lowest codes are refined")
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--shortest", type=float, default=25.0, help="seconds of an utterance")
    parser.add_argument("--transcriber", default="pocketsphinx")
    options = parser.parse_args()
    data = open_tokens(options.tokens, None)
    codec, checkpoint = open_codec(options.codec, data), load_checkpoint(options.nar, "nar")
    nar = NARModel(NARConfig.model_validate(checkpoint.architecture["model"])).eval()
    codec.refine_by(nar.config.block_codes)
    nar.load_state_dict(checkpoint.tensors)
    places = alignments_beside(Path(options.nar), data) if nar.config.text_mode == "pointer" else None
    speak = spoken_codes(codec, options.ar) if options.ar else true_codes(codec, places)
    items = [speak(script) for script in long_scripts(data, options.texts, options.shortest)]
    seconds = sum(item.lowest.shape[-1] for item in items) * codec.hierarchy.lowest.hop_length / codec.sample_rate
    print(f"{len(items)} texts, {seconds:.0f} s, {'spoken by the AR' if options.ar else 'true lowest codes'}, "
          f"heard by {options.transcriber}")
    trained = (checkpoint.architecture[name] for name in ("window_seconds", "prompt_seconds"))
    for line in measure(codec, nar, plans(codec, *trained), items, load_transcriber(options.transcriber)):
        print(line)


if __name__ == "__main__":
    main()
