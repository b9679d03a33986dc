"""The items of a corpus are made when they are asked for, and are the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.artifacts.manifest import Utterance
from stages.text import corpus
from stages.text.corpus import Items, apply_policy
from stages.text.tokenizer import TextTokenizer

TEXTS = ["Plain words.", "...", "na語ve words", "only 東 here", "東東"]


@pytest.fixture
def items() -> Items:
    return Items([Utterance(f"u{number}", Path("a.wav"), 0.0, 1.0, "s", text, "train")
                  for number, text in enumerate(TEXTS)])


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["plain words only here naive.", "..."], 40)


def test_items_keep_their_order_and_are_made_when_asked_for(items, monkeypatch):
    assert [item.utterance.id for item in items] == [f"u{number}" for number in range(5)]
    assert items[1:3] == [items[1], items[2]] and items[-1].utterance.id == "u4"
    assert [bool(item.rejection) for item in items] == [False, True, False, False, False]
    made = []
    monkeypatch.setattr(corpus, "normalize", lambda text: made.append(text) or text)
    later = Items(items.utterances)
    assert len(later) == 5 and made == []
    assert later[2].text == made[0] == "na語ve words" and len(made) == 1


@pytest.mark.parametrize("policy, reasons, texts", [
    ("skip", [None, "NO_TEXT", "UNKNOWN_CHARACTERS", "UNKNOWN_CHARACTERS", "UNKNOWN_CHARACTERS"], ["", "", ""]),
    ("drop", [None, "NO_TEXT", None, None, "NO_TEXT"], ["nave words", "only here", ""]),
])
def test_a_policy_changes_items_with_unknown_characters_only(items, tokenizer, policy, reasons, texts):
    changed, dropped = apply_policy(items, tokenizer, policy)
    assert [item.rejection and item.rejection["reason"] for item in changed] == reasons
    assert [item.text for item in changed[2:]] == texts and changed[0] == items[0]
    assert dropped == ({"東": 3, "語": 1} if policy == "drop" else {})
    plain = Items(items.utterances[:2])
    assert apply_policy(plain, tokenizer, policy) == (plain, {})
