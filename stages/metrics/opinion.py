"""Predicted opinions: what listeners would say of the sound, as models of their ratings (1 to 5) tell."""

from __future__ import annotations

from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soxr
import torch

from stages.artifacts.storage import sha256_file
from stages.config.stage_configs import EvalConfig
from stages.metrics.base import Measurement, Metric, MetricInput, not_measured
from stages.metrics.speaker import best_device
from stages.metrics.usable_sound import sound_problem
from stages.speech.quality import DnsmosEstimator

RATE = 16_000
MIN_SECONDS = 0.5
UTMOS_WINDOW_SECONDS = 30
UTMOS_REPOSITORY, UTMOS_FILE = "Blinorot/UTMOS-PyTorch", "utmos_scripted.pt"


class UTMOS(Metric):
    """UTMOS (Saeki et al. 2022), the strong learner, from a TorchScript file that takes float32 [1, samples] at 16 kHz.

    Without a `file`, the one that was downloaded into the hub's cache. Of what is longer than 30 s, the mean over the
    fewest equal windows: its attention over minutes takes gigabytes.
    """

    name = "utmos"
    label = "UTMOS"
    better = "higher"

    def __init__(self, file: str | None = None, device: str = "cpu"):
        self._file, self._device = file, device
        self._model: torch.jit.ScriptModule | None = None
        self._problem = ""

    def configured(self, config: EvalConfig) -> UTMOS:
        return UTMOS(config.utmos, best_device(config.device))

    def settings(self) -> str:
        return self._identity

    @cached_property
    def _identity(self) -> str:
        file = self._file or _cached_file()
        return sha256_file(Path(file)) if file and Path(file).is_file() else ""

    def unavailable(self) -> str:
        if self._model is None and not self._problem:
            file = self._file or _cached_file()
            if file is None or not Path(file).is_file():
                self._problem = (f"there is no UTMOS at `{self._file}`" if self._file else
                                 f"UTMOS is not on this machine: hf download {UTMOS_REPOSITORY} {UTMOS_FILE}, "
                                 "or name a TorchScript file: -O utmos=FILE")
                return self._problem
            try:
                self._model = torch.jit.load(file, map_location=self._device).eval()
            except RuntimeError:
                self._problem = f"`{file}` is not a TorchScript file"
        return self._problem

    @torch.inference_mode()
    def measure(self, item: MetricInput) -> Measurement:
        samples, problem = _prepared(item)
        if problem:
            return not_measured(problem)
        windows = np.array_split(samples, -(-len(samples) // (UTMOS_WINDOW_SECONDS * RATE)))
        value = float(np.mean([float(self._model(torch.from_numpy(window).to(self._device)[None]).mean())
                               for window in windows]))
        if not np.isfinite(value):
            return not_measured("UTMOS gives no finite number")
        return Measurement(value, numbers={"value": value})


def _cached_file() -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(UTMOS_REPOSITORY, UTMOS_FILE)
    return found if isinstance(found, str) else None


class DNSMOS(Metric):
    """DNSMOS (Reddy et al. 2021, 2022), the mean over windows of 9 s; shorter sound is repeated, as its authors do.

    The paper's is that of P.808, one opinion of all that is heard. P.835 asks for three: of the speech (`sig`), of the
    background (`bak`) and of all (`ovrl`), by another model, twenty times as slow, which is run only for them.
    """

    better = "higher"

    def __init__(self, opinion: str = "p808"):
        self._opinion = opinion
        self.by_default = opinion == "p808"
        self.name = "dnsmos" if self.by_default else f"dnsmos_{opinion}"
        self.label = "DNSMOS (P.808)" if self.by_default else f"DNSMOS {opinion.upper()} (P.835)"

    def unavailable(self) -> str:
        missing = [package for package in ("speechmos", "onnxruntime", "librosa") if find_spec(package) is None]
        return f"not installed: {', '.join(missing)} (pip install 'halle[mos]')" if missing else ""

    def measure(self, item: MetricInput) -> Measurement:
        samples, problem = _prepared(item)
        if problem:
            return not_measured(problem)
        # It refuses samples outside of full scale, where resampling may bring them
        samples = samples.clip(-1, 1)
        value = _p808().as_published(samples) if self.by_default else _p835(samples.tobytes())[self._opinion]
        if not np.isfinite(value):
            return not_measured("DNSMOS gives no finite number")
        return Measurement(value, numbers={"value": value})


@lru_cache(maxsize=1)
def _p808() -> DnsmosEstimator:
    return DnsmosEstimator()


@lru_cache(maxsize=1)  # of one output, all three opinions are asked for in a row
def _p835(samples: bytes) -> dict[str, float]:
    """Return the three opinions of float32 samples at 16 kHz."""
    from speechmos import dnsmos

    found = dnsmos.run(np.frombuffer(samples, np.float32), RATE)
    return {name: float(found[f"{name}_mos"]) for name in ("sig", "bak", "ovrl")}


def _prepared(item: MetricInput) -> tuple[np.ndarray, str]:
    """Return what the system made at 16 kHz, and why it cannot be judged or ''."""
    if problem := sound_problem(item.generated, item.sample_rate, MIN_SECONDS):
        return item.generated, problem
    return soxr.resample(item.generated, item.sample_rate, RATE).astype(np.float32), ""
