"""Speaker models: a recording to a vector that tells voices apart, behind one small interface.

Similarities of different models cannot be compared, so a model carries a name that results repeat, and none takes
another's place by itself.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr
import torch

from stages.errors import MissingModelError
from stages.speech.known_weights import fetch
from stages.speech.wavlm_tdnn import SUFFIXES, load_wavlm_tdnn

RATE = 16_000
WINDOW_SECONDS = 30.0  # attention over minutes takes gigabytes
RESEMBLYZER = "resemblyzer"


class SpeakerEmbedder(Protocol):
    """Turn a waveform into the vector of its voice. `name` goes into every result that rests on it."""

    name: str

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return float32 [dim] of length 1 for float32 samples [samples] at `sample_rate` Hz.

        It is not finite where the model hears no voice, such as in silence.
        """
        ...


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of two vectors, 1 for the same direction."""
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


class _WindowedEmbedder(ABC):
    """Hear long speech in windows: the voice is the direction of the mean over equal windows of at most 30 s."""

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        samples = soxr.resample(waveform, sample_rate, RATE)
        windows = np.array_split(samples, max(1, -(-len(samples) // int(WINDOW_SECONDS * RATE))))
        vector = np.mean([_unit(self._embed_window(window)) for window in windows], axis=0)
        return _unit(vector)

    @abstractmethod
    def _embed_window(self, samples: np.ndarray) -> np.ndarray:
        """Return the vector [dim] of float32 [samples] at 16 kHz."""


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


class WavLMTDNNEmbedder(_WindowedEmbedder):
    """The paper's model, WavLM-large with an ECAPA-TDNN, from the file that its authors publish."""

    def __init__(self, file: Path, device: str = "cpu"):
        _need_transformers()
        self.name, self._device = file.stem, device
        self._model = load_wavlm_tdnn(file).to(device)

    @torch.inference_mode()
    def _embed_window(self, samples: np.ndarray) -> np.ndarray:
        waveform = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None]
        return self._model(waveform.to(self._device))[0].cpu().numpy()


class WavLMEmbedder(_WindowedEmbedder):
    """WavLM with an x-vector head, such as `microsoft/wavlm-base-plus-sv`: a folder, or a name in the hub's cache."""

    def __init__(self, model: str, device: str = "cpu"):
        _need_transformers()
        if not _is_here(model):
            raise MissingModelError(f"there is no speaker model `{model}` on this machine",
                                    hint=f"{fetch(model)}, or name a folder with one, the file of the paper's "
                                         f"model, or `{RESEMBLYZER}`, which needs no download")
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
    def _embed_window(self, samples: np.ndarray) -> np.ndarray:
        inputs = self._features(samples, sampling_rate=RATE, return_tensors="pt").to(self._device)
        return self._model(**inputs).embeddings[0].float().cpu().numpy()


def _need_transformers() -> None:
    if find_spec("transformers") is None:
        raise MissingModelError("speaker models need the package `transformers`, which is not installed",
                                hint=f"pip install 'halle[hf]', or choose `{RESEMBLYZER}`")


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
                                    hint="pip install 'halle[mos]' webrtcvad 'setuptools<81'; pip install --no-deps "
                                         "resemblyzer (it needs a C compiler)") from error
        self._encoder, self._prepare = VoiceEncoder("cpu", verbose=False), preprocess_wav

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return what the package itself gives, NaN [256] where its voice detector leaves nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of the logarithm of silence
            voiced = self._prepare(np.array(waveform), sample_rate)
        if not len(voiced):
            return np.full(256, np.nan, np.float32)
        return self._encoder.embed_utterance(voiced)


def load_embedder(name: str, device: str = "cpu") -> SpeakerEmbedder:
    """Return the speaker model `resemblyzer`, the paper's of a file, or the WavLM of a folder or name.

    Nothing is downloaded. Raises `MissingModelError` when its package or its weights are not on this machine.
    """
    if name == RESEMBLYZER:
        return ResemblyzerEmbedder()
    if Path(name).suffix in SUFFIXES:
        return WavLMTDNNEmbedder(Path(name), device)
    return WavLMEmbedder(name, device)
