"""Finding what is there twice among many millions of marks, in memory that does not grow.

A mark is a 32-bit key of an owner (an utterance) at a place: a hash of six words at a word's number, or three spectral
peaks at a frame. A copy shares many keys with one earlier owner, at about one distance between their places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOST_MARKS = 2**26  # of 12 bytes, and as much again twice while they are sorted: some 2.5 GB
_SMALL = 1024


class Marks:
    """Marks of owners 0, 1, 2 ..., added in this order. When there are too many, every second key is forgotten.

    Keys are hashes, so what copies share thins out like the rest: shares stay as they are, and only owners that are
    left with few marks are no longer judged.
    """

    def __init__(self, most: int = MOST_MARKS):
        self._most, self._count, self._level = most, 0, 0
        self._chunks: list[np.ndarray] = []  # uint32 [3, marks]: keys, owners, places
        self._small: list[np.ndarray] = []  # the newest, to become one chunk

    def add(self, owner: int, keys: np.ndarray, places: np.ndarray) -> None:
        """Take in keys (uint32 [marks]) and their places (0 and up [marks])."""
        rows = np.stack([keys, np.full(len(keys), owner), places]).astype(np.uint32)
        self._small.append(self._thinned(rows))
        self._count += self._small[-1].shape[1]
        while self._count > self._most:
            self._level += 1
            self._gather()
            self._chunks = [self._thinned(chunk) for chunk in self._chunks]
            self._count = sum(chunk.shape[1] for chunk in self._chunks)
        if len(self._small) >= _SMALL:
            self._gather()

    def sorted(self) -> np.ndarray:
        """Return keys, owners and places (uint32 [3, marks]) by key, then owner; the marks are given up."""
        self._gather()
        joined = np.concatenate([np.zeros((3, 0), np.uint32), *self._chunks], axis=1)
        self._chunks = []
        return joined[:, np.argsort(joined[0], kind="stable")]

    def _gather(self) -> None:
        if self._small:
            self._chunks.append(np.concatenate(self._small, axis=1))
            self._small = []

    def _thinned(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, rows[0] % (1 << self._level) == 0] if self._level else rows


@dataclass(frozen=True)
class Rules:
    """When an owner is a copy: it shares at least `share` of its marks, and `fewest`, with one group of another.

    A vote for an earlier owner counts to the groups `group(owner, earlier owner, distance of places)`: of int64
    [votes] each it makes int64 [ways, votes], where -1 is no group. Of all ways to group, the one with most votes in a
    group counts.
    """

    share: float
    fewest: int
    group: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def find_copies(marks: Marks, rules: Rules) -> dict[int, tuple[int, float]]:
    """Return owner -> (the earlier owner that it mostly is a copy of, share of its marks found there).

    Every mark votes for the first owner of its key. Owners are judged in order, and votes for copies do not count, so
    the first of several copies is always kept.
    """
    keys, owners, places = marks.sorted()
    sizes = np.bincount(owners)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    first = np.repeat(starts, np.diff(np.append(starts, len(keys))))
    voters = np.flatnonzero(owners != owners[first])
    order = voters[np.argsort(owners[voters], kind="stable")]
    voter, elected = owners[order].astype(np.int64), owners[first[order]].astype(np.int64)
    groups = rules.group(voter, elected, places[first[order]].astype(np.int64) - places[order])
    return _judge(voter, elected, groups, sizes, rules)


def _judge(
    voter: np.ndarray, elected: np.ndarray, groups: np.ndarray, sizes: np.ndarray, rules: Rules
) -> dict[int, tuple[int, float]]:
    """Go through the votes, sorted by voter, and return the copies."""
    copies: dict[int, tuple[int, float]] = {}
    is_copy = np.zeros(len(sizes), dtype=bool)
    owners, begins = np.unique(voter, return_index=True)
    for owner, begin, end in zip(owners, begins, np.append(begins, len(voter))[1:], strict=True):
        needed = max(rules.fewest, rules.share * sizes[owner])
        if end - begin < needed:
            continue
        candidates = elected[begin:end]
        found = max((_largest(way[begin:end], ~is_copy[candidates]) for way in groups), key=np.count_nonzero)
        votes = np.count_nonzero(found)
        if votes >= needed:
            copies[int(owner)] = (int(candidates[found].min()), votes / int(sizes[owner]))
            is_copy[owner] = True
    return copies


def _largest(groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return which votes are for the largest group, of those that count."""
    counts = counts & (groups >= 0)
    names, votes = np.unique(groups[counts], return_counts=True)
    return counts & (groups == names[votes.argmax()]) if len(names) else counts
