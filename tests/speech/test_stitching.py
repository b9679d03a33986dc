"""Windows that cover long speech, and one transcript out of theirs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.metrics.intelligibility import count_word_errors
from stages.speech.stitching import common_run, join, plan_windows, spread, stitch, stitch_all
from stages.speech.transcriber import Word

RATE = 100


def words_of(text, start=0.0, each=0.5):
    return [Word(word, start + each * index, start + each * (index + 1)) for index, word in enumerate(text.split())]


def texts(words):
    return " ".join(word.text for word in words)


def centre(word):
    return (word.start + word.end) / 2


@given(st.integers(0, 40_000), st.integers(1, 50), st.integers(0, 100))
def test_windows_cover_every_sample_and_none_is_too_long(num_samples, seconds, share):
    overlap = seconds * share / 250
    windows = plan_windows(num_samples, RATE, seconds, overlap)
    assert windows[0][0] == 0 and windows[-1][1] == num_samples
    assert all(0 <= first <= end and end - first <= seconds * RATE for first, end in windows)
    assert all(end - following >= round(overlap * RATE) for (_, end), (following, _) in pairwise(windows))
    assert all(first < following for (first, _), (following, _) in pairwise(windows))
    assert len({end - first for first, end in windows}) == 1
    # fewer windows of that length could not reach the end
    assert len(windows) == 1 or seconds * RATE + (len(windows) - 2) * (seconds * RATE - round(overlap * RATE)) \
        < num_samples


def test_thirty_seconds_are_one_window_and_a_sample_more_are_two():
    assert plan_windows(480_000, 16_000) == [(0, 480_000)]
    assert plan_windows(480_001, 16_000) == [(0, 280_001), (200_000, 480_001)]


def slow_common_run(left, right, middle, time_error):
    """Try every pair of beginnings and every length."""
    def same(first, second):
        return first.text.lower() == second.text.lower() and abs(centre(first) - centre(second)) <= time_error

    found = [((0, 0.0), (0, 0, 0))]
    for i in range(len(left)):
        for j in range(len(right)):
            for length in range(1, min(len(left) - i, len(right) - j) + 1):
                if not all(same(left[i + k], right[j + k]) for k in range(length)):
                    break
                letters = sum(len(word.text) for word in left[i : i + length])
                at = (left[i].start + left[i + length - 1].end) / 2
                found.append(((letters, -abs(at - middle)), (i, j, length)))
    return max(found, key=lambda pair: pair[0])[0], found


sentences = st.lists(st.tuples(st.sampled_from(["a", "The", "the", "cat", "sat"]), st.integers(0, 2)), max_size=7)


@given(sentences, sentences, st.floats(0, 4), st.floats(0, 3))
def test_the_longest_common_run_is_what_trying_all_of_them_finds(left, right, middle, time_error):
    def timed(pairs):
        now, words = 0.0, []
        for text, pause in pairs:
            words.append(Word(text, now + pause / 4, now + pause / 4 + 0.5))
            now = words[-1].end
        return words

    left, right = timed(left), timed(right)
    rank, all_runs = slow_common_run(left, right, middle, time_error)
    found = common_run(left, right, middle, time_error)
    assert found[2] == 0 if rank[0] == 0 else (rank, found) in all_runs


@given(st.lists(st.sampled_from(["so", "the", "train", "left", "late", "again"]), min_size=40, max_size=120),
       st.floats(-0.2, 0.2))
def test_windows_of_speech_heard_well_give_the_speech_back_however_it_repeats_itself(words, shift):
    """Each window mishears the words at its edges; times of a word differ a little from window to window."""
    whole = words_of(" ".join(words))
    spans = [(first / RATE, end / RATE) for first, end in plan_windows(50 * len(words), RATE, 15, 5)]
    heard = []
    for index, (first, end) in enumerate(spans):
        inside = [word for word in whole if first <= word.start and word.end <= end]
        if index:
            inside[0] = Word("hm", inside[0].start, inside[0].end)
        if index < len(spans) - 1:
            inside[-1] = Word("uh", inside[-1].start, inside[-1].end)
        heard.append([Word(w.text, w.start + index * shift, w.end + index * shift) for w in inside])
    assert texts(stitch_all(heard, spans, 0.45)) == " ".join(words)


def test_speech_in_a_loop_keeps_its_rounds_when_times_are_known():
    loop = words_of("the cat sat " * 12)
    left, right = [w for w in loop if w.end <= 12.0], [w for w in loop if w.start >= 6.5]
    assert texts(stitch(left, right, (6.5, 12.0), 0.5)) == texts(loop)
    assert texts(stitch(left, right, (6.5, 12.0), 3.0)) == texts(loop)  # in a round or two's doubt


def test_times_worth_less_than_the_overlap_do_not_keep_equal_words_apart():
    left, right = words_of("so the train left late"), words_of("train left late again", start=4.0)
    assert texts(stitch(left, right, (2.0, 3.0), 4.0)) == "so the train left late again"


def test_case_and_punctuation_do_not_keep_windows_apart():
    left, right = words_of("So the train left, late"), words_of("Train left late again.", start=1.0)
    assert texts(stitch(left, right, (1.0, 2.5), 0.5)) == "So the train left late again."


def test_windows_that_agree_on_nothing_are_cut_in_the_middle_of_what_they_share():
    left, right = words_of("a b c d e f"), words_of("u v w x y z", start=1.0)
    assert texts(stitch(left, right, (1.0, 3.0), 0.4)) == "a b c d w x y z"
    assert texts(stitch([], right, (1.0, 3.0), 0.4)) == "w x y z"


def test_equal_words_far_apart_in_time_are_no_meeting_place():
    left, right = words_of("the cat sat"), words_of("the cat sat", start=20.0)
    assert common_run(left, right, 10.0, 1.0) == (0, 0, 0)
    assert common_run(left, right, 10.0, 30.0) == (0, 0, 3)


def test_times_do_not_run_backwards_where_windows_estimate_them():
    left = [Word("one", 0, 1), Word("two", 1, 3), Word("three", 3, 5)]
    right = [Word("two", 0.5, 1.5), Word("three", 1.5, 2.5), Word("four", 2.5, 4)]
    found = stitch_all([left, right], [(0, 5), (0.5, 6)], 3.0)
    assert texts(found) == "one two three four"
    assert all(a.end <= b.start for a, b in pairwise(found)) and all(word.start <= word.end for word in found)


def test_a_text_is_spread_by_its_letters_and_joined_again():
    assert spread(" one two ever", 1.0, 6.0) == [Word("one", 1.0, 2.5), Word("two", 2.5, 4.0), Word("ever", 4.0, 6.0)]
    assert spread("  ", 1.0, 2.0) == []


@pytest.mark.parametrize("text", ["今天天气很好。", "สวัสดีครับ", "no spaces lost", "我用 Python 写的"])
def test_scripts_without_spaces_are_taken_letter_by_letter_and_get_none(text):
    assert join(spread(text, 0.0, 1.0)) == text
    assert len(spread("今天天气", 0.0, 1.0)) == 4


def test_windows_that_pocketsphinx_heard_are_put_together_as_well_as_sentences_are_heard():
    """Its real output for 65 s of flite speech in three windows; see the file for how it was made."""
    kept = json.loads((Path(__file__).parent / "flite_windows.json").read_text(encoding="utf-8"))
    windows = [[Word(*word) for word in window] for window in kept["windows"]]
    found = stitch_all(windows, [tuple(span) for span in kept["spans"]], 0.5)
    by_sentence = sum(count_word_errors(text, heard).total for text, heard in kept["sentences"])
    errors = count_word_errors(" ".join(text for text, _ in kept["sentences"]), texts(found))
    assert errors.words == 185
    assert errors.total <= by_sentence + 3
    careless = [word for window in windows for word in window]
    assert count_word_errors(" ".join(text for text, _ in kept["sentences"]), texts(careless)).total >= by_sentence + 30
    assert all(a.start <= b.start for a, b in pairwise(found))
