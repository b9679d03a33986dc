from __future__ import annotations

import pytest

from stages.curation.repetition import has_phrase_loop, is_repetitive

PROSE = ("The north wind and the sun were disputing which of them was the stronger, when a traveller came along "
         "wrapped in a warm cloak. They agreed that the one who first made the traveller take his cloak off should be "
         "considered stronger than the other.")


@pytest.mark.parametrize("text", [
    "Thank you for watching. " * 12,  # compresses
    "so you know you know you know you know you know",  # five rounds of two words
    "I want to go home I want to go home I want to go home.",  # three of five words
    "the the the the the end",
])
def test_loops_are_found(text):
    assert is_repetitive(text)


@pytest.mark.parametrize("text", [PROSE, "", "no no no no", "three three four three three", "very very good",
                                  "I want to go home. I want to go home!", "r u b o u t g m e f three nine"])
def test_what_people_say_is_no_loop(text):
    assert not is_repetitive(text)


def test_a_loop_is_found_wherever_it_begins():
    words = PROSE.lower().split()
    assert has_phrase_loop([*words[:9], *(words[9:13] * 5), *words[20:]])
    assert not has_phrase_loop([*words[:9], *(words[9:13] * 4), *words[20:]])
