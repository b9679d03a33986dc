"""Stretches of time, with and without a speaker, and sets made of them.

A set is a sorted list of spans that do not touch; `union` makes one of any spans. Seconds throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Span:
    """From `start` to `end`, in seconds from the beginning of a recording."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, order=True)
class Turn:
    """A span in which `speaker` talks. Turns of different speakers may overlap."""

    start: float
    end: float
    speaker: str

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def span(self) -> Span:
        return Span(self.start, self.end)


def union(spans: Iterable[Span], gap: float = 0.0) -> list[Span]:
    """Return the set that the spans cover; those at most `gap` seconds apart become one."""
    found: list[Span] = []
    for span in sorted(span for span in spans if span.end > span.start):
        if found and span.start <= found[-1].end + gap:
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def intersect(first: Sequence[Span], second: Sequence[Span]) -> list[Span]:
    """Return what two sets have in common."""
    found, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        start, end = max(first[i].start, second[j].start), min(first[i].end, second[j].end)
        if start < end:
            found.append(Span(start, end))
        if first[i].end < second[j].end:
            i += 1
        else:
            j += 1
    return found


def subtract(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """Return what is left of one set without another."""
    if not spans:
        return []
    edges = [spans[0].start, *(edge for span in taken for edge in (span.start, span.end)), spans[-1].end]
    free = [Span(left, right) for left, right in zip(edges[::2], edges[1::2], strict=True) if left < right]
    return intersect(spans, free)


def total_seconds(spans: Iterable[Span | Turn]) -> float:
    """Return the sum of lengths; of a set, the seconds that it covers."""
    return sum(span.end - span.start for span in spans)
