"""Whisper through the package `faster-whisper`: the same models, several times as fast, with times of words."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soxr

from stages.errors import MissingModelError, UsageError
from stages.speech.known_weights import fetch
from stages.speech.transcriber import SILENCE, Transcript, Word

PREFIX = "faster-whisper:"
_RATE = 16_000


class QuickWhisper:
    """A model of faster-whisper by its name (`distil-large-v3`) in the hub's cache, or in a folder.

    Its weights are loaded when it first listens. Numbers are those of the device: fp16 on a graphics card, fp32 on a
    processor, where int8 would change the words. The likeliest words are taken, even where they are nonsense: at
    higher temperatures Whisper may find better ones, but draws others each time, whatever the seed.
    """

    def __init__(self, model: str, language: str = "en", device: str = "cpu"):
        if find_spec("faster_whisper") is None:
            raise MissingModelError("the recogniser `faster-whisper` is not installed",
                                    hint="pip install 'halle[faster-whisper]'")
        self._folder, self._language, self._device = _local_folder(model), language, device
        self.name = f"{PREFIX}{model}"
        self.version = f"faster-whisper {version('faster-whisper')}, language {language}"
        self._model = None

    def transcribe(self, waveform: np.ndarray, sample_rate: int) -> Transcript:
        """Return the words of the whole waveform with their times, which attention of the decoder tells."""
        samples = np.asarray(waveform, dtype=np.float32)
        if sample_rate != _RATE:
            samples = soxr.resample(samples, sample_rate, _RATE)
        if not len(samples) or np.abs(samples).max() < SILENCE:
            return Transcript("")
        if self._model is None:
            self._model = self._load()
        segments, _ = self._model.transcribe(samples, language=self._language, word_timestamps=True,
                                             condition_on_previous_text=False, temperature=0.0)
        seconds = len(samples) / _RATE
        words = tuple(Word(word.word.strip(), min(float(word.start), seconds), min(float(word.end), seconds))
                      for segment in segments for word in segment.words or () if word.word.strip())
        return Transcript(" ".join(word.text for word in words), words)

    def _load(self):
        from faster_whisper import WhisperModel

        device, _, index = self._device.partition(":")
        model = WhisperModel(self._folder, device=device, device_index=int(index or 0),
                             compute_type="float16" if device == "cuda" else "float32")
        if self._language not in model.supported_languages:
            raise UsageError(f"`{self.name}` does not know the language `{self._language}`",
                             hint="-O language= takes codes such as en, de or zh")
        return model


def _local_folder(model: str) -> str:
    """Return the folder of a model; nothing is downloaded."""
    from faster_whisper.utils import download_model

    if Path(model).is_dir():
        return model
    try:
        return download_model(model, local_files_only=True)
    except (OSError, ValueError) as error:  # a name that is none, or that the hub's cache lacks
        raise MissingModelError(
            f"there is no recogniser `{PREFIX}{model}` on this machine",
            hint=f"for `distil-large-v3`: {fetch('Systran/faster-distil-whisper-large-v3')}; or name a folder with a "
                 "converted model") from error
