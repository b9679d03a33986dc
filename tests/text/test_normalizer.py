from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import UsageError
from stages.text.normalizer import cardinal, normalize, ordinal

WRITTEN = st.lists(
    st.one_of(
        st.sampled_from("0123456789$€%.,:/-'\"()½²–’ \n\u200b\u0301=+&#"),
        st.sampled_from(["Mr.", "Dr. ", "St. ", "No. ", "1st", "a.m.", "etc. ", "90s", "Hello", "no"]),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=20,
).map("".join)


@pytest.mark.parametrize(("written", "spoken"), [
    ("I have 3 cats.", "I have three cats."),
    ("0 7 13 40 99 100 101 1,234 1,000,000", "zero seven thirteen forty ninety nine one hundred one hundred one "
     "one thousand two hundred thirty four one million"),
    ("3.14 and .5", "three point one four and point five"),
    ("version 1.2.3", "version one point two point three"),
    ("-5 outside", "minus five outside"),
    ("room 007", "room zero zero seven"),
    ("1000000000000000000", "one" + " zero" * 18),
    ("1st 2nd 3rd 12th 20th 21st 100th", "first second third twelfth twentieth twenty first one hundredth"),
    ("It costs $12.50.", "It costs twelve dollars and fifty cents."),
    ("$1 $0.50 £1.01 €2.00", "one dollar fifty cents one pound and one penny two euros"),
    ("$1,234.56", "one thousand two hundred thirty four dollars and fifty six cents"),
    ("$3.5 million", "three point five million dollars"),
    ("50% or 2.5 %", "fifty percent or two point five percent"),
    ("at 10:30, 10:05 and 10:00", "at ten thirty, ten oh five and ten o'clock"),
    ("at 9:15 a.m. or 5pm", "at nine fifteen a m or five p m"),
    ("We met at 5 p.m. Then we left.", "We met at five p m. Then we left."),
    ("in 1990, 1905, 1900, 2004 and 2012", "in nineteen ninety, nineteen oh five, nineteen hundred, two thousand four "
     "and twenty twelve"),
    ("the 1990s and the '80s", "the nineteen nineties and the eighties"),
    ("1½ cups, 3/4 of a mile, 24/7", "one and one half cups, three quarters of a mile, twenty four seven"),
    ("pages 10–20, 555-1234", "pages ten to twenty, five hundred fifty five twelve thirty four"),
    ("Mr. Fox, Mrs. Fox and Mr Hare", "Mister Fox, Missus Fox and Mister Hare"),
    ("Dr. Lee lives on Elm St. near St. Mary", "Doctor Lee lives on Elm Street near Saint Mary"),
    ("cats, dogs, etc. They", "cats, dogs, et cetera. They"),
    ("tea, etc., e.g. mint", "tea, et cetera, for example mint"),
    ("No. 5? No.", "Number five? No."),
    ("mp3 at 20°C", "mp three at twenty degrees C"),
    ("salt & pepper", "salt and pepper"),
])
def test_a_written_form_is_read_aloud_in_words(written: str, spoken: str) -> None:
    assert normalize(written) == spoken


@pytest.mark.parametrize(("written", "cleaned"), [
    ("  two \t words\r\n and  a line ", "two words and a line"),
    ("“It’s” ‘so’ — no‐break", "\"It's\" 'so' - no-break"),
    ("ﬁne ｗｉｄｅ", "fine wide"),
    ("so\x00ft\u00adly\ufeff", "softly"),
    ("cafe\u0301", "café"),
])
def test_characters_are_unified(written: str, cleaned: str) -> None:
    assert normalize(written, language="none") == cleaned


@pytest.mark.parametrize("digits", ["٣", "x²", "①", "𝟏𝟐", "፩", "೪"])
def test_digits_of_every_script_are_read(digits: str) -> None:
    spoken = normalize(digits)
    assert spoken and not any(character.isdigit() for character in spoken)


@given(WRITTEN)
@settings(max_examples=400, deadline=None)
def test_normalising_twice_changes_nothing_and_leaves_no_digit(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert not any(character.isdigit() for character in once)
    assert once == " ".join(once.split())


@given(WRITTEN)
@settings(max_examples=100, deadline=None)
def test_cleaning_alone_is_idempotent_and_keeps_digits(text: str) -> None:
    once = normalize(text, language="none")
    assert normalize(once, language="none") == once
    assert "1" in normalize(text + " 1", language="none")


@given(st.integers(0, 10**18 - 1))
@settings(max_examples=200, deadline=None)
def test_numbers_can_be_read_back(number: int) -> None:
    assert _value(cardinal(str(number))) == number


def _value(words: str) -> int:
    """Add up English number words: a slow reference for `cardinal`."""
    small = {word: value for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split())}
    small |= {word: 10 * value for value, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)}
    scales = {word: 1000**power for power, word in enumerate(
        "thousand million billion trillion quadrillion".split(), start=1)}
    total = group = 0
    for word in words.split():
        if word == "hundred":
            group *= 100
        elif word in scales:
            total, group = total + group * scales[word], 0
        else:
            group += small[word]
    return total + group


def test_ordinals_take_the_right_ending() -> None:
    spoken = [ordinal(str(number)) for number in (1, 5, 8, 9, 12, 14, 30, 42, 1000)]
    assert spoken == ["first", "fifth", "eighth", "ninth", "twelfth", "fourteenth", "thirtieth", "forty second",
                      "one thousandth"]


def test_a_lone_surrogate_is_named_with_its_position() -> None:
    with pytest.raises(UsageError, match=r"character 4 .* `U\+D800`") as error:
        normalize("abc\ud800")
    assert "UTF-8" in error.value.hint


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(UsageError, match="expected language `en` or `none`, got `xx`"):
        normalize("text", language="xx")


def test_removed_control_characters_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "halle.text"):
        assert normalize("a\x00b\x07") == "ab"
    assert "removed 2 control characters" in caplog.text


@pytest.mark.parametrize("text", ["", "  \n", "\x00\u200b"])
def test_text_without_content_becomes_empty(text: str) -> None:
    assert normalize(text) == ""
