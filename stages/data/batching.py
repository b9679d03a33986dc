"""Batches of similar lengths under a token budget, as a pure function of (seed, number).

Items are sorted by length once and cut into buckets; every epoch shuffles the items within each bucket and the
order of all batches. How many batches an epoch has never changes, so batch `number` is found without a replay,
and is the same for any number of processes: each takes its slice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.randomness import derive_seed

LENGTH_RATIO = 1.15  # longest to shortest of a bucket: at most 15 % of it is padding
MIN_BUCKET_BATCHES = 2  # smaller buckets grow beyond the ratio: small batches waste more than padding does


class BatchPlan:
    """Plan over lengths [items, parts] (parts of a sequence that are padded apart, such as text and frames)."""

    def __init__(self, lengths: np.ndarray, batch_tokens: int, seed: int):
        if len(lengths) == 0:
            raise ValueError("a batch plan needs at least one item")
        self._seed = seed
        self._buckets = _cut_buckets(np.asarray(lengths, dtype=np.int64), batch_tokens)
        self._batches = [
            (bucket, part)
            for bucket, (items, capacity) in enumerate(self._buckets)
            for part in range(-(-len(items) // capacity))
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

    def _shuffle(self, epoch: int) -> None:
        random = np.random.default_rng(derive_seed(self._seed, "epoch", epoch))
        self._order = random.permutation(len(self))
        self._parts = [
            np.array_split(random.permutation(items), -(-len(items) // capacity)) for items, capacity in self._buckets
        ]
        self._epoch = epoch


def _cut_buckets(lengths: np.ndarray, batch_tokens: int) -> list[tuple[np.ndarray, int]]:
    """Return (items, items a batch) of every bucket, shortest first."""
    totals = lengths.sum(axis=1)
    order = np.argsort(totals, kind="stable")
    groups, first = [], 0
    for stop in range(1, len(order) + 1):
        full = totals[order[first:stop]].sum() >= MIN_BUCKET_BATCHES * batch_tokens
        if stop == len(order) or (full and totals[order[stop]] > LENGTH_RATIO * totals[order[first]]):
            groups.append(order[first:stop])
            first = stop
    if len(groups) > 1 and totals[groups[-1]].sum() < batch_tokens:
        groups[-2:] = [np.concatenate(groups[-2:])]
    return [(group, max(1, batch_tokens // int(lengths[group].max(axis=0).sum()))) for group in groups]


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
