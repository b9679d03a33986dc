"""How many voices there are in windows of speech, and whose each moment is: arithmetic on vectors, no model in it.

    windows -> those that are all speech -> agglomerative clustering -> a centre a voice
    centres -> how like each voice every moment sounds -> Viterbi path -> new centres, and again
    path    -> where it changes its voice: as far as windows sound like both, both are talking

Deterministic, and bounded for any length: at most 2,500 windows, spread over the recording, are clustered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist


@dataclass(frozen=True)
class ClusterSettings:
    """What makes two windows one voice, and what it takes to change from one voice to another.

    The values are for Resemblyzer's vectors of 1.6 s; see tests/benchmarks/curation.py for how they were chosen.
    """

    similarity: float = 0.67  # mean cosine between clusters that become one; less mixes speakers, more splits them
    least_speech: float = 0.8  # share of speech in a window that is clustered
    least_seconds: float = 3.0  # of windows in a voice; what is less joins the most similar one
    most_windows: int = 2500
    change_cost: float = 0.2  # of another voice within speech, in seconds of cosine
    pause_change_cost: float = 0.05  # in a pause
    passes: int = 2
    clear_margin: float = 0.85  # share of the usual margin between two voices that a window of one voice has


DEFAULT = ClusterSettings()
_WINDOWS_AT_ONCE = 10_000
_SHARE_TO_JUDGE = 0.3  # of speech in a window
_LATE_SECONDS = 0.2  # by which a window may reach over the pause in which the voice changes
_FAR_SECONDS = 3.0  # from a change, two voices are not looked for
_LEAST_MIXED_SECONDS = 0.3
_SHORT_PAUSE_SECONDS = 1.0  # in which a voice changes: one may have begun before it and the other gone on after it
_CLOSE_SECONDS = 0.5  # both talk so long before and after it at least


@dataclass(frozen=True)
class Windows:
    """Windows of one length, every `hop` seconds from the beginning.

    `vectors` [windows, dim] are of length 1, or zero where nothing is said; `speech` [windows] is the share of speech.
    """

    vectors: np.ndarray
    speech: np.ndarray
    seconds: float
    hop: float

    @property
    def starts(self) -> np.ndarray:
        return np.arange(len(self.vectors)) * self.hop

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return which window's middle is nearest to each of `times` [times]."""
        nearest = np.rint((times - self.seconds / 2) / self.hop).astype(int)
        return np.clip(nearest, 0, len(self.vectors) - 1)


def find_voices(windows: Windows, settings: ClusterSettings = DEFAULT) -> np.ndarray:
    """Return a centre of length 1 for each voice [voices, dim]; one for windows that are all alike."""
    vectors = windows.vectors[_clear_windows(windows, settings)].astype(np.float64)
    labels = _cluster(vectors, settings.similarity)
    counts = np.bincount(labels)
    stands_for = windows.hop * max(1.0, np.sum(windows.speech >= settings.least_speech) / len(vectors))
    large = [label for label in range(len(counts)) if counts[label] * stands_for >= settings.least_seconds]
    return np.stack([_centre(vectors[labels == label]) for label in large or [int(np.argmax(counts))]])


def _clear_windows(windows: Windows, settings: ClusterSettings) -> np.ndarray:
    """Return indices of the windows to cluster: the fullest where none is full enough."""
    least = min(settings.least_speech, float(windows.speech.max()))
    clear = np.flatnonzero(windows.speech >= least)
    return clear[np.linspace(0, len(clear) - 1, min(len(clear), settings.most_windows)).round().astype(int)]


def _cluster(vectors: np.ndarray, similarity: float) -> np.ndarray:
    """Return labels from 0 [windows]: clusters join while their windows' mean cosine is at least `similarity`."""
    if len(vectors) == 1:
        return np.zeros(1, dtype=int)
    return fcluster(linkage(pdist(vectors, "cosine"), "average"), 1 - similarity, "distance") - 1


def _centre(vectors: np.ndarray) -> np.ndarray:
    mean = vectors.mean(axis=0, dtype=np.float64)
    return mean / np.linalg.norm(mean)


@dataclass(frozen=True)
class Moments:
    """Stretches of `step` seconds from the beginning; `is_speech` [moments] tells those with any speech."""

    is_speech: np.ndarray
    step: float

    @property
    def middles(self) -> np.ndarray:
        return (np.arange(len(self.is_speech)) + 0.5) * self.step


def follow(windows: Windows, centres: np.ndarray, moments: Moments,
           settings: ClusterSettings = DEFAULT) -> tuple[np.ndarray, np.ndarray]:
    """Return whose voice each moment is, an index into `centres` [moments], and the centres of what was found so.

    The path may change its voice anywhere, in a pause for less.
    """
    nearest = windows.at(moments.middles)
    cost = np.where(moments.is_speech, settings.change_cost, settings.pause_change_cost)
    weight = (moments.is_speech * moments.step)[:, None]
    for _ in range(settings.passes):
        path = _best_path(_likeness(windows, centres)[nearest] * weight, cost)
        centres = _sharpen(windows, centres, path, moments.step, settings)
    return _best_path(_likeness(windows, centres)[nearest] * weight, cost), centres


def _likeness(windows: Windows, centres: np.ndarray) -> np.ndarray:
    """Return the cosines [windows, voices]."""
    parts = np.array_split(windows.vectors, 1 + len(windows.vectors) // _WINDOWS_AT_ONCE)  # as float32 all are large
    return np.concatenate([part.astype(np.float32) @ centres.T.astype(np.float32) for part in parts])


def _sharpen(windows: Windows, centres: np.ndarray, path: np.ndarray, step: float,
             settings: ClusterSettings) -> np.ndarray:
    """Return centres of the windows in which the path stays with one voice; the old ones of voices with none."""
    whose = _voice_of(windows, path, step, edge=0.1)
    whose[windows.speech < 0.75 * settings.least_speech] = -1
    own = [windows.vectors[whose == voice] for voice in range(len(centres))]
    return np.stack([_centre(found) if len(found) > 3 else old for found, old in zip(own, centres, strict=True)])


def _voice_of(windows: Windows, path: np.ndarray, step: float, edge: float = 0.0) -> np.ndarray:
    """Return the voice that a path stays with from a window's beginning to its end [windows], -1 where it changes.

    `edge` is the share of a window at either end that does not count.
    """
    changes = np.concatenate([[0], np.cumsum(np.diff(path) != 0)])
    begin = windows.starts + edge * windows.seconds
    end = windows.starts + (1 - edge) * windows.seconds
    first, last = (np.clip((times / step + 1e-6).astype(int), 0, len(path) - 1) for times in (begin, end - step / 2))
    return np.where(changes[first] == changes[last], path[first], -1)


def _best_path(score: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return the labels [moments] with the largest sum of scores [moments, labels], less `cost` [moments] a change."""
    count, labels = score.shape
    came_from = np.empty((count, labels), dtype=np.int16)
    best = np.zeros(labels)
    for moment in range(count):
        leader = int(best.argmax())
        changed = best[leader] - cost[moment]
        came_from[moment] = np.where(best >= changed, np.arange(labels), leader)
        best = np.maximum(best, changed) + score[moment]
    path = np.empty(count, dtype=int)
    label = int(best.argmax())
    for moment in range(count - 1, -1, -1):
        path[moment] = label
        label = came_from[moment, label]
    return path


def second_voices(windows: Windows, centres: np.ndarray, path: np.ndarray, moments: Moments,
                  settings: ClusterSettings = DEFAULT) -> np.ndarray:
    """Return who else may be talking [moments], -1 where nobody is.

    Two talk at once where one takes over from the other: on both sides of a change, until a window that lies on that
    side alone sounds as much like its own voice, and as little like the other, as windows of this voice usually do.
    Where there is hardly a pause, windows are too coarse to tell: half a second on either side counts as both.
    """
    likeness = _likeness(windows, centres)
    usual = _usual_margins(likeness, _voice_of(windows, path, moments.step), len(centres))
    second = np.full(len(path), -1)
    for change, end, begin in _handovers(path, moments.is_speech):
        before, after = int(path[change - 1]), int(path[change])
        near = _windows_around(windows, end * moments.step, begin * moments.step)
        margin = likeness[near, before] - likeness[near, after]
        judged = windows.speech[near] >= _SHARE_TO_JUDGE
        least = _CLOSE_SECONDS if (begin - end) * moments.step <= _SHORT_PAUSE_SECONDS else 0.0
        left = max(least, _mixed_seconds(end * moments.step - windows.starts[near] - windows.seconds,
                                         judged & (margin >= settings.clear_margin * usual[before, after])))
        right = max(least, _mixed_seconds(windows.starts[near] - begin * moments.step,
                                          judged & (-margin >= settings.clear_margin * usual[after, before])))
        if left >= _LEAST_MIXED_SECONDS:
            second[max(0, end - round(left / moments.step)) : change] = after
        if right >= _LEAST_MIXED_SECONDS:
            second[change : begin + round(right / moments.step)] = before
    return np.where(second == path, -1, second)


def _handovers(path: np.ndarray, is_speech: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield where a path changes, where the speech before it ends and where speech goes on, as numbers of moments."""
    numbers = np.arange(len(path))
    ends = np.maximum.accumulate(np.where(is_speech, numbers + 1, 0))
    begins = np.minimum.accumulate(np.where(is_speech, numbers, len(path))[::-1])[::-1]
    for change in (np.flatnonzero(np.diff(path)) + 1).tolist():
        if ends[change - 1] > 0 and begins[change] < len(path):
            yield change, int(ends[change - 1]), int(begins[change])


def _windows_around(windows: Windows, end: float, begin: float) -> slice:
    """Return the windows that may tell of a change in the pause from `end` to `begin`."""
    first = int((end - _FAR_SECONDS - windows.seconds) / windows.hop)
    return slice(max(0, first), int((begin + _FAR_SECONDS) / windows.hop) + 1)


def _usual_margins(likeness: np.ndarray, whose: np.ndarray, voices: int) -> np.ndarray:
    """Return how much liker windows of a voice are to it than to another, the median [voices, other voices]."""
    margins = np.zeros((voices, voices))
    for voice in range(voices):
        own = likeness[whose == voice]
        if len(own):
            margins[voice] = np.median(own[:, [voice]] - own, axis=0)
    return margins


def _mixed_seconds(distance: np.ndarray, is_clear: np.ndarray) -> float:
    """Return how far from a change the nearest clear window is, of those `distance` [windows] seconds to one side."""
    found = distance[is_clear & (distance >= -_LATE_SECONDS - 1e-6) & (distance < _FAR_SECONDS)]
    return float(found.min()) if len(found) else _FAR_SECONDS
