"""Predicted opinions: what listeners would say of the sound, as models of their ratings (1 to 5) tell."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soxr
import torch

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import Measurement, Metric, MetricInput, not_measured
from stages.metrics.speaker import best_device

RATE = 16_000
MIN_SECONDS = 0.5
UTMOS_REPOSITORY, UTMOS_FILE = "Blinorot/UTMOS-PyTorch", "utmos_scripted.pt"


class UTMOS(Metric):
    """UTMOS (Saeki et al. 2022), the strong learner, from a TorchScript file that takes float32 [1, samples] at 16 kHz.

    Without a `file`, the one that was downloaded into the hub's cache.
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
        value = float(self._model(torch.from_numpy(samples).to(self._device)[None]).mean())
        return Measurement(value, numbers={"value": value})


def _cached_file() -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(UTMOS_REPOSITORY, UTMOS_FILE)
    return found if isinstance(found, str) else None


class DNSMOS(Metric):
    """DNSMOS P.808 (Reddy et al. 2021), the mean over windows of 9 s; shorter sound is repeated, as its authors do."""

    name = "dnsmos"
    label = "DNSMOS (P.808)"
    better = "higher"

    def unavailable(self) -> str:
        missing = [package for package in ("speechmos", "onnxruntime", "librosa") if find_spec(package) is None]
        return f"not installed: {', '.join(missing)} (pip install 'halle[mos]')" if missing else ""

    def measure(self, item: MetricInput) -> Measurement:
        from speechmos import dnsmos

        samples, problem = _prepared(item)
        if problem:
            return not_measured(problem)
        value = float(dnsmos.run(samples.clip(-1, 1), RATE)["p808_mos"])  # it refuses what is outside
        return Measurement(value, numbers={"value": value})


def _prepared(item: MetricInput) -> tuple[np.ndarray, str]:
    """Return what the system made at 16 kHz, and why it cannot be judged or ''."""
    samples = soxr.resample(item.generated, item.sample_rate, RATE).astype(np.float32)
    if len(samples) < MIN_SECONDS * RATE:
        return samples, f"shorter than {MIN_SECONDS} s"
    return samples, "" if np.isfinite(samples).all() else "the output is not finite"
