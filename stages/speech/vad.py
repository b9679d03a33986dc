"""Voice activity: when a recording holds speech, whoever speaks.

    recording -> a probability every 32 ms -> spans, by hysteresis -> short pauses closed, clicks dropped, edges padded

Of 24 minutes with pauses of 0.1 to 2 s (tests/benchmarks/voice_activity.py), 2.3 % of an4's speech
is missed and 0.5 % of Kathleen's and flite's; 6.3 % and 8.1 % of the silence is called speech. Not counting 0.1 s
around where words begin and end, it is 1.1 and 0.1 %, and 0.3 and 0.6 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Protocol

import numpy as np

from stages.audio.recording import Recording
from stages.config.recordings import VoiceActivityConfig
from stages.errors import MissingModelError
from stages.speech.onnx_models import missing_packages, open_session, package_file
from stages.speech.spans import Span, union

SILERO = "silero-vad"
RATE = 16_000
FRAME = 512  # samples; one probability is of so many, which the model is given with the 64 before them
_CONTEXT = 64
_STATE = (1, 1, 128)  # of its LSTM
_BLOCK_SECONDS = 512 * FRAME / RATE  # 16.4 s; larger blocks are no faster
_FILE = "data/silero_vad_16k_sequence.onnx"


class VoiceActivity(Protocol):
    """Find the speech in a recording. `name` and `version` go into every result that rests on it."""

    name: str
    version: str

    def find(self, recording: Recording) -> list[Span]:
        """Return the set of spans, in seconds, in which there is speech."""
        ...


class SileroVoiceActivity:
    """Silero VAD, whose weights are in its package (MIT): an LSTM on frames of 32 ms that never looks ahead.

    Memory does not grow with the recording, but for 4 bytes a frame: 4.5 MB for ten hours.
    """

    name = SILERO

    def __init__(self, settings: VoiceActivityConfig | None = None):
        if missing := missing_silero():
            raise MissingModelError(f"voice activity needs {missing}")
        self.settings, self.version = settings or VoiceActivityConfig(), version("silero-vad")
        self._session = open_session(package_file("silero_vad", _FILE))

    def find(self, recording: Recording) -> list[Span]:
        return speech_spans(self.probabilities(recording), self.settings, recording.seconds)

    def probabilities(self, recording: Recording) -> np.ndarray:
        """Return the probability of speech, float32 [frames], of every 32 ms; the last frame may be filled up."""
        hidden, cell = np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
        found = [np.zeros(0, np.float32)]
        for frames in _frames(recording):
            values, hidden, cell = self._session.run(
                ["speech_probs", "hn", "cn"], {"input": frames, "h": hidden, "c": cell})
            found.append(values)
        return np.concatenate(found)


def _frames(recording: Recording) -> Iterator[np.ndarray]:
    """Yield float32 [frames, 64 + 512]: each frame after the end of the one before it."""
    context = np.zeros(_CONTEXT, np.float32)
    for _, block in recording.blocks(_BLOCK_SECONDS, RATE):
        samples = np.pad(np.concatenate([context, block.clip(-1, 1)]), (0, -len(block) % FRAME))
        yield np.lib.stride_tricks.sliding_window_view(samples, _CONTEXT + FRAME)[::FRAME].copy()
        context = samples[-_CONTEXT:]


def speech_spans(probabilities: np.ndarray, settings: VoiceActivityConfig, seconds: float) -> list[Span]:
    """Return the set of spans of speech within 0..`seconds` from probabilities [frames]."""
    speaking = _hysteresis(probabilities, settings.threshold, settings.release)
    edges = np.flatnonzero(np.diff(speaking, prepend=False, append=False)) * (FRAME / RATE)
    found = union((Span(float(start), float(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)),
                  gap=settings.min_silence_seconds)
    pad, shortest = settings.pad_seconds, settings.min_speech_seconds
    return union(Span(max(0.0, span.start - pad), min(seconds, span.end + pad))
                 for span in found if span.seconds >= shortest)


def _hysteresis(values: np.ndarray, on: float, off: float) -> np.ndarray:
    """Return bool [frames]: on where `values` reach `on`, until they fall below `off`."""
    decisive = (values >= on) | (values < off)
    latest = np.maximum.accumulate(np.where(decisive, np.arange(len(values)), -1))
    return np.where(latest >= 0, values[latest] >= on, False) if len(values) else np.zeros(0, bool)


def missing_silero() -> str:
    """Say what has to be installed before `load_vad` can work, '' when nothing has."""
    missing = missing_packages(["silero_vad", "onnxruntime"])
    if missing:
        return f"{' and '.join(f'`{name}`' for name in missing)} (pip install 'halle[vad]')"
    if not package_file("silero_vad", _FILE).is_file():
        return f"silero-vad 6.2.3 or later, not `{version('silero-vad')}` (pip install -U silero-vad)"
    return ""


def load_vad(name: str = SILERO, settings: VoiceActivityConfig | None = None) -> VoiceActivity:
    """Return the voice activity detector called `name`; raise `MissingModelError` when it is not installed."""
    if name != SILERO:
        raise MissingModelError(f"expected the voice activity detector `{SILERO}`, got `{name}`",
                                hint=f"use `{SILERO}`, or put turns beside the audio: NAME.rttm")
    return SileroVoiceActivity(settings)
