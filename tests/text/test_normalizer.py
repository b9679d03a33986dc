from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import UsageError
from stages.text.normalizer import Normalised, normalize, normalize_with_changes
from stages.text.numbers import cardinal, ordinal, roman, to_roman

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
PLAIN_WORDS = [word for line in (SPEECH / "sentences.txt").read_text(encoding="utf-8").splitlines()
               for word in line.split() if len(word) > 2]
PLAIN_WORDS += ["I", "a", "OK", "NASA", "don't", "mother-in-law", "May", "Sun.", "sat.", "no.", "us", "WHO", "am",
                '"Yes,"', "(really)", "wait...", "VI", "she;", "in:", "café"]
WRITTEN = st.lists(
    st.one_of(
        st.sampled_from("0123456789$€%.,:/-'\"()½²–’ \n\u200b\u0301=+&#"),
        st.sampled_from(["Mr.", "Dr. ", "St. ", "No. ", "1st", "a.m.", "etc. ", "90s", "Hello", "no", "Jan. ", "U.S.",
                         "FBI", "Henry VIII", "www.a.com", "@b.org", "pp. ", " km", "/h", "USD", "x", "–", "J. "]),
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
    ("pages 10–20, 3-1", "pages ten to twenty, three one"),
    ("Mr. Fox, Mrs. Fox and Mr Hare", "Mister Fox, Missus Fox and Mister Hare"),
    ("Dr. Lee lives on Elm St. near St. Mary", "Doctor Lee lives on Elm Street near Saint Mary"),
    ("cats, dogs, etc. They", "cats, dogs, et cetera. They"),
    ("tea, etc., e.g. mint", "tea, et cetera, for example mint"),
    ("No. 5? No.", "Number five? No."),
    ("mp3 at 20°C", "mp three at twenty degrees Celsius"),
    ("salt & pepper", "salt and pepper"),
    ("On Jan. 5, 2024, March 3rd and 5 May 1999", "On January fifth, twenty twenty four, March third and the fifth of "
     "May, nineteen ninety nine"),
    ("2024-01-05, 1/31/2024, 31/1/2024 and 31.12.1999", "January fifth, twenty twenty four, January thirty first, "
     "twenty twenty four, January thirty first, twenty twenty four and December thirty first, nineteen ninety nine"),
    ("the 5th of May; May 5-7; in Dec. we left", "the fifth of May; May fifth to seventh; in December we left"),
    ("2024-11-29T08:15:30Z, 2024-11-29T08:00 or 2024-11-29T23:05:01+01:00", "November twenty ninth, twenty twenty "
     "four eight fifteen and thirty seconds U T C, November twenty ninth, twenty twenty four eight o'clock or November "
     "twenty ninth, twenty twenty four twenty three oh five and one second U T C plus one"),
    ("Springfield, IL 62704 and Waco, TX 76701-1234", "Springfield, IL six two seven zero four and Waco, T X seven six "
     "seven zero one, one two three four"),
    ("10-12 people, a 3-2 win", "ten to twelve people, a three two win"),
    ("13/13/2024", "thirteen thirteen twenty twenty four"),
    ("(555) 123-4567 or 555-1234", "five five five, one two three, four five six seven or "
     "five five five, one two three four"),
    ("+44 20 7946 0958", "plus four four, two zero, seven nine four six, zero nine five eight"),
    ("$5-10, €2bn, US$3M and 50¢", "five to ten dollars, two billion euros, three million U S dollars and fifty cents"),
    ("20 € or 50 USD, $2/lb", "twenty euros or fifty dollars, two dollars per pound"),
    ("1 kg, 5.5 km, 10 m2 and 60 mph", "one kilogram, five point five kilometers, ten square meters and sixty miles "
     "per hour"),
    ("a 5-km run, 6 ft. long, 7 oz.", "a five kilometer run, six feet long, seven ounces."),
    ("5–10 km, 5-10%, 2-3 days, pp. 4-6, 1914-18", "five to ten kilometers, five to ten percent, two to three days, "
     "pages four to six, nineteen fourteen to eighteen"),
    ("9am-5pm, 10:30-11:00", "nine a m to five p m, ten thirty to eleven o'clock"),
    ("2:1, 3x faster, 3 x 4, 2*3", "two to one, three times faster, three by four, two times three"),
    ("Ph.D. and M.D. in the U.S. Army", "P H D and M D in the U S Army"),
    ("We left the U.S. The end.", "We left the U S. The end."),
    ("J. R. R. Tolkien, George W. Bush. Plan B. Then", "J R R Tolkien, George W Bush. Plan B. Then"),
    ("It was the FBI. See it on TV. Hal did.", "It was the F B I. See it on T V. Hal did."),
    ("The FBI, NASA and two TVs on CD-ROM", "The F B I, NASA and two T V's on C D-ROM"),
    ("the US, but ALL OF US SAID SO", "the U S, but ALL OF US SAID SO"),
    ("Henry VIII, World War II, Chapter IV and Part I.", "Henry the eighth, World War two, Chapter four and Part one."),
    ("The part I like, Vitamin C, an IV drip, Malcolm X", "The part I like, Vitamin C, an IV drip, Malcolm X"),
    ("https://www.example.com/a-b?x=1.", "w w w dot example dot com slash a dash b question mark x equals one."),
    ("jane.doe9@mail.example.co.uk", "jane dot doe nine at mail dot example dot co dot u k"),
    ("w/ milk and/or he/she, C#, #1, #topic", "with milk and or he she, C sharp, number one, hashtag topic"),
    ("*very* nice", "very nice"),
    ("Mon., Jan. 5. He sat. Sun.", "Monday, January fifth. He sat. Sun."),
    ("Mon.–Fri., Sat-Sun and Jan-Mar 2020", "Monday to Friday, Saturday to Sunday and January to March twenty twenty"),
    ("24 hrs., 3 yrs. later, (5 ft.) in 7 km.", "twenty four hours, three years later, (five feet) in seven "
     "kilometers."),
    ("5 ft. 10 in. tall, 1 ft 1 in, 5'10; 3 in. of rain, 10 in all", "five feet ten inches tall, one foot one inch, "
     "five foot ten; three inches of rain, ten in all"),
    ("2 tbsp. oil, 1 tsp salt, 900 sq. ft. of it, 3 m/s², 5 m²", "two tablespoons oil, one teaspoon salt, nine hundred "
     "square feet of it, three meters per second squared, five square meters"),
    ("60%-70%, 5kg-10kg, £1m-£2m, -$5", "sixty percent to seventy percent, five kilograms to ten kilograms, one "
     "million pounds to two million pounds, minus five dollars"),
    ("a $100-a-day habit", "a one hundred dollar-a-day habit"),
    ("C++, 10,5 and 1.5x", "C plus plus, ten, five and one point five times"),
    ("5/16 inch, 1/100, 3/16, 80/100", "five sixteenths inch, one one hundredth, three sixteen, eighty one hundred"),
    ("class of '99, B-52s, 1000s of 6s", "class of ninety nine, B-fifty twos, thousands of sixes"),
    ("WWII and Super Bowl LVIII; John Paul II's", "World War two and Super Bowl fifty eight; John Paul the second's"),
    ("Ask Dr Brown or Dr.Lee and A. B. Jones", "Ask Doctor Brown or Doctor Lee and A B Jones"),
    ("E.g. this, i.e. that, Sec. 5", "For example this, that is that, Section five"),
    ("dial 911; 911 people; 0800 123 456; 10 000 of them", "dial nine one one; nine hundred eleven people; "
     "zero eight zero zero, one two three, four five six; ten thousand of them"),
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


@given(st.lists(st.sampled_from(PLAIN_WORDS), min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_words_and_plain_punctuation_stay_as_they_are(words: list[str]) -> None:
    plain = " ".join(words)
    assert normalize_with_changes(plain) == Normalised(plain, ())


def test_the_shipped_sentences_have_nothing_to_change() -> None:
    sentences = (SPEECH / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert [normalize_with_changes(sentence).changes for sentence in sentences] == [()] * len(sentences)


def test_every_change_is_kept_in_order_with_its_reason() -> None:
    found = normalize_with_changes("“Dr.” Lee paid $5\non 1/5/2024").changes
    assert [(change.before, change.after, change.why) for change in found] == [
        ("“Dr.”", '"Dr."', "one way to write a character"), ("Dr.", "Drive", "abbreviation"),
        ("$5", "five dollars", "money"), ("1/5/2024", "January fifth, twenty twenty four", "date")]


@given(WRITTEN)
@settings(max_examples=100, deadline=None)
def test_what_changed_is_what_is_told(text: str) -> None:
    found = normalize_with_changes(text)
    assert bool(found.changes) == (found.text != " ".join(text.split()))


def test_a_text_as_long_as_a_book_is_read_in_linear_time() -> None:
    page = "On 5 May 2024 he paid $5.50 to the FBI, pp. 3-5. "
    normalize(page)
    times = []
    for pages in (100, 1000):
        began = time.process_time()
        normalize(page * pages)
        times.append(time.process_time() - began)
    assert times[1] < 40 * times[0]


@given(st.integers(1, 89))
def test_roman_numerals_can_be_read_back(value: int) -> None:
    assert roman(to_roman(value)) == str(value)


@pytest.mark.parametrize("letters", ["IIII", "VX", "IL", "LL", "XXXXI", "VV"])
def test_letters_that_are_no_roman_numeral_are_told_apart(letters: str) -> None:
    assert roman(letters) is None


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
