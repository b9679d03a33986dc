"""How often `halle synth --verify` is right: untouched recordings called wrong, spoilt ones found.

    python tests/benchmarks/verification.py --data runs/mini/data --only set=test-short

Recordings are spoilt as language models spoil speech: a second or two is cut out or off, said twice, put in from
another recording, silent, or another recording's end comes first, as if the prompt were heard. With `--codec` the
codes of speech said twice are searched for loops. A measurement, not a test: nothing here can fail.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.manifest import Utterance
from stages.audio.io import read_audio
from stages.codec.base import Codec
from stages.codec.registry import load_codec
from stages.config.verification import VerificationConfig
from stages.metrics.test_set import read_test_set
from stages.speech.transcriber import Transcriber, load_transcriber
from stages.synthesis.faults import Fault, find_loop
from stages.synthesis.verify import Spoken, judge

RATE = 24_000
LEAST_SECONDS = 4.0  # shorter recordings have no room for a cut of two seconds
UNTOUCHED = "untouched"
NO_CODES = np.zeros(0, dtype=np.int64)

Spoil = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # a recording, another one, where


@dataclass(frozen=True)
class Judgement:
    """What a check said of a recording spoilt in one way, with a recogniser and without."""

    kind: str
    faults: tuple[Fault, ...]
    without: tuple[Fault, ...]


def cut(seconds: float) -> Spoil:
    return lambda sound, _, at: np.concatenate([sound[:at], sound[at + round(seconds * RATE):]])


def end_early(seconds: float) -> Spoil:
    return lambda sound, _, at: sound[: len(sound) - round(seconds * RATE)]


def say_twice(seconds: float) -> Spoil:
    def spoil(sound: np.ndarray, _: np.ndarray, at: int) -> np.ndarray:
        end = max(at, round(seconds * RATE))
        return np.concatenate([sound[:end], sound[end - round(seconds * RATE):]])

    return spoil


def put_in(seconds: float) -> Spoil:
    def spoil(sound: np.ndarray, other: np.ndarray, at: int) -> np.ndarray:
        middle = len(other) // 2
        return np.concatenate([sound[:at], other[middle - round(seconds * RATE / 2):][: round(seconds * RATE)],
                               sound[at:]])

    return spoil


def fall_silent(seconds: float) -> Spoil:
    return lambda sound, _, at: np.concatenate([sound[:at], np.zeros(round(seconds * RATE), np.float32), sound[at:]])


def leak(seconds: float) -> Spoil:
    return lambda sound, other, at: np.concatenate([other[-round(seconds * RATE):], sound])


SPOILT: dict[str, Spoil] = {
    "1 s cut out": cut(1), "2 s cut out": cut(2), "last 2 s missing": end_early(2), "2 s said twice": say_twice(2),
    "2 s of other speech": put_in(2), "2 s of silence": fall_silent(2), "1 s of the prompt first": leak(1),
    "2 s of the prompt first": leak(2),
}


def measure(utterances: Sequence[Utterance], transcriber: Transcriber, seed: int) -> list[Judgement]:
    """Judge every recording untouched and spoilt in two ways, so that all ways come equally often."""
    random, settings, found = np.random.default_rng(seed), VerificationConfig(), []
    names = list(SPOILT)
    for index, utterance in enumerate(utterances):
        prompt = _other_of_the_speaker(utterances, index)
        sound, other = _read(utterance), _read(prompt)
        ways = [UNTOUCHED, names[2 * index % len(names)], names[(2 * index + 1) % len(names)]]
        for kind in ways:
            at = int(random.integers(RATE // 2, len(sound) - 5 * RATE // 2))
            spoilt = sound if kind == UNTOUCHED else SPOILT[kind](sound, other, at)
            spoken = Spoken(spoilt, RATE, utterance.text, prompt.text, prompt.duration, NO_CODES, 8.0)
            found.append(Judgement(kind, judge(spoken, transcriber, settings)[0], judge(spoken, None, settings)[0]))
    return found


def _read(utterance: Utterance) -> np.ndarray:
    return read_audio(utterance.audio, RATE, utterance.start, utterance.duration)


def _other_of_the_speaker(utterances: Sequence[Utterance], index: int) -> Utterance:
    """Return the next recording of the speaker, of anybody when there is none."""
    later = [*utterances[index + 1:], *utterances[:index]]
    return next((other for other in later if other.speaker == utterances[index].speaker), later[0])


def to_table(found: Sequence[Judgement]) -> str:
    """Return how many recordings of each kind were called wrong, as Markdown."""
    rows = ["| recording | called wrong | without a recogniser | what they were called |", "|---|---|---|---|"]
    for kind in (UNTOUCHED, *SPOILT):
        judged = [one for one in found if one.kind == kind]
        called = sorted({fault.kind for one in judged for fault in one.faults})
        rows.append(f"| {kind} | {sum(bool(one.faults) for one in judged)} of {len(judged)} "
                    f"| {sum(bool(one.without) for one in judged)} | {', '.join(called)} |")
    return "\n".join(rows)


@torch.inference_mode()
def count_loops(codec: Codec, utterances: Sequence[Utterance]) -> tuple[int, int]:
    """Return in how many recordings the codes loop, untouched and with 2 s of whole frames said twice."""
    settings, lowest, counts = VerificationConfig(), codec.hierarchy.lowest, [0, 0]
    for utterance in utterances:
        sound = read_audio(utterance.audio, codec.sample_rate, utterance.start, utterance.duration)
        unit = codec.alignment
        middle, length = len(sound) // 2 // unit * unit, 2 * codec.sample_rate // unit * unit
        twice = np.concatenate([sound[:middle], sound[middle - length:]])
        for index, spoken in enumerate((sound, twice)):
            whole = torch.from_numpy(spoken[: len(spoken) // unit * unit].copy())[None, None]
            codes = codec.encode(whole)[lowest.name][0, 0].numpy()
            counts[index] += bool(find_loop(codes, lowest.frame_rate, settings))
    return counts[0], counts[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="manifest folder")
    parser.add_argument("--only", action="append", default=[], help="COLUMN=VALUE: rows for which all hold")
    parser.add_argument("--items", type=int, default=100, help="recordings, drawn by --seed")
    parser.add_argument("--transcriber", default="pocketsphinx")
    parser.add_argument("--codec", help="whose lowest stream is searched for loops")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [case.recording for case in read_test_set(Path(options.data), only=options.only).cases
            if case.recording.duration >= LEAST_SECONDS]
    order = np.random.default_rng(options.seed).permutation(len(rows))[: options.items]
    chosen = [rows[index] for index in order]
    transcriber = load_transcriber(options.transcriber)
    print(f"{len(chosen)} recordings of {options.data}, heard by {transcriber.name} {transcriber.version}\n")
    print(to_table(measure(chosen, transcriber, options.seed)))
    if options.codec:
        untouched, twice = count_loops(load_codec(options.codec), chosen)
        print(f"\nloops in codes: {untouched} of {len(chosen)} untouched, {twice} of {len(chosen)} said twice")


if __name__ == "__main__":
    main()
