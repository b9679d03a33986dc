"""The voice to speak in: a reference recording, what it says, and its codes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stages.artifacts.storage import decode_utf8
from stages.audio.activity import Activity, activity, clipped_share
from stages.audio.io import check_sound, read_audio
from stages.audio.loudness import normalise_loudness
from stages.codec.base import Codec, Streams
from stages.errors import UsageError
from stages.speech.transcriber import NO_TRANSCRIBER, load_transcriber

log = logging.getLogger("halle.synth")

TextSource = Literal["given", "sidecar", "recogniser"]

MARGIN_SECONDS = 0.1  # of the silence at the ends is kept: a voice does not begin or end at once
_MOST_CLIPPED = 0.001  # of all samples; of speech that was not cut off far fewer are at full scale
_LEAST_SOUNDING = 0.5  # of the time; of the speech that ships with halle at least 0.83
_LEAST_VARIATION_DB = 10.0  # speech in noise of a tenth of its power has 14, the speech that ships with halle 28 to 53


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
    checks: dict = field(default_factory=dict)  # of a recording that was read: what was cut off, what seems wrong


def read_prompt(path: str | Path, codec: Codec, limits: PromptLimits, text: str | None = None,
                transcriber: str = "pocketsphinx", loudness_db: float | None = None, trim: bool = True) -> Prompt:
    """Read a reference recording; its text is the given one, a `.txt` beside it, or what a recogniser hears.

    Silence at its ends is cut off (what is 40 dB quieter than its loudest frames, but for 0.1 s) unless `trim` is
    False. What makes a poor prompt (clipping, mostly pauses, noise) is warned of and kept in `checks`.
    A recording longer than `limits.max_seconds` is cut when its text is recognised, and refused when its text is
    given, since nobody knows which words would be cut. Raises `UsageError` for a silent or too short one.
    """
    path = Path(path)
    waveform = read_audio(path, codec.sample_rate)
    check_sound(path, waveform)
    waveform, checks = _inspect(path, waveform, codec, trim)
    _check_long_enough(path, len(waveform) / codec.sample_rate, limits, sum(checks["trimmed_seconds"].values()))
    text, source = _known_text(path, text, transcriber)
    waveform = _short_enough(path, waveform, codec.sample_rate, limits, text)
    if text is None:
        text = load_transcriber(transcriber).transcribe(waveform, codec.sample_rate).text
        log.info("heard in the prompt: %s", text or "(nothing)")
        if not text:
            raise UsageError(f"the recogniser `{transcriber}` heard no words in prompt `{path}`",
                             "say what it says with --prompt-text")
    return replace(encode_prompt(waveform, text, codec, source, path.name, loudness_db), checks=checks)


def _check_long_enough(path: Path, seconds: float, limits: PromptLimits, trimmed: float) -> None:
    if seconds < limits.min_seconds:
        silence = f" and {trimmed:.2f} s of silence at its ends" if trimmed else ""
        raise UsageError(f"prompt `{path}`: expected at least {limits.min_seconds:g} s, got {seconds:.2f} s{silence}",
                         "give a longer recording of the voice, or lower prompt_seconds with -O")


def _short_enough(path: Path, waveform: np.ndarray, sample_rate: int, limits: PromptLimits,
                  text: str | None) -> np.ndarray:
    seconds = len(waveform) / sample_rate
    if seconds <= limits.max_seconds:
        return waveform
    if text is not None:
        raise UsageError(f"prompt `{path}`: expected at most {limits.max_seconds:g} s, got {seconds:.1f} s",
                         "cut the recording and its text, or leave the text out so that a recogniser hears the cut")
    log.info("prompt `%s` is %.1f s long: its first %g s are used", path, seconds, limits.max_seconds)
    return waveform[: round(limits.max_seconds * sample_rate)]


def _inspect(path: Path, waveform: np.ndarray, codec: Codec, trim: bool) -> tuple[np.ndarray, dict]:
    """Return [samples] without the silence at its ends, and what was cut off and what seems wrong."""
    measured = activity(waveform, codec.sample_rate)
    warnings = _warnings(path, waveform, measured)
    begin, end = _without_silence(len(waveform), measured, codec) if trim else (0, len(waveform))
    cut = round(begin / codec.sample_rate, 3), round((len(waveform) - end) / codec.sample_rate, 3)
    if sum(cut):
        log.info("silence cut off the prompt: %g s at its start, %g s at its end", *cut)
    return waveform[begin:end], {"trimmed_seconds": {"start": cut[0], "end": cut[1]}, "warnings": warnings}


def _without_silence(num_samples: int, measured: Activity, codec: Codec) -> tuple[int, int]:
    """Return the samples between which there is sound, with a margin.

    Where the recording goes on, the end is that of a whole frame: what is encoded is cut down to whole frames.
    """
    if measured.end == 0:  # nothing stands out
        return 0, num_samples
    margin = round(MARGIN_SECONDS * codec.sample_rate)
    begin, end = max(0, measured.begin - margin), measured.end + margin
    frames = -(-(end - begin) // codec.alignment)
    return begin, min(num_samples, begin + frames * codec.alignment)


def _warnings(path: Path, waveform: np.ndarray, measured: Activity) -> list[str]:
    """Say what makes a recording a poor prompt: the speech will sound like it."""
    clipped = clipped_share(waveform)
    found = []
    if clipped > _MOST_CLIPPED:
        found.append(f"{clipped:.1%} of its samples are at full scale: it is clipped; record it more softly")
    if measured.sounding < _LEAST_SOUNDING:
        found.append(f"only {measured.sounding:.0%} of it is sound: give a passage with shorter pauses")
    if measured.variation_db < _LEAST_VARIATION_DB:
        found.append(f"its level varies by {measured.variation_db:.0f} dB only: mostly noise, a hum or music, or "
                     "speech that these cover")
    for warning in found:
        log.warning("prompt `%s`: %s", path, warning)
    return found


def _known_text(path: Path, text: str | None, transcriber: str) -> tuple[str | None, TextSource]:
    if text is not None:
        return _with_words(text, "--prompt-text"), "given"
    sidecar = path.with_suffix(".txt")
    if sidecar.is_file():
        return _with_words(decode_utf8(sidecar.read_bytes(), sidecar), str(sidecar)), "sidecar"
    if transcriber == NO_TRANSCRIBER:
        raise UsageError(f"nothing tells what prompt `{path}` says: there is no `{sidecar}`, and no recogniser",
                         "say it with --prompt-text, write it to that file, or leave out --transcriber none")
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
