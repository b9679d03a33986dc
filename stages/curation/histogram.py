"""Keep utterances such that their durations follow a wanted distribution.

The paper says that it "carefully designed the distribution of audio lengths", but not how, and shows the test
sets' only (Fig. 4). What Table 2 gives of every training set is the mean, the deviation and the range of the clips'
seconds. So a set named `train-90s` here has the distribution that says no more than that: the one of most entropy,
exp(a x + b x^2) on the range. Its deviations make it rise towards the longest clips, where long speech was cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import root

from stages.artifacts.storage import read_json
from stages.config.stage_configs import CurateConfig
from stages.curation.filters import split_takes
from stages.curation.screening import Rejection, Take
from stages.errors import UsageError
from stages.randomness import derive_seed

SHORTEST = 3.0
TABLE_2 = {  # longest, mean, deviation of clips in seconds
    "train-28s": (28.0, 19.11, 7.31),
    "train-54s": (54.0, 28.82, 17.45),
    "train-90s": (90.0, 34.37, 28.32),
    "train-180s": (180.0, 37.69, 41.94),
}
_BINS = 30
_ROUNDING = 1e-9  # of shares that are sums
_HALVINGS = 100
_FORM = '{"edges": [3, 10, 30, 90], "shares": [0.2, 0.3, 0.5]}'


@dataclass(frozen=True)
class Histogram:
    """Shares of the clips [bins], which sum to 1, between edges [bins + 1] in seconds."""

    edges: np.ndarray
    shares: np.ndarray

    def bins_of(self, seconds: np.ndarray) -> np.ndarray:
        """Return the bin of every duration; what lies outside all of them is in -1. The last edge counts as inside."""
        bins = np.searchsorted(self.edges, seconds, side="right") - 1
        bins[seconds == self.edges[-1]] = len(self.shares) - 1
        return np.where(bins < len(self.shares), bins, -1)


def load_histogram(name: str) -> Histogram:
    """Return a histogram by the name of a set in Table 2, or of a JSON file with `edges` and `shares`."""
    if name in TABLE_2:
        return most_entropy(SHORTEST, *TABLE_2[name])
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"expected a histogram of durations, `{'`, `'.join(TABLE_2)}` or a file, got `{name}`",
                         f"a file holds seconds and shares of clips, such as {_FORM}")
    found = read_json(path)
    try:
        edges, shares = (np.asarray(found[key], dtype=np.float64) for key in ("edges", "shares"))
    except (KeyError, TypeError, ValueError):
        edges, shares = np.zeros(0), np.zeros(0)
    sound = edges.ndim == shares.ndim == 1 and len(edges) == len(shares) + 1 > 1 and np.isfinite(edges).all()
    if not (sound and (np.diff(edges) > 0).all() and (shares >= 0).all() and 0 < shares.sum() < math.inf):
        raise UsageError(f"`{name}` should hold rising `edges` and one fewer `shares`, none negative",
                         f"such as {_FORM}")
    return Histogram(edges, shares / shares.sum())


def most_entropy(low: float, high: float, mean: float, deviation: float) -> Histogram:
    """Return the distribution of most entropy on a range (seconds) with this mean and standard deviation."""
    unit = np.linspace(-1, 1, 2001)  # the range, so that both parameters are of the size of 1
    half, middle = (high - low) / 2, (high + low) / 2
    wanted = np.array([(mean - middle) / half, (deviation / half) ** 2])

    def density(parameters: np.ndarray) -> np.ndarray:
        exponent = parameters[0] * unit + parameters[1] * unit**2
        weights = np.exp(exponent - exponent.max())
        return weights / weights.sum()

    def error(parameters: np.ndarray) -> np.ndarray:
        weights = density(parameters)
        center = (weights * unit).sum()
        return np.array([center, (weights * (unit - center) ** 2).sum()]) - wanted

    solution = root(error, np.zeros(2))
    if not solution.success:
        raise UsageError(f"no distribution on {low:g} to {high:g} s has mean {mean:g} and deviation {deviation:g} s")
    edges = np.linspace(low, high, _BINS + 1)
    shares = np.histogram(unit * half + middle, edges, weights=density(solution.x))[0]
    return Histogram(edges, shares / shares.sum())


def shape_durations(takes: list[Take], config: CurateConfig) -> tuple[list[Take], list[Rejection]]:
    """Leave out utterances such that the durations of the rest follow `config.duration_histogram`.

    As many are kept as leave `config.histogram_fit` of the two histograms in common. Which ones depends on the seed and
    the ids alone.
    """
    if not config.duration_histogram or not takes:
        return takes, []
    target = load_histogram(config.duration_histogram)
    bins = target.bins_of(np.array([take.duration for take in takes]))
    quotas = bin_quotas(np.bincount(bins[bins >= 0], minlength=len(target.shares)), target.shares,
                        config.histogram_fit)
    found = {}
    places = [derive_seed(config.seed, "histogram", take.recording.id) for take in takes]
    used = np.zeros(len(target.shares), dtype=int)
    for index in sorted(range(len(takes)), key=places.__getitem__):
        kind = bins[index]
        if kind >= 0 and used[kind] < quotas[kind]:
            used[kind] += 1
            continue
        seconds = takes[index].duration
        found[takes[index].recording.id] = (
            f"{seconds:.2f} s, expected {target.edges[0]:g} to {target.edges[-1]:g} s" if kind < 0 else
            f"expected {quotas[kind]} of {target.edges[kind]:.1f} to {target.edges[kind + 1]:.1f} s")
    return split_takes(takes, found, "HISTOGRAM")


def bin_quotas(counts: np.ndarray, shares: np.ndarray, fit: float) -> np.ndarray:
    """Return how many utterances of each bin are kept, of `counts` [bins] that there are.

    A corpus of N utterances would have N * shares; where there are fewer, those are kept. N is the largest for which
    what is kept and what is wanted have the share `fit` in common, so a bin that is scarce does not cost all the rest.
    """
    def common(size: float) -> float:
        return float(np.minimum(counts, size * shares).sum() / size)

    least, most = 0.0, counts.sum() / fit + 1.0  # `common` never rises, and is too small at the upper end
    for _ in range(_HALVINGS):
        size = (least + most) / 2
        least, most = (size, most) if common(size) >= fit - _ROUNDING else (least, size)
    if least < 1 - _ROUNDING:
        short = [index for index in range(len(counts)) if shares[index] > 0 and counts[index] == 0]
        raise UsageError(f"{len(short)} of {len(counts)} bins of duration_histogram have no utterance: the durations "
                         f"there are cannot have {fit:.0%} of it in common",
                         "curate more recordings, or lower -O histogram_fit")
    return np.minimum(counts, np.floor(least * shares + 1e-6).astype(int))
