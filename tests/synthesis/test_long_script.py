"""Scripts are split where a reader would pause, and nothing of them is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.synthesis import long_script
from stages.synthesis.long_script import (
    Piece,
    Room,
    Sentence,
    one_piece,
    paragraphs_of,
    plan_pieces,
    sentences_of,
    split_piece,
)
from stages.text.normalizer import normalize


def letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def texts(pieces) -> list[str]:
    return [piece.text for piece in pieces]


@pytest.mark.parametrize("paragraph, sentences", [
    ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
    ("Mr. Smith paid $3.50 to Dr. J. Jones. He left.", ["Mr. Smith paid $3.50 to Dr. J. Jones.", "He left."]),
    ("So do I. They too.", ["So do I.", "They too."]),
    ('"Go away!" he said. "Now."', ['"Go away!" he said.', '"Now."']),
    ("Well... ... Yes.", ["Well...", "... Yes."]),
    ("It was -5°C. We met J. Doe. He left.", ["It was -5°C.", "We met J. Doe.", "He left."]),
    ("He was born to A. Then B. came. They left. So did we.", ["He was born to A. Then B. came.", "They left.",
                                                               "So did we."]),
    ("no full stop at all", ["no full stop at all"]),
])
def test_sentences_end_where_the_text_read_aloud_ends_them(paragraph, sentences):
    assert sentences_of(paragraph) == sentences


def test_every_blank_line_is_a_pause_and_a_line_break_is_none():
    script = "\n\n First line\nof the first.  \n \nSecond.\n\n\nThird.\n***\n\n* * *\n\nFourth.\n\n"
    assert paragraphs_of(script) == [(0, "First line of the first."), (1, "Second."), (2, "Third. ***"), (2, "Fourth.")]
    pieces = plan_pieces(script, letters, Room(1000, 1000), pause_seconds=0.5)
    assert [(piece.text, piece.pause_seconds) for piece in pieces] == [
        ("First line of the first.", 0.0), ("Second.", 0.5), ("Third. ***", 1.0), ("Fourth.", 1.0)]


def test_one_piece_holds_the_whole_script_and_says_that_there_are_no_pauses(caplog):
    pieces = one_piece("One. Two.\n\nThree.", letters)
    assert texts(pieces) == ["One. Two. Three."] and pieces[0].pause_seconds == 0
    assert "not made pauses" in caplog.text


def test_pieces_are_as_few_as_can_be_and_about_equally_full():
    script = " ".join(["Ten letters."] * 11)  # of ten letters each
    pieces = plan_pieces(script, letters, Room(first=50, later=50), pause_seconds=0)
    assert [piece.tokens for piece in pieces] == [40, 40, 30] or [piece.tokens for piece in pieces] == [30, 40, 40]
    assert len(plan_pieces(script, letters, Room(110, 10), 0)) == 1
    assert [piece.tokens for piece in plan_pieces(script, letters, Room(20, 100), 0)] == [20, 90]


def test_a_sentence_without_room_is_split_at_commas_and_else_between_words(caplog):
    script = "aaaa bbbb cccc, dddd eeee ffff gggg hhhh iiii."
    pieces = plan_pieces(script, letters, Room(16, 16), 0)
    assert texts(pieces) == ["aaaa bbbb cccc,", "dddd eeee ffff gggg", "hhhh iiii."]
    assert [piece.sentences[-1].goes_on for piece in pieces] == [True, True, False]
    assert "longer than one pass" in caplog.text


words = st.lists(st.text("abcDEF1", min_size=1, max_size=9), min_size=1, max_size=6)
sentence = st.tuples(words, st.sampled_from([".", "!", "?", ",", ""])).map(lambda pair: " ".join(pair[0]) + pair[1])
scripts = st.lists(st.lists(sentence, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=4).map("\n\n".join)


@settings(max_examples=40, deadline=None)
@given(scripts, st.integers(9, 40), st.integers(9, 40))
def test_no_word_is_lost_or_moved_and_no_piece_is_too_long(script, first, later):
    room = Room(first, later)
    pieces = plan_pieces(script, letters, room, 1.0)
    assert " ".join(texts(pieces)).split() == script.split()
    for index, piece in enumerate(pieces):
        assert piece.tokens <= room.of(index)
        assert piece.sentences and all(sentence.tokens <= min(room.first, room.later) for sentence in piece.sentences)
    assert sum(piece.pause_seconds for piece in pieces) == script.count("\n\n")


def test_a_word_without_room_is_spoken_in_one_and_that_is_said(caplog):
    pieces = plan_pieces("x" * 50, letters, Room(20, 20), 0.7)
    assert texts(pieces) == ["x" * 50]
    assert "a single word, it is not split" in caplog.text


def test_the_time_to_find_sentences_grows_with_the_text_not_with_its_square():
    read = []

    def characters(paragraph: str) -> int:
        read.clear()
        assert len(sentences_of(paragraph)) == paragraph.count(".")
        return sum(map(len, read))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_script, "normalize", lambda text: read.append(text) or normalize(text))
        assert characters("The old garden is here. " * 80) < 5 * characters("The old garden is here. " * 20)


def test_a_piece_splits_after_any_of_its_words_and_no_word_is_lost():
    piece = Piece((Sentence("One two three.", 14), Sentence("Four five.", 10, goes_on=True)), pause_seconds=0.7)
    for number in range(6):
        first, rest = split_piece(piece, number, len)
        assert f"{first.text} {rest.text}".strip() == piece.text and len(first.text.split()) == number
        assert first.pause_seconds == 0.7 and rest.pause_seconds == 0
    first, rest = split_piece(piece, 2, len)
    assert first.sentences == (Sentence("One two", 7, goes_on=True),)
    assert rest.sentences == (Sentence("three.", 6), Sentence("Four five.", 10, goes_on=True))
