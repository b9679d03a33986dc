"""What is wrong with speech that was made: words, pauses, loops and length, each found by a function of its own.

All times are seconds from the beginning of the speech, the prompt not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stages.config.verification import VerificationConfig
from stages.speech.alignment import Alignment, Gap, equal_words, num_letters

FaultKind = Literal["skipped", "repeated", "inserted", "leaked", "unclear", "silence", "loop", "length", "unfinished"]

_LEVEL_SECONDS = 0.05  # of sound whose level is judged together
_INAUDIBLE_DB = -60.0  # below full scale; speech whose loudest moment is no louder is silent throughout
_ALIKE = 0.3  # of the letters put in that must be found where they may have come from; recognisers mistake the others


@dataclass(frozen=True)
class Fault:
    """`seconds` are what the speech has too little or too much; what comes before `last_good` is as it should be."""

    kind: FaultKind
    start: float
    end: float
    seconds: float
    last_good: float
    text: str = ""

    def overlaps(self, other: Fault) -> bool:
        return self.start < other.end and other.start < self.end


def word_faults(alignment: Alignment, script: Sequence[str], prompt: Sequence[str], silences: Sequence[Fault],
                settings: VerificationConfig) -> list[Fault]:
    """Return what was skipped, repeated or put in, by the gaps between what was heard as written.

    `script` and `prompt` are words as they are said. When so little was heard that gaps tell nothing, the longest one
    is unclear.
    """
    pace = _pace(alignment, settings)
    found = [fault for gap in alignment.gaps if (fault := _gap_fault(gap, script, prompt, silences, pace, settings))]
    if found or not script or alignment.letters_heard >= settings.least_heard * num_letters(script):
        return found
    longest = max(alignment.gaps, key=lambda gap: gap.end - gap.start)
    return [_fault("unclear", longest, longest.end - longest.start, longest.heard)]


def _pace(alignment: Alignment, settings: VerificationConfig) -> float:
    """Return the seconds a letter takes in this speech."""
    if alignment.letters_heard < settings.sure_letters:
        return settings.letter_seconds
    return alignment.seconds_heard / alignment.letters_heard


def _gap_fault(gap: Gap, script: Sequence[str], prompt: Sequence[str], silences: Sequence[Fault], pace: float,
               settings: VerificationConfig) -> Fault | None:
    surplus, written = gap.surplus_letters, num_letters(gap.script)
    if surplus <= -settings.missing_letters:
        return _fault("skipped", gap, -surplus * pace, gap.script)
    if gap.first == 0 and surplus >= settings.leaked_letters and _ends_alike(gap, prompt, settings.leaked_letters):
        return _fault("leaked", gap, surplus * pace, gap.heard)
    if surplus >= max(settings.extra_letters, settings.extra_share * written):
        return _fault(_origin(gap, script, prompt), gap, surplus * pace, gap.heard)
    silent = sum(max(0.0, min(gap.end, silence.end) - max(gap.start, silence.start)) for silence in silences)
    extra = gap.end - gap.start - silent - written * pace
    if extra >= settings.extra_seconds:
        return _fault("inserted", gap, extra, gap.heard)
    return None


def _fault(kind: FaultKind, gap: Gap, seconds: float, words: Sequence[str]) -> Fault:
    return Fault(kind, gap.start, gap.end, seconds, gap.start, " ".join(words))


def _ends_alike(gap: Gap, prompt: Sequence[str], least_letters: int) -> bool:
    """Tell whether the prompt's last words, of at least so many letters, are heard in a gap and not written there."""
    last: list[str] = []
    while len(last) < len(prompt) and num_letters(last) < least_letters:
        last.insert(0, prompt[-len(last) - 1])
    places = range(len(gap.heard) - len(last) + 1)
    return bool(last) and any(list(gap.heard[place : place + len(last)]) == last for place in places)


def _origin(gap: Gap, script: Sequence[str], prompt: Sequence[str]) -> FaultKind:
    """Tell where words come from that are not written at a gap: the prompt, the script nearby, or nowhere."""
    reach = len(gap.heard)
    nearby = script[max(0, gap.first - reach) : gap.first + len(gap.script) + reach]
    from_script = _share_found(gap.heard, nearby)
    from_prompt = _share_found(gap.heard, prompt) if gap.first == 0 else 0.0
    if max(from_script, from_prompt) < _ALIKE:
        return "inserted"
    return "leaked" if from_prompt > from_script else "repeated"


def _share_found(words: Sequence[str], where: Sequence[str]) -> float:
    found = [words[j] for _, j in equal_words(where, words)]
    return num_letters(found) / num_letters(words)


def find_silences(waveform: np.ndarray, sample_rate: int, settings: VerificationConfig) -> list[Fault]:
    """Return the silences in [samples] that are too long, judged by the level of every 50 ms."""
    size = max(1, round(_LEVEL_SECONDS * sample_rate))
    blocks = np.asarray(waveform, dtype=np.float64)[: len(waveform) // size * size].reshape(-1, size)
    if not len(blocks):
        return []
    levels = 10 * np.log10(np.square(blocks).mean(axis=1) + 1e-12)
    quiet = levels < max(_INAUDIBLE_DB, levels.max() + settings.silence_db)
    spans = [(first * size / sample_rate, end * size / sample_rate) for first, end in runs(quiet)]
    return [Fault("silence", start, end, end - start, start) for start, end in spans
            if end - start >= settings.silence_seconds]


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, end) of every run of true values [n]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def find_loop(codes: np.ndarray, frame_rate: float, settings: VerificationConfig) -> list[Fault]:
    """Return the longest span of codes [frames] that are what they were some frames before, when it is too long.

    The fault begins where those codes first come; good is what lies before they come again.
    """
    least = max(1, round(settings.loop_seconds * frame_rate))
    longest, first_time, again = 0, 0, 0
    for lag in range(1, len(codes) - least + 1):
        for first, end in runs(codes[lag:] == codes[:-lag]):
            if end - first >= max(least, longest + 1):
                longest, first_time, again = end - first, first, first + lag
    if not longest:
        return []
    return [Fault("loop", first_time / frame_rate, (again + longest) / frame_rate, longest / frame_rate,
                  again / frame_rate)]


def length_faults(seconds: float, letters: int, pace: float, settings: VerificationConfig) -> list[Fault]:
    """Return whether the speech is far too short or long at a pace of so many seconds a letter.

    Nobody can tell from a length where it went wrong, so nothing of it is good.
    """
    expected = letters * pace
    if settings.shortest * expected <= seconds <= settings.longest * expected:
        return []
    return [Fault("length", 0.0, seconds, abs(seconds - expected), 0.0)]
