"""The voice to speak in: a reference recording, what it says, and its codes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stages.artifacts.storage import decode_utf8
from stages.audio.io import check_sound, read_audio
from stages.audio.loudness import normalise_loudness
from stages.codec.base import Codec, Streams
from stages.errors import UsageError
from stages.speech.transcriber import load_transcriber

log = logging.getLogger("halle.synth")

TextSource = Literal["given", "sidecar", "recogniser"]


@dataclass(frozen=True)
class PromptLimits:
    """Shortest and longest recording that is used, in seconds."""

    min_seconds: float = 3.0
    max_seconds: float = 30.0


@dataclass(frozen=True)
class Prompt:
    """A prompt as the models take it: `waveform` [samples] at the codec's rate, its text and its codes (batch of 1)."""

    waveform: np.ndarray
    text: str
    text_source: TextSource
    streams: Streams
    name: str


def read_prompt(path: str | Path, codec: Codec, limits: PromptLimits, text: str | None = None,
                transcriber: str = "pocketsphinx", loudness_db: float | None = None) -> Prompt:
    """Read a reference recording; its text is the given one, a `.txt` beside it, or what a recogniser hears.

    A recording longer than `limits.max_seconds` is cut when its text is recognised, and refused when its text is
    given, since nobody knows which words would be cut. Raises `UsageError` for a silent or too short one.
    """
    path = Path(path)
    waveform = read_audio(path, codec.sample_rate)
    check_sound(path, waveform)
    seconds = len(waveform) / codec.sample_rate
    if seconds < limits.min_seconds:
        raise UsageError(f"prompt `{path}`: expected at least {limits.min_seconds:g} s, got {seconds:.2f} s",
                         "give a longer recording of the voice, or lower prompt_seconds with -O")
    text, source = _known_text(path, text)
    if seconds > limits.max_seconds:
        if text is not None:
            raise UsageError(f"prompt `{path}`: expected at most {limits.max_seconds:g} s, got {seconds:.1f} s",
                             "cut the recording and its text, or leave the text out so that a recogniser hears the cut")
        log.info("prompt `%s` is %.1f s long: its first %g s are used", path, seconds, limits.max_seconds)
        waveform = waveform[: round(limits.max_seconds * codec.sample_rate)]
    if text is None:
        text = load_transcriber(transcriber).transcribe(waveform, codec.sample_rate).text
        log.info("heard in the prompt: %s", text or "(nothing)")
        if not text:
            raise UsageError(f"the recogniser `{transcriber}` heard no words in prompt `{path}`",
                             "say what it says with --prompt-text")
    return encode_prompt(waveform, text, codec, source, path.name, loudness_db)


def _known_text(path: Path, text: str | None) -> tuple[str | None, TextSource]:
    if text is not None:
        return _with_words(text, "--prompt-text"), "given"
    sidecar = path.with_suffix(".txt")
    if sidecar.is_file():
        return _with_words(decode_utf8(sidecar.read_bytes(), sidecar), str(sidecar)), "sidecar"
    return None, "recogniser"


def _with_words(text: str, source: str) -> str:
    """Return the text, unless it says nothing: a prompt whose words are not known spoils what follows it."""
    if not any(character.isalnum() for character in text):
        raise UsageError(f"the prompt's text in `{source}` is empty",
                         "say what the recording says with --prompt-text, or leave the text out: it is recognised")
    return " ".join(text.split())


@torch.inference_mode()
def encode_prompt(waveform: np.ndarray, text: str, codec: Codec, source: TextSource = "given",
                  name: str = "prompt", loudness_db: float | None = None) -> Prompt:
    """Cut [samples] down to whole frames of every stream (never padded) and encode them by themselves.

    Codes cut out of a longer utterance would have seen its future. With `loudness_db` the prompt is made as loud
    as the speech that the model was trained on.
    """
    if loudness_db is not None:
        waveform = normalise_loudness(waveform, loudness_db)
    num_samples = len(waveform) // codec.alignment * codec.alignment
    if num_samples == 0:
        raise UsageError(f"prompt `{name}` is shorter than {codec.alignment / codec.sample_rate:g} s")
    waveform = waveform[:num_samples]
    device = next(codec.parameters()).device
    streams = codec.encode(torch.from_numpy(np.ascontiguousarray(waveform))[None, None].to(device))
    return Prompt(waveform, text, source, streams, name)
