"""Words of a script and words that were heard."""

import time
from itertools import pairwise

from heard import LETTER, say
from hypothesis import given
from hypothesis import strategies as st
from jiwer import process_characters

from stages.speech.alignment import align, edits, equal_words, num_letters, spoken_words, timed_words
from stages.speech.transcriber import Transcript, Word

SCRIPT = "the train left an hour late because of heavy snow".split()


def test_script_and_recogniser_meet_in_words_as_they_are_said():
    said = "mister o'neill's twenty one cats all well fed"
    assert spoken_words("Mr. O'Neill's 21 cats -- all well-fed!") == said.split()
    heard = timed_words(Transcript("21 Cats", (Word("21", 0.5, 1.0), Word("Cats,", 1.0, 1.4))), 2.0)
    assert heard == [Word("twenty", 0.5, 1.0), Word("one", 0.5, 1.0), Word("cats", 1.0, 1.4)]


def test_words_without_times_are_spread_by_their_letters():
    assert timed_words(Transcript("one two ever"), 5.0) == [
        Word("one", 0.0, 1.5), Word("two", 1.5, 3.0), Word("ever", 3.0, 5.0)]
    assert timed_words(Transcript(""), 5.0) == []


def letters_changed(first, second):
    if not (first and second):
        return len(first) + len(second)
    result = process_characters(first, second)
    return result.substitutions + result.insertions + result.deletions


def slow_cost(script, heard):
    """The cheapest alignment by trying every first step."""
    if not (script and heard):
        return sum(map(len, [*script, *heard]))
    mistaken = 0 if script[0] == heard[0] else letters_changed(script[0], heard[0]) + 0.5
    return min(slow_cost(script[1:], heard[1:]) + mistaken, slow_cost(script[1:], heard) + len(script[0]),
               slow_cost(script, heard[1:]) + len(heard[0]))


few_words = st.lists(st.sampled_from("a the cat bat sat down".split()), max_size=5)


@given(few_words, few_words)
def test_edits_are_a_cheapest_way_from_one_text_to_the_other(script, heard):
    steps = edits(script, heard)
    assert [step.script for step in steps if step.script is not None] == list(range(len(script)))
    assert [step.heard for step in steps if step.heard is not None] == list(range(len(heard)))
    cost = 0.0
    for step in steps:
        if step.script is None or step.heard is None:
            cost += len(script[step.script] if step.heard is None else heard[step.heard])
        else:
            assert step.equal == (script[step.script] == heard[step.heard])
            cost += 0 if step.equal else letters_changed(script[step.script], heard[step.heard]) + 0.5
    assert cost == slow_cost(script, heard)


def test_three_minutes_of_words_are_aligned_in_a_moment():
    script = [f"word{number % 97}" for number in range(600)]
    began = time.perf_counter()
    steps = edits(script, script[:300] + script[310:])
    assert time.perf_counter() - began < 2.0
    assert sum(step.heard is None for step in steps) == 10


@given(st.lists(st.sampled_from("a the cat sat down".split()), max_size=8),
       st.lists(st.sampled_from("a the cat sat down".split()), max_size=8))
def test_pairs_are_equal_words_in_order(script, heard):
    pairs = equal_words(script, heard)
    assert all(script[i] == heard[j] for i, j in pairs)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))
    assert script != heard or len(pairs) == len(script)


def test_text_heard_as_written_is_one_anchor_between_two_empty_gaps():
    spoken = align(SCRIPT, timed_words(say(" ".join(SCRIPT), start=0.3), 9.0), 9.0, 5, 1.0)
    assert [(gap.script, gap.heard) for gap in spoken.gaps] == [((), ()), ((), ())]
    assert spoken.gaps[0].start == 0.0 and spoken.gaps[0].end == 0.3 and spoken.gaps[1].end == 9.0
    assert spoken.letters_heard == num_letters(SCRIPT)
    assert abs(spoken.seconds_heard - LETTER * num_letters(SCRIPT)) < 1e-9


def test_mistaken_words_are_a_gap_with_hardly_a_surplus_and_short_matches_do_not_divide_it():
    spoken = align(SCRIPT, timed_words(say("the train left in our rate be cause of heavy snow"), 5.0), 5.0, 8, 1.0)
    first, middle, last = spoken.gaps
    assert first.script == () == last.script
    assert middle.script == tuple("an hour late because".split()) and middle.first == 3
    assert middle.heard == tuple("in our rate be cause".split()) and middle.surplus_letters == -1
    assert middle.start == LETTER * len("thetrainleft")


def test_a_lone_short_word_is_no_anchor():
    heard = timed_words(say("gamma the delta"), 5.0)
    assert len(align(["alpha", "the", "omega"], heard, 5.0, 4, 1.0).gaps) == 1
    assert len(align(["alpha", "the", "omega"], heard, 5.0, 3, 1.0).gaps) == 2


def test_a_pause_inside_what_was_heard_as_written_is_a_gap_without_words():
    heard = timed_words(say(" ".join(SCRIPT), pauses={4: 1.5}), 9.0)
    _, pause, _ = align(SCRIPT, heard, 9.0, 5, 1.0).gaps
    assert (pause.script, pause.heard, round(pause.end - pause.start, 6)) == ((), (), 1.5)
    assert len(align(SCRIPT, heard, 9.0, 5, 2.0).gaps) == 2


def test_nothing_heard_is_one_gap_from_beginning_to_end():
    gap, = align(SCRIPT, [], 5.0, 5, 1.0).gaps
    assert (gap.script, gap.heard, gap.start, gap.end) == (tuple(SCRIPT), (), 0.0, 5.0)
