from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.text.normalizer import normalize
from stages.text.sentences import split_sentences


@pytest.mark.parametrize(("text", "sentences"), [
    ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
    ('"Stop!" he said. "Why?" She left.', ['"Stop!" he said.', '"Why?"', "She left."]),
    ("Well... maybe. (Yes.) No", ["Well... maybe.", "(Yes.)", "No"]),
    ("Dr. Lee paid $3.50 in the U.S. on Jan. 5. She left at 5 p.m. sharp.",
     ["Doctor Lee paid three dollars and fifty cents in the U S on January fifth.", "She left at five p m sharp."]),
    ("", []),
])
def test_sentences_end_at_marks_and_not_at_abbreviations(text: str, sentences: list[str]) -> None:
    assert list(split_sentences(normalize(text))) == sentences


@given(st.text(alphabet="aB.!?\"') ", max_size=30))
def test_sentences_joined_are_the_text(text: str) -> None:
    text = normalize(text)
    assert " ".join(split_sentences(text)) == text
