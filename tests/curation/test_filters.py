"""Odd texts are found by how the rest of the corpus looks."""

from __future__ import annotations

import sys

import pytest
from takes import take

from stages.config.stage_configs import CurateConfig
from stages.curation.filters import count_repeated, filter_words
from stages.errors import MissingModelError

SENTENCE = "the quick brown fox jumps over a lazy dog and then it sleeps under that old tree until noon has come"


def corpus(count: int = 60) -> list:
    """Utterances of much the same text rate; each says something else."""
    return [take(f"r{index}-0001", f"{SENTENCE} {index} {'again' * (index % 3)}", 7.0) for index in range(count)]


def reasons(takes, **changes) -> dict[str, str]:
    kept, rejections = filter_words(takes, CurateConfig(**changes))
    assert len(kept) + len(rejections) == len(takes)
    return {rejection.recording.id: rejection.reason for rejection in rejections}


def test_texts_too_long_or_short_for_their_time_are_left_out_as_the_rest_tells():
    slow, fast = take("slow-0001", SENTENCE[:40], 7.0), take("fast-0001", SENTENCE + " " + SENTENCE[::-1], 7.0)
    assert reasons([*corpus(), slow, fast]) == {"slow-0001": "TEXT_RATE", "fast-0001": "TEXT_RATE"}
    assert reasons([slow, fast]) == {}  # two are no distribution, and both are within the fixed limits


def test_rates_are_compared_within_a_language():
    english = [take(f"e{index}-0001", SENTENCE + " x" * (index % 3), 7.0, language="en") for index in range(60)]
    chinese = [take(f"z{index}-0001", "今天天气很好我们去公园散步吧" * 2, 7.0, language="zh") for index in range(60)]
    assert reasons(chinese + english) == {}
    assert reasons([*english, take("z-0001", "今天天气很好我们去公园散步吧", 7.0, language="en")]) == {
        "z-0001": "TEXT_RATE"}


def test_loops_of_words_are_left_out_and_emphasis_is_not():
    loop = take("loop-0001", SENTENCE[:50] + " thank you" * 8, 7.0)
    emphasis = take("yes-0001", "no no no " + SENTENCE, 7.0)
    assert reasons([*corpus(), loop, emphasis]) == {"loop-0001": "REPETITION"}
    assert reasons([loop, emphasis]) == {"loop-0001": "REPETITION"}


@pytest.mark.parametrize(("text", "expected"), [
    ("a b c d", 0), ("a a", 1), ("a b c a b c", 3), ("a b a", 0), ("x a b a b a b y", 4), ("", 0), ("a b c d a b", 0),
])
def test_words_count_as_repeated_when_a_passage_is_said_again_at_once(text, expected):
    assert count_repeated(text.split()) == expected


def test_other_languages_are_left_out_when_asked_for_even_within_a_recording():
    pytest.importorskip("py3langid")
    german = "Heute ist das Wetter sehr schön und wir gehen mit den Kindern im Park spazieren, bis es dunkel wird. "
    english = "The weather is very nice today and we take the children to the park until it gets dark outside. "
    english += "When it rains, we stay at home with a good book, some tea, and a cake that our neighbour brought us."
    german += "Wenn es regnet, bleiben wir zu Hause mit einem guten Buch, etwas Tee und dem Kuchen unserer Nachbarin."
    takes = [take("en-0001", english, 13), take("en-0002", german, 13), take("en-0003", "danke schön", 1),
             take("en-0004", english[97:], 7),
             take("de-0001", german[:101], 6), take("de-0002", "okay super", 1)]
    assert reasons(takes) == {}
    expected = {"en-0002": "LANGUAGE", "de-0001": "LANGUAGE", "de-0002": "LANGUAGE"}
    assert reasons(takes, check_language=True) == expected


def test_checking_the_language_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(MissingModelError, match="py3langid") as error:
        reasons(corpus(1), check_language=True)
    assert "pip install 'halle[language]'" in error.value.hint
