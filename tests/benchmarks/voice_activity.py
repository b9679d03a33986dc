"""How much speech is missed and how much silence is called speech, on recordings of which everything is known.

    python tests/benchmarks/long_recordings.py --data DATA --out runs/long-recordings --an4 8 --voices 4
    python tests/benchmarks/voice_activity.py --recordings runs/long-recordings

Speech is from the first to the last word wherever pauses are shorter than the detector's own `min_silence_seconds`. A
measurement, not a test: nothing here can fail.
"""

from __future__ import annotations

import argparse
import itertools
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.audio.recording import open_recording
from stages.config.recordings import VoiceActivityConfig
from stages.speech.spans import Span, intersect, subtract, total_seconds, union
from stages.speech.vad import SileroVoiceActivity, speech_spans

COLLAR_SECONDS = 0.1  # before and after the borders of the truth, nothing counts


@dataclass(frozen=True)
class Heard:
    """A recording: its words, and the probability of speech [frames]."""

    kind: str
    seconds: float
    words: list[Span]
    probabilities: np.ndarray


def listen(folder: Path) -> list[Heard]:
    """Return every recording, and print how fast it was heard."""
    vad, found = SileroVoiceActivity(), []
    began, seconds = _cpu_seconds(), 0.0
    for file in sorted((folder / "audio").glob("*.flac")):
        recording = open_recording(file)
        lines = (folder / "truth" / f"{file.stem}.ctm").read_text(encoding="utf-8").splitlines()
        times = [tuple(map(float, line.split()[2:4])) for line in lines]
        found.append(Heard(file.stem.partition("-")[0], recording.seconds,
                           [Span(start, start + length) for start, length in times], vad.probabilities(recording)))
        seconds += recording.seconds
    print(f"{seconds / (_cpu_seconds() - began):.0f} hours of audio an hour of one core")
    return found


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def errors(recordings: Sequence[Heard], settings: VoiceActivityConfig, collar: float) -> tuple[float, float]:
    """Return the missed share of speech and the share of silence that is called speech."""
    missed = alarmed = speech = silence = 0.0
    for heard in recordings:
        truth = union(heard.words, gap=settings.min_silence_seconds)
        borders = union(Span(max(0.0, edge - collar), edge + collar)
                        for span in truth for edge in (span.start, span.end))
        counted = subtract([Span(0.0, heard.seconds)], borders)
        truth = intersect(truth, counted)
        found = intersect(speech_spans(heard.probabilities, settings, heard.seconds), counted)
        both = total_seconds(intersect(truth, found))
        speech += total_seconds(truth)
        silence += total_seconds(counted) - total_seconds(truth)
        missed += total_seconds(truth) - both
        alarmed += total_seconds(found) - both
    return missed / speech, alarmed / silence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--grid", action="store_true", help="try other settings than the default")
    options = parser.parse_args()
    recordings = listen(options.recordings)
    grid = itertools.product((0.3, 0.5, 0.6), (0.15, 0.35), (0.1, 0.2, 0.3), (0.0, 0.03, 0.06, 0.1))
    tried = [VoiceActivityConfig(threshold=on, release=min(on, off), min_silence_seconds=pause, pad_seconds=pad)
             for on, off, pause, pad in grid] if options.grid else [VoiceActivityConfig()]
    for settings in tried:
        for kind in dict.fromkeys(heard.kind for heard in recordings):
            own = [heard for heard in recordings if heard.kind == kind]
            for collar in (0.0, COLLAR_SECONDS):
                missed, alarmed = errors(own, settings, collar)
                print(f"{settings!r} {kind:7} collar {collar:.1f} s: missed {missed:5.1%}, false {alarmed:5.1%}")


if __name__ == "__main__":
    main()
