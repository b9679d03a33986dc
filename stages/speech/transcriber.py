"""Recognisers: speech to text, the whole of it, behind one small interface.

Every error rate depends on who listened, so a recogniser carries a name and a version that results repeat.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr

from stages.errors import MissingModelError, UsageError

POCKETSPHINX = "pocketsphinx"
NO_TRANSCRIBER = "none"  # where none is wanted
MAX_PIECE_SECONDS = 20.0
_PAUSE_SECONDS = 0.2  # a pause is judged by the energy of this much sound
_HOP_SECONDS = 0.01
SILENCE = 1e-4  # peak, -80 dB; recognisers hear words even in zeros
_FRAME = 0.01  # seconds, Pocketsphinx's own frame


@dataclass(frozen=True)
class Word:
    """A recognised word and where it was heard, in seconds from the beginning of the waveform."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """What was heard. `words` is empty for recognisers that give no times."""

    text: str
    words: tuple[Word, ...] = ()


class Transcriber(Protocol):
    """Turn a waveform into text. `name` and `version` go into every result that rests on it."""

    name: str
    version: str

    def transcribe(self, waveform: np.ndarray, sample_rate: int) -> Transcript:
        """Return all that is said in float32 samples [samples] at `sample_rate` Hz, however long they are.

        The result depends on the waveform alone, not on what was transcribed before it.
        """
        ...


class PocketsphinxTranscriber:
    """CMU Pocketsphinx with the US English model that its package contains: small, quick, offline.

    It ranks systems on the same sentences; its absolute error rates are far above those of large models.
    """

    name = POCKETSPHINX
    sample_rate = 16_000

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise MissingModelError(
                "the recogniser `pocketsphinx` is not installed", hint="pip install pocketsphinx"
            ) from error
        self.version = _package_version("pocketsphinx")
        self._decoder = Decoder(samprate=float(self.sample_rate), loglevel="FATAL")

    def transcribe(self, waveform: np.ndarray, sample_rate: int) -> Transcript:
        """Return the words of the whole waveform, decoded in pieces that are cut at pauses."""
        samples = np.asarray(waveform, dtype=np.float32)
        if sample_rate != self.sample_rate:
            samples = soxr.resample(samples, sample_rate, self.sample_rate)
        words: list[Word] = []
        for first, end in split_at_pauses(samples, self.sample_rate):
            words += self._decode(samples[first:end], first / self.sample_rate)
        return Transcript(" ".join(word.text for word in words), tuple(words))

    def _decode(self, piece: np.ndarray, offset_seconds: float) -> list[Word]:
        if not len(piece) or np.abs(piece).max() < SILENCE:
            return []
        pcm = (np.clip(piece, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
        # Without this, noise and cepstral means of earlier pieces leak into this one's words.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, no_search=False, full_utt=True)
        self._decoder.end_utt()
        return [
            Word(spelled, offset_seconds + entry.start_frame * _FRAME, offset_seconds + (entry.end_frame + 1) * _FRAME)
            for entry in self._decoder.seg() or ()
            if (spelled := _spelling(entry.word))
        ]


def _spelling(entry: str) -> str:
    """Return a dictionary entry as text: `and(2)` is a way to say `and`; `<sil>` and `[NOISE]` are no words."""
    if entry.startswith(("<", "[", "+")):
        return ""
    return re.sub(r"\(\d+\)$", "", entry)


def split_at_pauses(
    waveform: np.ndarray, sample_rate: int, max_seconds: float = MAX_PIECE_SECONDS
) -> list[tuple[int, int]]:
    """Return (first, end) samples of pieces of at most `max_seconds` that tile `waveform` [samples] in order.

    Each cut is made where 0.2 s of sound are quietest in the second half of what a piece may hold, so nothing
    is dropped and words are seldom cut. Recognisers slow down or lose the thread on longer input.
    """
    longest = int(max_seconds * sample_rate)
    cuts = [0]
    while len(waveform) - cuts[-1] > longest:
        middle, last = cuts[-1] + longest // 2, cuts[-1] + longest
        cuts.append(middle + _quietest(waveform[middle:last], sample_rate))
    return list(zip(cuts, [*cuts[1:], len(waveform)], strict=True))


def _quietest(waveform: np.ndarray, sample_rate: int) -> int:
    """Return the sample in the middle of the quietest 0.2 s; the latest one when several are equal."""
    hop = max(1, round(_HOP_SECONDS * sample_rate))
    hops_a_pause = round(_PAUSE_SECONDS / _HOP_SECONDS)
    energy = np.square(waveform[: len(waveform) // hop * hop], dtype=np.float64).reshape(-1, hop).sum(axis=1)
    if len(energy) <= hops_a_pause:
        return len(waveform) // 2
    sums = np.convolve(energy, np.ones(hops_a_pause), mode="valid")
    latest = len(sums) - 1 - int(np.argmin(sums[::-1]))
    return (latest + hops_a_pause // 2) * hop


_TRANSCRIBERS: dict[str, Callable[[], Transcriber]] = {POCKETSPHINX: PocketsphinxTranscriber}


def recogniser_in_words(name: str) -> str:
    """Return a recogniser's name as it is shown, with a warning where its figures are no measure by themselves."""
    return f"{name}, ranking only" if name == POCKETSPHINX else name


def base_language(language: str) -> str:
    """Return `zh` of `zh-CN`, or of `ZH_cn`."""
    return language.replace("_", "-").partition("-")[0].lower()


def register_transcriber(name: str, make: Callable[[], Transcriber]) -> None:
    """Let `load_transcriber(name)` call `make`."""
    _TRANSCRIBERS[name] = make


def load_transcriber(name: str, language: str = "en", device: str = "cpu") -> Transcriber:
    """Return the recogniser called `name`, that of `transformers` in a folder or in the hub's cache, or one's own.

    `faster-whisper:MODEL` is a model of that package, one's own what `package.module:make` makes. Nothing is
    downloaded. Raises `MissingModelError` when there is none of that name or its package is not installed,
    `UsageError` when it does not know the language.
    """
    if name == POCKETSPHINX and base_language(language) != "en":
        raise UsageError(f"`{name}` hears English only, got the language `{language}`",
                         hint="--transcriber openai/whisper-large-v3, or another that knows it")
    if name in _TRANSCRIBERS:
        return _TRANSCRIBERS[name]()
    if name.startswith("faster-whisper:"):
        from stages.speech.quick_whisper import PREFIX, QuickWhisper

        return QuickWhisper(name.removeprefix(PREFIX), base_language(language), device)
    if "/" in name or Path(name).is_dir():
        from stages.speech.hub_transcriber import HubTranscriber

        return HubTranscriber(name, base_language(language), device)
    if ":" not in name:
        known = ", ".join(f"`{known}`" for known in sorted(_TRANSCRIBERS))
        raise MissingModelError(
            f"expected a recogniser out of {known}, got `{name}`",
            hint="use one of these, a model of transformers such as openai/whisper-large-v3 or its folder, "
                 "faster-whisper:distil-large-v3, or name your own as package.module:function",
        )
    module_name, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function)()
    except Exception as error:  # somebody else's code
        raise MissingModelError(
            f"the recogniser `{name}` cannot be loaded: {error!r}", hint=f"is `{module_name}` installed?"
        ) from error


def _package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
