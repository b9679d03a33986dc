"""What was heard stands beside what is written, and sentences are found in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.reports.page import Words, words
from stages.reports.word_alignment import align, marked_words, sentence_spans

WORD = st.sampled_from(["red", "blue", "green", "cat"])


def edits(written, heard):
    """The Levenshtein distance of two lists, as slow as it is plain."""
    row = list(range(len(heard) + 1))
    for place, word in enumerate(written, 1):
        above, row = row, [place]
        for index, other in enumerate(heard, 1):
            row.append(min(above[index] + 1, row[-1] + 1, above[index - 1] + (word != other)))
    return row[-1]


@given(st.lists(WORD, max_size=8), st.lists(WORD, max_size=8))
def test_stretches_hold_every_word_once_and_no_more_errors_than_needed(written, heard):
    stretches = align(written, heard)
    assert [word for each in stretches for word in written[each.written]] == written
    assert [word for each in stretches for word in heard[each.heard]] == heard
    wrong = [each for each in stretches if each.kind != "same"]
    assert all(written[each.written] == heard[each.heard] for each in stretches if each.kind == "same")
    counted = sum(max(len(written[each.written]), len(heard[each.heard])) for each in wrong)
    assert counted == edits(written, heard)


def test_lost_added_and_changed_words_are_told_apart():
    found = marked_words("The quick brown fox jumps.", "the big quick crown fox")
    assert found == [Words("same", "the"), Words("added", "", "big"), Words("same", "quick"),
                     Words("changed", "brown", "crown"), Words("same", "fox"), Words("lost", "jumps")]  # fmt: skip


def test_long_stretches_without_an_error_are_counted_and_short_ones_shown():
    text = " ".join(f"w{'abcdefgh'[index // 5]}{'klmno'[index % 5]}" for index in range(40))
    assert marked_words(text, text) == [Words("elided", "40 words")]
    found = marked_words(f"start {text} end", f"{text} end")
    assert [piece.kind for piece in found] == ["lost", "same", "elided"]
    assert found[1].written == "wak wal wam wan wao" and found[2].written == "36 words"
    assert marked_words("one small step", "one small step")[0].kind == "same"


def test_signs_tell_what_colours_tell():
    html = words([Words("lost", "a"), Words("added", "", "b"), Words("changed", "c", "<d>"),
                  Words("elided", "9 words")])  # fmt: skip
    assert "<del>\u2212a</del>" in html and "<ins>+b</ins>" in html
    assert "<mark>c\u2192&lt;d&gt;</mark>" in html and "[\u2026 9 words \u2026]" in html


def test_sentences_are_where_their_words_are_heard():
    heard = [["elfa", 0.5, 1.0], ["bravo", 1.0, 2.0], ["charley", 4.0, 5.0], ["delta", 5.0, 6.0], ["foxtrot", 8.0, 9.0]]
    spans = sentence_spans("Alpha bravo. Charlie delta! Echo foxtrot?", heard, 10.0)
    assert spans == [(0.0, 3.0), (3.0, 7.0), (7.0, 10.0)]


def test_a_sentence_that_was_not_heard_has_no_length_and_the_others_fill_the_time():
    heard = [["alpha", 0.5, 1.0], ["bravo", 1.0, 2.0], ["echo", 4.0, 5.0], ["foxtrot", 5.0, 6.0]]
    spans = sentence_spans("Alpha bravo. Charlie delta. Echo foxtrot.", heard, 7.0)
    assert spans[0][0] == 0.0 and spans[-1] == (4.0, 7.0)
    assert sum(end - start for start, end in spans) == 7.0 and all(end >= start for start, end in spans)


def test_without_times_there_is_one_span():
    assert sentence_spans("One. Two.", [], 3.0) == [(0.0, 3.0)]
