"""Build the speech that the mini model learns from: seventy voices reading WordNet's examples, and human corpora.

    python make_corpus.py --out FOLDER [--human FOLDER] [--hours 22] [--small]
    python make_corpus.py --out FOLDER --definitions [--hours 30] [--small]
    python make_corpus.py --out FOLDER --results [--small]
    python make_corpus.py --out FOLDER --tuning

Run again it continues: what an utterance is depends on the options only, and a file that exists is not made again.
More hours add utterances to those that exist. The result is an audio folder for `halle curate`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import soxr
from plan import (
    HUMAN_CORPORA,
    PAUSE_SECONDS,
    RESULT_TEXTS,
    SMALL,
    Piece,
    Sizes,
    Utterance,
    plan_definitions,
    plan_humans,
    plan_results,
    plan_speech,
    plan_tuning,
    seconds_of,
)
from texts import FILES, WORDNET, wordnet_definitions, wordnet_sentences
from voices import SAMPLE_RATE, all_voices, say

from stages.artifacts import storage
from stages.audio.io import audio_info, read_audio, write_audio
from stages.audio.loudness import normalise_loudness
from stages.errors import HalleError
from stages.parallel import ordered_map

LOUDNESS_DB = -20.0
DEFINITION_HOURS = 30.0


def render(utterance: Utterance) -> np.ndarray:
    """Return [samples] at 24 kHz: the pieces with pauses between them."""
    generator = random.Random(utterance.id)
    parts: list[np.ndarray] = []
    for piece in utterance.pieces:
        if parts:
            parts.append(np.zeros(round(generator.uniform(*PAUSE_SECONDS) * SAMPLE_RATE), np.float32))
        parts.append(say(utterance.voice, piece.text) if utterance.voice else load(piece))
    return normalise_loudness(np.concatenate(parts), LOUDNESS_DB)


def load(piece: Piece) -> np.ndarray:
    sample_rate = audio_info(piece.audio).sample_rate
    return soxr.resample(read_audio(piece.audio), sample_rate, SAMPLE_RATE)


def make(utterance: Utterance, out: Path) -> None:
    """Write an utterance's file unless it exists; it appears whole or not at all."""
    path = out / utterance.file_name
    if not path.exists():
        write_audio(path, render(utterance), SAMPLE_RATE)


def make_all(utterances: list[Utterance], out: Path, jobs: int, tell: Callable[[str], None]) -> None:
    """Make what is missing, with a line of progress every ten seconds."""
    (out / "audio").mkdir(parents=True, exist_ok=True)
    storage.sweep_temporaries(out / "audio")
    missing = [utterance for utterance in utterances if not (out / utterance.file_name).exists()]
    started = told = time.monotonic()
    total, seconds = sum(map(seconds_of, missing)), 0.0
    for done, utterance in enumerate(ordered_map(lambda item: (make(item, out), item)[1], missing, jobs), start=1):
        seconds += seconds_of(utterance)
        now = time.monotonic()
        if now - told >= 10 or done == len(missing):
            left = (now - started) * (total - seconds) / seconds
            tell(f"{done}/{len(missing)} utterances, {seconds / 3600:.2f} h of speech, {left / 60:.1f} min left")
            told = now


def describe(utterance: Utterance) -> dict:
    human = utterance.voice is None
    return {
        "file_name": utterance.file_name,
        "id": utterance.id,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "split": utterance.split,
        "set": utterance.set,
        "base": "human" if human else utterance.voice.base,
        "sentences": len(utterance.pieces),
    }


def main() -> None:
    options = _parse()
    _check(options)
    sizes = SMALL if options.small else Sizes()
    if options.hours is not None:
        sizes = replace(sizes, train_hours=options.hours)
    voices = all_voices()[: options.voices or (8 if options.small else None)]
    sentences = wordnet_sentences(options.wordnet)
    if options.definitions:
        hours = (SMALL.train_hours if options.small else DEFINITION_HOURS) if options.hours is None else options.hours
        planned = plan_definitions(voices, wordnet_definitions(options.wordnet), hours, options.seed)
    elif options.tuning:
        planned = plan_tuning(voices, sentences, options.seed)
    elif options.results:
        texts = dict.fromkeys(RESULT_TEXTS, 2) if options.small else RESULT_TEXTS
        planned = plan_results(voices, sentences, texts, options.seed)
    else:
        planned = plan_speech(voices, sentences, sizes, options.seed)
    if options.human and not (options.results or options.tuning or options.definitions):
        planned = [*plan_humans(options.human, sizes, planned, options.seed), *planned]
    make_all(planned, options.out, options.jobs, lambda line: print(line, file=sys.stderr, flush=True))
    storage.write_jsonl(options.out / "metadata.jsonl", [describe(utterance) for utterance in planned])
    print(json.dumps({"out": options.out.as_posix(), "utterances": len(planned), "voices": len(voices)}))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--human", type=Path, help="folder with kathleen/ and an4/, audio folders with metadata.jsonl")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--definitions", action="store_true", help="more speech of the plain voices instead, for "
                         "language models: WordNet's definitions")
    instead.add_argument("--results", action="store_true", help="the speech that language models are scored on instead")
    instead.add_argument("--tuning", action="store_true", help="a little on which to compare settings of sampling")
    parser.add_argument("--hours", type=float, help="hours of training that flite reads (default: 22, definitions: 30)")
    parser.add_argument("--voices", type=int, help="so many flite voices (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="utterances made at once (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="minutes instead of hours, to try it")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help=f"folder of {FILES[0]} (default: {WORDNET})")
    return parser.parse_args()


def _check(options: argparse.Namespace) -> None:
    known = len(all_voices())
    if options.voices is not None and not 1 <= options.voices <= known:
        _stop(f"expected 1 to {known} voices, got `{options.voices}`", "leave --voices out to take them all")
    if shutil.which("flite") is None:
        _stop("`flite` is not installed", "apt install flite, or brew install flite")
    if not all((options.wordnet / name).is_file() for name in FILES):
        _stop(f"`{options.wordnet}` holds no WordNet: expected {', '.join(FILES)}",
              "apt install wordnet-base, or --wordnet FOLDER with the dict files of WordNet 3.0")
    if options.human and not any((options.human / name / "metadata.jsonl").is_file() for name in HUMAN_CORPORA):
        _stop(f"`{options.human}` holds neither kathleen/ nor an4/ with a metadata.jsonl",
              "give the folder that holds them, or leave --human out")


def _stop(what: str, hint: str | None, exit_code: int = 2) -> NoReturn:
    print(f"error: {what}" + (f"\n\nhint: {hint}" if hint else ""), file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    try:
        main()
    except HalleError as error:
        _stop(error.message, error.hint, error.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted", "run the same command again to continue", 130)
