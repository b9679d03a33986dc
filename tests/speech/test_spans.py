"""Sets of spans against a slow reference on a grid."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stages.speech.spans import Span, Turn, intersect, subtract, total_seconds, union

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: Span(*map(float, sorted(pair)))))


def seconds_of(spans):
    return {second for span in spans for second in range(int(span.start), int(span.end))}


def is_set(spans):
    return all(span.start < span.end for span in spans) and all(
        before.end < after.start for before, after in itertools.pairwise(spans)
    )


@given(SPANS)
def test_a_union_covers_what_its_spans_cover_once(spans):
    found = union(spans)
    assert is_set(found) and seconds_of(found) == seconds_of(spans)
    assert total_seconds(found) == len(seconds_of(spans))


@given(SPANS, SPANS)
def test_intersection_and_difference_are_those_of_sets(first, second):
    ours, theirs = union(first), union(second)
    assert seconds_of(intersect(ours, theirs)) == seconds_of(ours) & seconds_of(theirs)
    assert seconds_of(subtract(ours, theirs)) == seconds_of(ours) - seconds_of(theirs)
    left = subtract(ours, theirs)
    assert is_set(left) and total_seconds(left) == len(seconds_of(left))


def test_spans_a_gap_apart_become_one():
    spans = [Span(0.0, 1.0), Span(1.5, 2.0), Span(3.0, 4.0)]
    assert union(spans, gap=0.5) == [Span(0.0, 2.0), Span(3.0, 4.0)]


def test_a_turn_is_as_long_as_its_span():
    turn = Turn(1.0, 2.5, "A")
    assert turn.seconds == turn.span.seconds == 1.5
