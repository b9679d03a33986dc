"""Batches of similar lengths under a token budget, as a pure function of (seed, number).

Items are sorted by length once and cut into buckets; every epoch shuffles the items within each bucket and the
order of all batches. How many batches an epoch has never changes, so batch `number` is found without a replay,
and is the same for any number of processes: each takes its slice. Items of which an epoch holds a share only take
turns in their bucket: each is heard before any is heard again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.randomness import derive_seed

LENGTH_RATIO = 1.15  # longest to shortest of a bucket: at most 15 % of it is padding
MIN_BUCKET_BATCHES = 2  # smaller buckets grow beyond the ratio: small batches waste more than padding does


class BatchPlan:
    """Plan over lengths [items, parts] (parts of a sequence that are padded apart, such as text and frames).

    `shares` [items] say how much of its items an epoch holds: above 0 and at most 1, which is the default. The
    number that a bucket holds of them is rounded, and at least one.
    """

    def __init__(self, lengths: np.ndarray, batch_tokens: int, seed: int, shares: np.ndarray | None = None):
        if len(lengths) == 0:
            raise ValueError("a batch plan needs at least one item")
        self._seed = seed
        lengths = np.asarray(lengths, dtype=np.int64)
        self._buckets = _cut_buckets(lengths, np.ones(len(lengths)) if shares is None else shares, batch_tokens)
        self._batches = [
            (bucket, part) for bucket, found in enumerate(self._buckets) for part in range(found.num_batches)
        ]
        self._epoch = -1
        self._parts: list[list[np.ndarray]] = []
        self._order = np.arange(0)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._batches)

    def items(self, number: int) -> np.ndarray:
        """Return the item indices of global batch `number` = 0, 1, ..."""
        epoch, index = divmod(number, len(self))
        if epoch != self._epoch:
            self._shuffle(epoch)
        bucket, part = self._batches[self._order[index]]
        return self._parts[bucket][part]

    def largest(self) -> tuple[np.ndarray, int]:
        """Return the items of a batch of the most tokens, the longest ones, and how many tokens each is padded to."""
        bucket = max(self._buckets, key=lambda found: (found.most_items * found.width, found.width))
        return np.concatenate([items for items, _ in bucket.groups])[-bucket.most_items :], bucket.width

    @property
    def mean_tokens(self) -> float:
        """Tokens of an average batch when every item is padded to the longest of its bucket."""
        return sum(bucket.num_held * bucket.width for bucket in self._buckets) / len(self)

    def _shuffle(self, epoch: int) -> None:
        random = np.random.default_rng(derive_seed(self._seed, "epoch", epoch))
        self._order = random.permutation(len(self))
        self._parts = [
            np.array_split(random.permutation(bucket.held(epoch, self._seed)), bucket.num_batches)
            for bucket in self._buckets
        ]
        self._epoch = epoch


@dataclass(frozen=True)
class Bucket:
    """Items of similar lengths, `capacity` a batch. Of each group an epoch holds `quota` items.

    `width` are the tokens of one item, padded as for all of them. Items of a group are sorted by length.
    """

    groups: tuple[tuple[np.ndarray, int], ...]  # (items of one share, quota)
    capacity: int
    width: int

    @property
    def num_held(self) -> int:
        """Items of an epoch."""
        return sum(quota for _, quota in self.groups)

    @property
    def num_batches(self) -> int:
        return -(-self.num_held // self.capacity)

    @property
    def most_items(self) -> int:
        """Items of a batch, which are evenly divided among the batches."""
        return -(-self.num_held // self.num_batches)

    def held(self, epoch: int, seed: int) -> np.ndarray:
        """Return the items of an epoch."""
        return np.concatenate([in_turn(items, quota, epoch, seed) for items, quota in self.groups])


def in_turn(items: np.ndarray, quota: int, epoch: int, seed: int) -> np.ndarray:
    """Return part `epoch` of an endless row of shuffled passes over the items that is cut into parts of `quota`."""
    if quota == len(items):
        return items
    passes, places = np.divmod(np.arange(epoch * quota, (epoch + 1) * quota), len(items))
    drawn = np.empty_like(items, shape=quota)
    for number in np.unique(passes):
        order = np.random.default_rng(derive_seed(seed, "pass", int(items[0]), int(number))).permutation(items)
        drawn[passes == number] = order[places[passes == number]]
    return drawn


def _cut_buckets(lengths: np.ndarray, shares: np.ndarray, batch_tokens: int) -> list[Bucket]:
    """Return the buckets, shortest items first."""
    totals = lengths.sum(axis=1)
    held = totals * shares
    order = np.argsort(totals, kind="stable")
    groups, first = [], 0
    for stop in range(1, len(order) + 1):
        full = held[order[first:stop]].sum() >= MIN_BUCKET_BATCHES * batch_tokens
        if stop == len(order) or (full and totals[order[stop]] > LENGTH_RATIO * totals[order[first]]):
            groups.append(order[first:stop])
            first = stop
    if len(groups) > 1 and held[groups[-1]].sum() < batch_tokens:
        groups[-2:] = [np.concatenate(groups[-2:])]
    widths = [int(lengths[group].max(axis=0).sum()) for group in groups]
    return [
        Bucket(_by_share(group, shares[group]), max(1, batch_tokens // width), width)
        for group, width in zip(groups, widths, strict=True)
    ]


def _by_share(items: np.ndarray, shares: np.ndarray) -> tuple[tuple[np.ndarray, int], ...]:
    groups = [(share, items[shares == share]) for share in np.unique(shares)]
    return tuple((group, max(1, round(share * len(group)))) for share, group in groups)


def rank_slice(items: np.ndarray, rank: int, world_size: int) -> tuple[np.ndarray, bool]:
    """Return this process's items of a global batch, and whether they count.

    With fewer items than processes the others run the first item with weight 0, since every process must take part.
    """
    own = items[rank::world_size]
    return (own, True) if len(own) else (items[:1], False)


def chunks(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Yield item indices in order, as many at a time as fit the budget with padding; lengths [items, parts]."""
    first = 0
    while first < len(lengths):
        stop = first + 1
        while stop < len(lengths):
            width = int(lengths[first : stop + 1].max(axis=0).sum())
            if width * (stop + 1 - first) > batch_tokens:
                break
            stop += 1
        yield np.arange(first, stop)
        first = stop
