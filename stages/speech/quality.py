"""How good speech sounds, from itself alone: models that predict a measure or listeners' opinion.

Section 6 gates podcasts by PESQ as TorchAudio-Squim estimates it (`squim-pesq`, whose weights have to be fetched).
`dnsmos` is in a package: what to use where nothing can be fetched. Their scales differ, so each has its own thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr

from stages.artifacts.storage import sha256_file
from stages.errors import MissingModelError
from stages.speech.onnx_models import missing_packages, open_session, package_file

RATE = 16_000
SQUIM, DNSMOS = "squim-pesq", "dnsmos"
_FLOOR = 1e-4  # peak, -80 dB; models give silence a score too
_SQUIM_FILE = "models/squim_objective_dns2020.pth"
_SQUIM_URL = f"https://download.pytorch.org/torchaudio/{_SQUIM_FILE}"
_SHORTEST = RATE // 2  # samples; Squim's filters are 64 samples long, and it was trained on 5 s
_DNSMOS_PACKAGES = ("speechmos", "onnxruntime", "librosa")
_DNSMOS_FILE = "dnsmos_models/model_v8.onnx"
_WINDOW_SECONDS = 9.01  # what DNSMOS was trained on
_WINDOW = 144_160  # samples
_HOP = 160  # samples


@dataclass(frozen=True)
class Thresholds:
    """A recording sounds well enough when its pieces' mean is above `mean`, and their deviation below `deviation`."""

    mean: float
    deviation: float


THRESHOLDS = {
    SQUIM: Thresholds(2.5, 0.6),  # section 6
    DNSMOS: Thresholds(3.2, 0.3),  # ours: where it agrees with PESQ above 2.5, docs/quality-gate.md
}


class QualityEstimator(Protocol):
    """Judge speech by ear. `name` and `version` go into every result that rests on it."""

    name: str
    version: str

    def estimate(self, waveform: np.ndarray, sample_rate: int) -> float:
        """Return the quality of float32 samples [samples] at `sample_rate` Hz, the higher the better.

        NaN where there is nothing to judge: no sample, silence (below -80 dB), or samples that are not finite.
        """
        ...


class SquimEstimator:
    """Wide-band PESQ, 1 to 4.6, by TorchAudio-Squim (Kumar et al. 2023), without its other two measures.

    The network is torchaudio's `squim_objective_base`. Of its three branches only that of PESQ is computed, and its
    attention without a matrix of all pairs of frames: 30 s take 1.2 GB instead of 5.5 GB, and a third of the time.
    """

    name = SQUIM

    def __init__(self, weights: str | None = None, device: str = "cpu"):
        if missing := missing_squim(weights):
            raise MissingModelError(f"the quality estimator `{SQUIM}` needs {missing}")
        import torch
        from torchaudio.models import squim_objective_base

        model, file = squim_objective_base(), _squim_file(weights)
        try:
            model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # of many kinds: no pickle, one that is refused, not a dict, other names or shapes
            raise MissingModelError(f"`{file}` does not hold the weights of SQUIM_OBJECTIVE", hint=_fetch()) from error
        self.version, self._device = sha256_file(file)[:12], device
        self._model = model.to(device).eval()

    def estimate(self, waveform: np.ndarray, sample_rate: int) -> float:
        samples = _prepared(waveform, sample_rate)
        return self._pesq(_repeated(samples, _SHORTEST)) if len(samples) else float("nan")

    def _pesq(self, samples: np.ndarray) -> float:
        import torch

        with torch.inference_mode(), _attention_in_linear_memory():
            batch = torch.from_numpy(samples).to(self._device)[None]
            level = batch.square().mean(dim=1, keepdim=True).sqrt() * 20  # what it was trained at
            frames = self._model.dprnn(self._model.encoder(batch / level))
            return float(self._model.branches[1](frames))


@contextmanager
def _attention_in_linear_memory() -> Iterator[None]:
    """Keep torch from its fused transformer layer, which holds [heads, frames, frames]: 4.5 GB of 30 s."""
    import torch

    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


class DnsmosEstimator:
    """Listeners' opinion of all that is heard, 1 to 5, by DNSMOS P.808 (Reddy et al. 2021).

    `estimate` is the mean over the fewest windows of 9.01 s that cover the sound, spread evenly; shorter sound is
    repeated, as its authors do. They move windows by 1 s, which takes five times as long for 30 s: `as_published`.
    """

    name = DNSMOS

    def __init__(self) -> None:
        if missing := missing_dnsmos():
            raise MissingModelError(f"the quality estimator `{DNSMOS}` needs {missing}")
        self.version = version("speechmos")
        self._session = open_session(package_file("speechmos", _DNSMOS_FILE))

    def estimate(self, waveform: np.ndarray, sample_rate: int) -> float:
        samples = _prepared(waveform, sample_rate)
        if not len(samples):
            return float("nan")
        mels = np.stack([_log_mel(window[:-_HOP]) for window in _windows(samples)])
        return float(self._session.run(None, {"input_1": mels})[0].mean())

    def as_published(self, samples: np.ndarray) -> float:
        """Return what the package `speechmos` gives for float32 `samples` at 16 kHz, between -1 and 1.

        It runs the model of P.835 too, which takes some twenty times as long as this and tells nothing of P.808.
        """
        opinions = [self._session.run(None, {"input_1": _log_mel(window[:-_HOP])[None]})[0]
                    for window in _windows_of_the_package(samples)]
        return float(np.mean(opinions))


def _windows(samples: np.ndarray) -> list[np.ndarray]:
    samples = _repeated(samples, _WINDOW)
    starts = np.linspace(0, len(samples) - _WINDOW, -(-len(samples) // _WINDOW)).round().astype(int)
    return [samples[start : start + _WINDOW] for start in starts]


def _windows_of_the_package(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the windows of `speechmos`: one a second, without those that its rounding leaves a sample too short."""
    while len(samples) < _WINDOW:
        samples = np.append(samples, samples)
    for second in range(int(len(samples) // RATE - _WINDOW_SECONDS) + 1):
        window = samples[second * RATE : int((second + _WINDOW_SECONDS) * RATE)]
        if len(window) >= _WINDOW:
            yield window


def _repeated(samples: np.ndarray, least: int) -> np.ndarray:
    """Return sound of at least so many samples."""
    return samples if len(samples) >= least else np.tile(samples, -(-least // len(samples)))[:least]


def _log_mel(samples: np.ndarray) -> np.ndarray:
    """Return float32 [900, 120], the input of P.808 as speechmos computes it: dB below the loudest, in units of 40."""
    import librosa

    power = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=321, hop_length=_HOP, n_mels=120)
    return ((librosa.power_to_db(power, ref=np.max) + 40) / 40).T.astype(np.float32)


def _prepared(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return float32 [samples] at 16 kHz within full scale, none where there is nothing to judge."""
    if not len(waveform) or not np.isfinite(waveform).all() or np.abs(waveform).max() <= _FLOOR:
        return np.zeros(0, np.float32)
    samples = soxr.resample(waveform, sample_rate, RATE) if sample_rate != RATE else waveform
    return np.ascontiguousarray(samples, dtype=np.float32).clip(-1, 1)


# ---- what is on this machine


def _squim_file(weights: str | None) -> Path:
    """Return the file given, or where torchaudio keeps what it downloads."""
    if weights:
        return Path(weights)
    import torch

    return Path(torch.hub.get_dir()) / "torchaudio" / _SQUIM_FILE


def _fetch() -> str:
    return f"curl -fL --create-dirs -o {_squim_file(None).as_posix()} {_SQUIM_URL}, or --quality-gate {DNSMOS}"


def missing_squim(weights: str | None = None) -> str:
    """Say what has to be fetched before SQUIM can work, '' when nothing has."""
    file = _squim_file(weights)
    if file.is_file():
        return ""
    return f"the weights of torchaudio's SQUIM_OBJECTIVE (28 MB, CC BY 4.0), not found at `{file}` ({_fetch()})"


def missing_dnsmos() -> str:
    """Say what has to be installed before DNSMOS can work, '' when nothing has."""
    missing = missing_packages(_DNSMOS_PACKAGES)
    return f"{', '.join(f'`{name}`' for name in missing)} (pip install 'halle[mos]')" if missing else ""


def missing_quality(name: str, weights: str | None = None) -> str:
    """Say what has to be installed before `load_quality` can work, '' when nothing has."""
    return missing_squim(weights) if name == SQUIM else missing_dnsmos()


def load_quality(name: str, weights: str | None = None, device: str = "cpu") -> QualityEstimator:
    """Return the estimator `squim-pesq` (its `weights` a file, or where torchaudio keeps them) or `dnsmos`.

    Nothing is downloaded. Raises `MissingModelError` when its package or its weights are not on this machine.
    """
    if name == SQUIM:
        return SquimEstimator(weights, device)
    if name == DNSMOS:
        return DnsmosEstimator()
    raise MissingModelError(f"expected the quality estimator `{SQUIM}` or `{DNSMOS}`, got `{name}`",
                            hint=f"--quality-gate {DNSMOS}")
