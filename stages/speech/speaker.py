"""Speaker models: a recording to a vector that tells voices apart, behind one small interface.

Similarities of different models cannot be compared, so a model carries a name that results repeat.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr
import torch

from stages.errors import MissingModelError

RATE = 16_000
WINDOW_SECONDS = 30.0  # attention over minutes takes gigabytes
RESEMBLYZER = "resemblyzer"


class SpeakerEmbedder(Protocol):
    """Turn a waveform into the vector of its voice. `name` goes into every result that rests on it."""

    name: str

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return float32 [dim] of length 1 for float32 samples [samples] at `sample_rate` Hz."""
        ...


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of two vectors, 1 for the same direction."""
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


class WavLMEmbedder:
    """WavLM with an x-vector head, such as `microsoft/wavlm-base-plus-sv`: a folder, or a name in the hub's cache.

    The paper's model is WavLM-large with a TDNN, which its authors publish in a format of their own.
    """

    def __init__(self, model: str, device: str = "cpu"):
        if find_spec("transformers") is None:
            raise MissingModelError("speaker models need the package `transformers`, which is not installed",
                                    hint="pip install 'halle[hf]'")
        if not _is_here(model):
            raise MissingModelError(f"there is no speaker model `{model}` on this machine",
                                    hint=f"hf download {model}, or name a folder with one")
        from transformers import Wav2Vec2FeatureExtractor, WavLMForXVector

        self.name, self._device = Path(model).name, device
        try:
            self._features = Wav2Vec2FeatureExtractor.from_pretrained(model, local_files_only=True)
            self._model = WavLMForXVector.from_pretrained(model, local_files_only=True).to(device).eval()
        except (OSError, ValueError) as error:
            raise MissingModelError(f"the speaker model `{model}` cannot be loaded: {error}",
                                    hint="expected what `WavLMForXVector.save_pretrained` writes, and a "
                                         "preprocessor_config.json") from error

    @torch.inference_mode()
    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the direction of the mean over equal windows of at most 30 s."""
        samples = soxr.resample(waveform, sample_rate, RATE)
        windows = np.array_split(samples, max(1, -(-len(samples) // int(WINDOW_SECONDS * RATE))))
        vector = np.mean([self._embed_window(window) for window in windows], axis=0)
        return vector / np.linalg.norm(vector)

    def _embed_window(self, samples: np.ndarray) -> np.ndarray:
        inputs = self._features(samples, sampling_rate=RATE, return_tensors="pt").to(self._device)
        vector = self._model(**inputs).embeddings[0].float().cpu().numpy()
        return vector / np.linalg.norm(vector)


def _is_here(model: str) -> bool:
    """Tell whether a folder or the hub's cache holds a model, without loading transformers."""
    if Path(model).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(model, "config.json"), str)
    except ValueError:  # a path cannot be a name
        return False


class ResemblyzerEmbedder:
    """Resemblyzer's GE2E encoder, whose weights its package contains: a stand-in where nothing can be fetched."""

    name = RESEMBLYZER

    def __init__(self) -> None:
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ImportError as error:
            raise MissingModelError("the speaker model `resemblyzer` is not installed",
                                    hint="pip install resemblyzer (it needs a C compiler)") from error
        self._encoder, self._prepare = VoiceEncoder("cpu", verbose=False), preprocess_wav

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        return self._encoder.embed_utterance(self._prepare(np.array(waveform), sample_rate))


def load_embedder(name: str, device: str = "cpu") -> SpeakerEmbedder:
    """Return the speaker model `resemblyzer`, or the WavLM of that folder or name; nothing is downloaded.

    Raises `MissingModelError` when its package or its weights are not on this machine.
    """
    return ResemblyzerEmbedder() if name == RESEMBLYZER else WavLMEmbedder(name, device)
