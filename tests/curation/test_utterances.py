from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.curation.utterances import (
    BAD_SEGMENT,
    NO_PAUSE,
    NO_SPEAKER,
    NO_SPEECH,
    NO_TEXT,
    OVERLAP,
    TOO_LONG,
    TOO_SHORT,
    CutRules,
    Dropped,
    cut_utterances,
    overlaps,
    partition,
    sound_turns,
    sound_words,
)
from stages.speech.spans import Span, Turn, total_seconds, union
from stages.speech.transcriber import Word

SHORT = CutRules(min_seconds=1.0, max_seconds=6.0)


def say(*spans: tuple[float, float]) -> list[Word]:
    return [Word(f"w{index}", *span) for index, span in enumerate(spans)]


def speech_of(words: list[Word], gap: float = 0.1) -> list[Span]:
    return union((Span(word.start, word.end) for word in words), gap)


def texts(cut) -> list[str]:
    return [one.text for one in cut.utterances]


def reasons(cut) -> list[str]:
    return [one.reason for one in cut.dropped]


def test_one_speaker_s_consecutive_turns_become_one_utterance_with_little_silence_around():
    words = say((1.0, 2.0), (2.1, 3.0), (4.0, 5.0))
    cut = cut_utterances(10.0, speech_of(words), [Turn(1, 3, "A"), Turn(4, 5, "A")], words, SHORT)
    assert texts(cut) == ["w0 w1 w2"]
    assert (cut.utterances[0].start, cut.utterances[0].end) == (0.8, 5.2)
    assert [(drop.start, drop.end, drop.reason) for drop in cut.dropped] == [(0, 0.8, NO_SPEECH), (5.2, 10, NO_SPEECH)]


def test_two_speakers_are_two_utterances_that_begin_and_end_in_the_pause():
    words = say((0.5, 2.0), (2.6, 4.0))
    cut = cut_utterances(4.5, speech_of(words), [Turn(0.5, 2.1, "A"), Turn(2.5, 4, "B")], words, SHORT)
    assert [(one.speaker, one.start, one.end) for one in cut.utterances] == [("A", 0.3, 2.2), ("B", 2.4, 4.2)]


def test_where_two_speak_at_once_nothing_is_kept_up_to_the_next_pause():
    words = say((0.5, 2.0), (2.5, 3.0), (3.0, 3.6), (3.6, 4.0), (4.5, 6.0))
    turns = [Turn(0.5, 3.6, "A"), Turn(3.0, 6.0, "B")]
    cut = cut_utterances(7.0, speech_of(words), turns, words, SHORT)
    assert texts(cut) == ["w0", "w4"]
    assert cut.utterances[0].end <= 2.5
    assert cut.utterances[1].start >= 4.0
    assert OVERLAP in reasons(cut) or NO_PAUSE in reasons(cut)


def test_a_speaker_who_follows_without_a_pause_may_overlap_so_utterances_end_at_the_pauses_around():
    words = say((0.5, 2.0), (2.5, 3.0), (3.0, 3.6), (4.0, 6.0))
    cut = cut_utterances(7.0, speech_of(words), [Turn(0.5, 3.0, "A"), Turn(3.0, 6.0, "B")], words, SHORT)
    assert texts(cut) == ["w0", "w3"]
    assert NO_PAUSE in reasons(cut)


def test_words_up_to_a_pause_are_left_out_where_another_speaker_is_near_and_may_overlap_unheard():
    words = say((0.5, 2.0), (2.6, 4.0), (5.0, 7.0), (7.5, 9.0), (11.0, 12.0))
    turns = [Turn(0.5, 4.0, "A"), Turn(5.0, 9.0, "B"), Turn(11.0, 12.0, "A")]
    cut = cut_utterances(12.5, speech_of(words), turns, words, replace(SHORT, handover=1.5))
    assert texts(cut) == ["w0", "w3", "w4"], "two seconds before the last, nobody is near"
    assert [(drop.reason, drop.start, drop.end) for drop in cut.dropped if drop.reason == "NO_PAUSE"] == [
        ("NO_PAUSE", 2.6, 4.0), ("NO_PAUSE", 5.0, 7.0)]
    assert texts(cut_utterances(12.5, speech_of(words), turns, words, SHORT)) == ["w0 w1", "w2 w3", "w4"]


def test_a_brief_word_of_somebody_else_within_a_turn_ends_the_utterance():
    words = say((0.5, 2.0), (3.0, 5.0))
    turns = [Turn(0.5, 2.0, "A"), Turn(2.3, 2.7, "B"), Turn(3.0, 5.0, "A")]
    cut = cut_utterances(6.0, [*speech_of(words), Span(2.3, 2.7)], turns, words, SHORT)
    assert texts(cut) == ["w0", "w1"]


def test_an_utterance_ends_at_a_long_pause_and_at_speech_without_words():
    words = say((0.5, 2.0), (4.5, 6.0), (8.0, 9.5))
    speech = [Span(0.5, 2.0), Span(4.5, 6.0), Span(6.2, 7.8), Span(8.0, 9.5)]
    cut = cut_utterances(10.0, speech, [Turn(0.5, 9.5, "A")], words, CutRules(1.0, 30.0))
    assert texts(cut) == ["w0", "w1", "w2"]
    assert NO_TEXT in reasons(cut)


def test_a_run_that_is_too_long_is_cut_in_its_longest_pause():
    words = say((0.0, 1.0), (1.2, 2.2), (2.3, 3.3), (4.1, 5.1), (5.3, 6.3), (6.5, 7.5))
    cut = cut_utterances(7.5, speech_of(words, 0.0), [Turn(0, 7.5, "A")], words, SHORT)
    assert texts(cut) == ["w0 w1 w2", "w3 w4 w5"]
    assert (cut.utterances[0].end, cut.utterances[1].start) == (3.5, 3.9)


def test_a_short_pause_is_shared_and_cut_where_the_sound_is_quietest():
    words = say((0.0, 3.0), (3.3, 6.3))
    cut = cut_utterances(6.3, speech_of(words), [Turn(0, 6.3, "A")], words, SHORT, lambda start, end: end - 0.02)
    assert (cut.utterances[0].end, cut.utterances[1].start) == (3.28, 3.28)


def test_pauses_of_voice_activity_correct_the_times_of_words():
    """The recogniser ends the first word 0.2 s early; the cut waits for the end of the speech."""
    words = say((0.0, 2.8), (4.0, 6.5))
    cut = cut_utterances(6.5, [Span(0.0, 3.0), Span(3.9, 6.5)], [Turn(0, 6.5, "A")], words, SHORT)
    assert (cut.utterances[0].end, cut.utterances[1].start) == (3.2, 3.7)


def test_what_is_too_short_or_cannot_be_cut_is_dropped_with_its_length():
    words = say((0.0, 0.5), (4.0, 12.0))
    cut = cut_utterances(12.0, speech_of(words), [Turn(0, 12, "A")], words, SHORT)
    assert texts(cut) == []
    assert {drop.reason: drop.detail for drop in cut.dropped if drop.detail} == {
        TOO_SHORT: "expected at least 1 s, got 0.70", TOO_LONG: "expected at most 6 s, got 8.20"}


def test_words_of_nobody_belong_to_no_utterance():
    words = say((0.5, 2.0), (5.0, 6.0))
    cut = cut_utterances(7.0, speech_of(words), [Turn(0.5, 2.0, "A")], words, SHORT)
    assert texts(cut) == ["w0"]
    assert NO_SPEAKER in reasons(cut)


def test_stretches_that_were_not_understood_keep_their_reason():
    words = say((0.5, 2.0), (8.0, 9.5))
    cut = cut_utterances(10.0, [Span(0.5, 9.5)], [Turn(0.5, 9.5, "A")], words, SHORT,
                         refused=[Dropped(2.5, 7.5, "REPETITION")])
    assert "REPETITION" in reasons(cut)


def test_turns_and_words_that_cannot_be_are_counted_one_by_one():
    """Case 32: zero-length, negative, outside, and overlapping turns of one speaker."""
    turns = [Turn(1, 3, "A"), Turn(2, 4, "A"), Turn(5, 5, "A"), Turn(6, 5, "B"), Turn(20, 25, "B"), Turn(-3, -1, "B")]
    good, bad = sound_turns(turns, 10.0)
    assert good == [Turn(1, 3, "A"), Turn(3, 4, "A")]
    assert [drop.reason for drop in bad] == [BAD_SEGMENT] * 5
    words = [*say((1.0, 3.9)), Word("back", 3.0, 2.0), Word("beyond", 11.0, 12.0)]
    cut = cut_utterances(10.0, [Span(1.0, 3.9)], turns, words, SHORT)
    assert texts(cut) == ["w0"]
    assert reasons(cut).count(BAD_SEGMENT) == 7
    assert {drop.end - drop.start for drop in cut.dropped if drop.reason == BAD_SEGMENT} == {0.0}


def test_words_whose_times_overlap_follow_one_another():
    words, bad = sound_words([Word("two", 2.5, 4.0), Word("one", 1.0, 3.0), Word("in", 2.6, 2.8)], 3.5)
    assert words == [Word("one", 1.0, 3.0), Word("two", 3.0, 3.5), Word("in", 3.5, 3.5)]
    assert not bad


def test_overlaps_are_where_two_or_more_speak():
    turns = [Turn(0, 4, "A"), Turn(3, 6, "B"), Turn(5, 7, "C"), Turn(3.5, 3.8, "C"), Turn(6.5, 9, "A")]
    assert overlaps(turns) == [Span(3, 4), Span(5, 6), Span(6.5, 7)]


# ---- properties

seconds_of_gap = st.floats(0.0, 3.0).map(lambda value: round(value, 2))
seconds_of_word = st.floats(0.0, 2.5).map(lambda value: round(value, 2))


@st.composite
def scenes(draw):
    """Any words, turns that may lie anywhere, and speech that has little to do with either."""
    now, words = 0.0, []
    for index in range(draw(st.integers(0, 12))):
        now += draw(seconds_of_gap)
        end = now + draw(seconds_of_word)
        words.append(Word(f"w{index}", now, end))
        now = end
    length = now + draw(seconds_of_gap) + 0.013
    place = st.floats(-1.0, length + 1.0)
    turns = [Turn(*draw(st.tuples(place, place)), draw(st.sampled_from("ABC"))) for _ in range(draw(st.integers(0, 6)))]
    turns += draw(st.sampled_from([[], [Turn(0.0, length, "A")],
                                   [Turn(0.0, length / 2, "A"), Turn(length / 2, length, "B")]]))
    spans = [Span(*sorted(draw(st.tuples(place, place)))) for _ in range(draw(st.integers(0, 4)))]
    if draw(st.booleans()):
        spans += [Span(word.start, word.end) for word in words]
    return length, union(spans), turns, words


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_utterances_and_what_is_dropped_tile_any_recording_exactly(scene):
    length, speech, turns, words = scene
    cut = cut_utterances(length, speech, turns, words, SHORT)
    parts = sorted([*cut.utterances, *cut.dropped], key=lambda part: (part.start, part.end))
    parts = [part for part in parts if part.start < part.end]
    assert parts[0].start == 0.0
    assert parts[-1].end == length
    assert all(left.end == right.start for left, right in pairwise(parts))
    assert all(SHORT.min_seconds <= one.end - one.start <= SHORT.max_seconds for one in cut.utterances)


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_an_utterance_holds_whole_words_of_one_speaker_and_all_of_them(scene):
    """Against the words themselves, one by one, whatever the turns."""
    length, speech, turns, words = scene
    cut = cut_utterances(length, speech, turns, words, SHORT)
    for one in cut.utterances:
        assert len({word.text for word in one.words}) == len(one.words)
        for word in words:
            mine = word in one.words
            inside = min(word.end, one.end) - max(word.start, one.start)
            assert inside >= word.end - word.start - 2 * SHORT.time_error - 0.002 if mine else inside <= 0.051 + 1e-9
    kept = [word for one in cut.utterances for word in one.words]
    assert [word.text for word in kept] == sorted((word.text for word in kept), key=lambda text: int(text[1:]))


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_no_utterance_holds_more_than_a_moment_of_somebody_else(scene):
    length, speech, turns, words = scene
    cut = cut_utterances(length, speech, turns, words, SHORT)
    good, _ = sound_turns(turns, length)
    for one in cut.utterances:
        for left, right in pairwise(one.words):
            others = union(Span(max(turn.start, left.end), min(turn.end, right.start)) for turn in good
                           if turn.speaker != one.speaker)
            assert total_seconds(others) <= 0.25 + 1e-6


def slow_partition(starts, ends, pauses, rules) -> float:
    """Try every set of cuts; return what the best costs."""
    def cost(cuts):
        borders = [0, *cuts, len(starts)]
        lengths = [ends[j - 1] - starts[i] for i, j in pairwise(borders)]
        lost = sum(length for length in lengths if not rules.min_seconds <= length <= rules.max_seconds)
        return 1000.0 * lost + sum(1 / (pauses[cut - 1] + 0.1) for cut in cuts)

    inner = range(1, len(starts))
    return min(cost(cuts) for count in range(len(starts)) for cuts in combinations(inner, count))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 2.0), st.floats(0.05, 4.0)), min_size=1, max_size=8))
def test_a_run_is_cut_as_the_best_of_all_sets_of_cuts_would(gaps_and_words):
    starts, ends, now = [], [], 0.0
    for gap, word in gaps_and_words:
        starts.append(now + gap)
        now = starts[-1] + word
        ends.append(now)
    pauses = [right - left for left, right in zip(ends[:-1], starts[1:], strict=True)]
    cuts = partition(starts, ends, pauses, SHORT)
    borders = [0, *cuts, len(starts)]
    lengths = [ends[j - 1] - starts[i] for i, j in pairwise(borders)]
    lost = sum(length for length in lengths if not SHORT.min_seconds <= length <= SHORT.max_seconds)
    cost = 1000.0 * lost + sum(1 / (pauses[cut - 1] + 0.1) for cut in cuts)
    assert cost == pytest.approx(slow_partition(starts, ends, pauses, SHORT))
