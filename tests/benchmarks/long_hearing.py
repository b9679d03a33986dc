"""Whether a minute of speech is heard as well as its sentences: one recogniser, the same speech in four ways.

    python tests/benchmarks/long_hearing.py [--files 1] [--seconds 60] [--transcriber pocketsphinx] [--speech FOLDER]

Files are made of consecutive sentences of one voice (by default those of `examples/speech`, four flite voices). They
are heard sentence by sentence, whole as `halle eval` does, in windows of at most 30 s that are put together again as
it does for models of transformers and NeMo, and cut off after 30 s, which is the commonest mistake of evaluations. A
measurement, not a test: nothing here can fail.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.audio.io import read_audio
from stages.metrics.base import Measurement, MetricInput
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.summary import paired_difference, summarise
from stages.speech.stitching import WINDOW_SECONDS, join, plan_windows, stitch_all
from stages.speech.transcriber import Transcriber, Word, load_transcriber

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
RATE = 16_000
PAUSE_SECONDS = 0.3  # between sentences
TIME_ERROR = 0.5  # seconds by which times of a word differ from window to window
SENTENCES, WHOLE, STITCHED, CUT = "sentence by sentence", "whole", "windows, stitched", "cut off after 30 s"


@dataclass(frozen=True)
class Reading:
    """A file: its sentences, each with its waveform [samples] at 16 kHz."""

    texts: tuple[str, ...]
    clips: tuple[np.ndarray, ...]

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    @property
    def waveform(self) -> np.ndarray:
        pause = np.zeros(round(PAUSE_SECONDS * RATE), np.float32)
        return np.concatenate([part for clip in self.clips for part in (clip, pause)])


def readings(folder: Path, files: int, seconds: float) -> Iterator[Reading]:
    """Yield up to `files` files of each voice, each of at least `seconds`; no sentence is in two."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    for voice in dict.fromkeys(row["speaker"] for row in rows):
        theirs = iter([row for row in rows if row["speaker"] == voice])
        for _ in range(files):
            if (reading := _fill(folder, theirs, seconds)) is not None:
                yield reading


def _fill(folder: Path, rows: Iterator[dict], seconds: float) -> Reading | None:
    texts, clips, lasting = [], [], 0.0
    for row in rows:
        texts.append(row["text"])
        clips.append(read_audio(folder / row["file_name"], RATE))
        lasting += len(clips[-1]) / RATE + PAUSE_SECONDS
        if lasting >= seconds:
            return Reading(tuple(texts), tuple(clips))
    return None


def hear_sentences(transcriber: Transcriber, reading: Reading) -> str:
    return " ".join(transcriber.transcribe(clip, RATE).text for clip in reading.clips)


def hear_whole(transcriber: Transcriber, reading: Reading) -> str:
    return transcriber.transcribe(reading.waveform, RATE).text


def hear_stitched(transcriber: Transcriber, reading: Reading) -> str:
    """Hear windows of at most 30 s that overlap by 5 s, and put together what was heard."""
    waveform = reading.waveform
    windows = plan_windows(len(waveform), RATE)
    spans = [(first / RATE, end / RATE) for first, end in windows]
    heard = [[Word(word.text, word.start + span[0], word.end + span[0])
              for word in transcriber.transcribe(waveform[first:end], RATE).words]
             for (first, end), span in zip(windows, spans, strict=True)]
    return join(stitch_all(heard, spans, TIME_ERROR))


def hear_cut(transcriber: Transcriber, reading: Reading) -> str:
    return transcriber.transcribe(reading.waveform[: round(WINDOW_SECONDS * RATE)], RATE).text


WAYS: dict[str, Callable[[Transcriber, Reading], str]] = {
    SENTENCES: hear_sentences, WHOLE: hear_whole, STITCHED: hear_stitched, CUT: hear_cut}


def measure(transcriber: Transcriber, items: Sequence[Reading]) -> dict[str, list[Measurement]]:
    """Return the word errors of every file, by the way in which it was heard."""
    metric, found = CorpusWER(), {way: [] for way in WAYS}
    for number, reading in enumerate(items, start=1):
        for way, hear in WAYS.items():
            found[way].append(metric.measure(MetricInput(reading.text, RATE, transcript=hear(transcriber, reading))))
        print(f"{number} of {len(items)} files", end="\r", flush=True)
    return found


def told(found: dict[str, list[Measurement]]) -> Iterator[str]:
    """Yield a line for each way: its WER, and by how much it is above that of the sentences, file by file."""
    for way, measured in found.items():
        score = summarise(CorpusWER(), measured)
        line = f"{way}: WER {score.value:.2f} % of {score.totals['words']:.0f} words"
        if way != SENTENCES:
            difference = paired_difference(CorpusWER(), measured, found[SENTENCES])
            interval = " ({:+.2f} to {:+.2f})".format(*difference.interval) if difference.interval else ""
            line += f", {difference.value:+.2f}{interval} beside its sentences"
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1, help="of each voice")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a file, at least")
    parser.add_argument("--transcriber", default="pocketsphinx", help="one that tells when words were said")
    parser.add_argument("--speech", type=Path, default=SPEECH, help="audio folder with metadata.jsonl")
    options = parser.parse_args()
    items = list(readings(options.speech, options.files, options.seconds))
    lengths = [len(reading.waveform) / RATE for reading in items]
    print(f"{len(items)} files of {min(lengths):.0f} to {max(lengths):.0f} s, heard by {options.transcriber}")
    for line in told(measure(load_transcriber(options.transcriber), items)):
        print(line)


if __name__ == "__main__":
    main()
