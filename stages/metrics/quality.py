"""How close a decoded recording is to the one that was encoded: PESQ, STOI and mel distance."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import warnings
from abc import ABC, abstractmethod
from itertools import pairwise
from pathlib import Path

import numpy as np
import soxr
import torch

from stages.audio.stft import mel_distance
from stages.metrics.base import Measurement, Metric, MetricInput, not_measured
from stages.metrics.usable_sound import sound_problem
from stages.signals import signal_name

PESQ_RATE = 16_000  # wide band
PESQ_WINDOW_SECONDS = 30.0
MIN_SECONDS = 0.4  # STOI needs 30 frames of 12.8 ms
_MISALIGNED_SECONDS = 0.1
_PESQ_CHILD = Path(__file__).with_name("pesq_child.py")
_PESQ_TIMEOUT = 120.0  # seconds a window; it takes about one


class _AlignedMetric(Metric, ABC):
    """Compare an output with the recording that it reproduces, after checking that they can be compared."""

    needs = frozenset({"aligned_reference"})

    def measure(self, item: MetricInput) -> Measurement:
        if problem := _pair_problem(item.reference, item.waveform, item.sample_rate):
            return not_measured(problem)
        shortest = min(len(item.reference), len(item.waveform))
        return self._compare(item.reference[:shortest], item.waveform[:shortest], item.sample_rate)

    @abstractmethod
    def _compare(self, reference: np.ndarray, output: np.ndarray, sample_rate: int) -> Measurement:
        """Measure two waveforms [samples] of one length, neither of them short or silent."""


def _pair_problem(reference: np.ndarray, output: np.ndarray, sample_rate: int) -> str:
    """Return why two waveforms [samples] cannot be compared, or ''."""
    seconds = [len(waveform) / sample_rate for waveform in (reference, output)]
    if abs(seconds[0] - seconds[1]) > _MISALIGNED_SECONDS:
        return f"lengths differ: expected {seconds[0]:.2f} s, got {seconds[1]:.2f} s"
    return (sound_problem(reference, sample_rate, MIN_SECONDS, "reference")
            or sound_problem(output, sample_rate, MIN_SECONDS))


class PESQ(_AlignedMetric):
    """Wide-band PESQ (ITU-T P.862.2), the mean over windows of at most 30 s.

    The reference implementation ends its whole process on recordings with many pauses, so each window is
    scored in a child process.
    """

    name = "pesq"
    label = "PESQ (wide band)"
    better = "higher"

    def unavailable(self) -> str:
        if importlib.util.find_spec("pesq") is None:
            return "the package `pesq` is not installed: pip install pesq (it needs a C compiler)"
        return ""

    def _compare(self, reference: np.ndarray, output: np.ndarray, sample_rate: int) -> Measurement:
        pair = np.stack([soxr.resample(waveform, sample_rate, PESQ_RATE) for waveform in (reference, output)])
        values, problems = [], []
        for first, end in even_windows(pair.shape[1], int(PESQ_WINDOW_SECONDS * PESQ_RATE)):
            value, problem = pesq_window(pair[:, first:end])
            values += [value] if value is not None else []
            problems += [problem] if problem else []
        if not values:
            return not_measured("; ".join(sorted(set(problems))))
        mean = float(np.mean(values))
        windows = len(values) + len(problems)
        note = f"{len(problems)} of {windows} windows left out: {problems[0]}" if problems else ""
        return Measurement(mean, note, {"value": mean})


def even_windows(num_samples: int, longest: int) -> list[tuple[int, int]]:
    """Return (first, end) of the fewest windows of equal length, at most `longest`, that tile the samples."""
    edges = np.linspace(0, num_samples, -(-num_samples // longest) + 1).round().astype(int).tolist()
    return list(pairwise(edges))


def pesq_window(pair: np.ndarray) -> tuple[float | None, str]:
    """Score float32 [2, samples] (reference, output) at 16 kHz in a child; return (value, '') or (None, reason)."""
    buffer = io.BytesIO()
    np.save(buffer, pair.astype(np.float32))
    try:
        # -P keeps this folder off the child's import path, where our file names could hide a module's.
        done = subprocess.run([sys.executable, "-P", str(_PESQ_CHILD)], input=buffer.getvalue(),
                              capture_output=True, timeout=_PESQ_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return None, f"pesq took more than {_PESQ_TIMEOUT:.0f} s"
    if done.returncode < 0:
        return None, f"pesq crashed ({signal_name(-done.returncode)})"
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return None, f"pesq ended with exit code {done.returncode}"
    return answer.get("value"), answer.get("reason", "")


class STOI(_AlignedMetric):
    """Short-time objective intelligibility (Taal et al. 2011), 0 to 1."""

    name = "stoi"
    label = "STOI"
    better = "higher"
    digits = 3

    def _compare(self, reference: np.ndarray, output: np.ndarray, sample_rate: int) -> Measurement:
        from pystoi import stoi

        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # else too little sound scores 1e-5
            try:
                value = float(stoi(reference.astype(np.float64), output.astype(np.float64), sample_rate))
            except (RuntimeWarning, ValueError, IndexError):  # numpy's AxisError is both of the latter
                return not_measured(f"less than {MIN_SECONDS} s are louder than silence")
        return Measurement(value, numbers={"value": value})


class MelDistance(_AlignedMetric):
    """Mean absolute difference of log10 mel power spectrograms: window 1024, hop 256, 64 bands, floor 1e-5."""

    name = "mel_distance"
    label = "mel distance"
    better = "lower"
    digits = 3

    def _compare(self, reference: np.ndarray, output: np.ndarray, sample_rate: int) -> Measurement:
        pair = torch.from_numpy(np.stack([reference, output]).astype(np.float32)).unsqueeze(1)
        value = float(mel_distance(pair[1:], pair[:1], sample_rate))
        return Measurement(value, numbers={"value": value})
