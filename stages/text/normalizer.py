"""Text as it is written to text as it is read aloud.

The English pass is small and has no dependency: it is a table of patterns, each with a function from a match
to words. What it cannot know (is `1990` a year or a count?) it decides in the plainest way.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable

from stages.errors import UsageError

log = logging.getLogger("halle.text")

NORMALIZER_VERSION = "en-1"  # part of a token store: texts normalised otherwise do not belong to it
LANGUAGES = ("en", "none")

_ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
         "seventeen eighteen nineteen").split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_THOUSANDS = ("", "thousand", "million", "billion", "trillion", "quadrillion")
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}
_MONEY = {"$": ("dollar", "dollars", "cent", "cents"), "€": ("euro", "euros", "cent", "cents"),
          "£": ("pound", "pounds", "penny", "pence"), "¥": ("yen", "yen", "sen", "sen")}
_SYMBOLS = {"%": "percent", "&": "and", "+": "plus", "=": "equals", "@": "at", "#": "number", "°": "degrees",
            **{symbol: names[1] for symbol, names in _MONEY.items()}}
# These lose their full stop; the endings keep it where it also ends the sentence.
_TITLES = {"Mr": "Mister", "Mrs": "Missus", "Ms": "Miss"}  # British spelling has no full stop
_SHORT = {"prof": "Professor", "capt": "Captain", "sgt": "Sergeant", "lt": "Lieutenant", "rev": "Reverend",
          "vs": "versus", "e.g": "for example", "i.e": "that is", "approx": "approximately"}
_ENDINGS = {"etc": "et cetera", "jr": "Junior", "sr": "Senior", "inc": "Incorporated", "ltd": "Limited",
            "dept": "Department", "ave": "Avenue", "blvd": "Boulevard"}
_BEFORE_A_NAME = {"Dr": ("Doctor", "Drive"), "St": ("Saint", "Street"), "Mt": ("Mount", "Mount")}

_QUOTES = {**dict.fromkeys("‘’‚‛ʼ′`´＇", "'"), **dict.fromkeys("“”„‟«»″＂", '"')}
_DASHES = dict.fromkeys("‐‑‒–—―−﹣－", "-")
_UNIFIED = str.maketrans({**_QUOTES, **_DASHES})
_FRACTION_CHARACTERS = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"


def normalize(text: str, language: str = "en") -> str:
    """Return `text` as one line of words and plain punctuation, ready for the tokenizer.

    Cleans Unicode (NFKC, one kind of quote and hyphen, no control characters, single spaces) and, in English,
    writes numbers, money, times and abbreviations as words: no digit remains. `language="none"` only cleans.
    The result may be empty; normalising it again changes nothing. Raises `UsageError` for a lone surrogate.
    """
    if language not in LANGUAGES:
        raise UsageError(f"expected language {' or '.join(f'`{name}`' for name in LANGUAGES)}, got `{language}`",
                         "use `none` for text that is already written as it is spoken")
    _check_surrogates(text)
    before, text = None, _clean(text, warn=True)
    # Words put in place of a symbol can meet a combining mark that stood after it, which NFKC then joins.
    while before != text:
        before = text
        text = _clean(_read_english(text) if language == "en" else text)
    return text


def _check_surrogates(text: str) -> None:
    match = re.search(r"[\ud800-\udfff]", text)
    if match:
        raise UsageError(f"character {match.start() + 1} of the text is a lone surrogate `U+{ord(match[0]):04X}`",
                         "the text was decoded wrongly: save it again as UTF-8")


def _clean(text: str, warn: bool = False) -> str:
    """Unify characters and spaces; drop control and format characters."""
    text = re.sub(f"(?<=[0-9])(?=[{_FRACTION_CHARACTERS}])", " ", text)  # NFKC turns `1½` into `11⁄2`
    text = re.sub(r"(?<=\d)[–—](?=\d)", " to ", text).translate(_UNIFIED)
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    if warn and len(kept) < len(text):
        log.warning("removed %d control characters from a text", len(text) - len(kept))
    text = unicodedata.normalize("NFKC", kept).translate(_UNIFIED).replace("⁄", "/")
    text = "".join(c if c.isascii() else _ascii_digit(c) for c in text)
    return " ".join(text.split())


def _ascii_digit(character: str) -> str:
    """Return 0..9 for a digit of any script, every other character as it is."""
    return str(unicodedata.digit(character, character))


def cardinal(digits: str) -> str:
    """Read a whole number: `1234` is one thousand two hundred thirty four. Codes such as `007` are spelled."""
    if (len(digits) > 1 and digits[0] == "0") or len(digits) > 3 * len(_THOUSANDS):
        return spell(digits)
    if int(digits) == 0:
        return _ONES[0]
    groups, rest = [], int(digits)
    for scale in _THOUSANDS:
        rest, group = divmod(rest, 1000)
        if group:
            groups.append(f"{_below_thousand(group)} {scale}".strip())
    return " ".join(reversed(groups))


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    words = [_ONES[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_TENS[rest // 10])
        rest %= 10
    if rest:
        words.append(_ONES[rest])
    return " ".join(words)


def spell(digits: str) -> str:
    """Read digits one by one."""
    return " ".join(_ONES[int(digit)] for digit in digits)


def ordinal(digits: str) -> str:
    """Read a position in a row: `21` is twenty first."""
    *head, last = cardinal(digits.lstrip("0") or "0").split()
    if last not in _ORDINALS:
        last = last.removesuffix("y") + ("ieth" if last.endswith("y") else "th")
    return " ".join([*head, _ORDINALS.get(last, last)])


def year(digits: str) -> str:
    """Read four digits in pairs: `1990` is nineteen ninety, `1905` nineteen oh five, `2004` two thousand four."""
    century, rest = digits[:2], digits[2:]
    if century[1] == "0" and (rest[0] == "0" or century == "10"):
        return cardinal(digits)
    if rest == "00":
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' + cardinal(rest[1]) if rest[0] == '0' else cardinal(rest)}"


def number(written: str) -> str:
    """Read `1,234.5`, `.5` or `1.2.3` (a version): one thousand two hundred thirty four point five."""
    whole, *parts = written.replace(",", "").split(".")
    words = [cardinal(whole)] if whole else []
    for part in parts:
        words += ["point", spell(part)]
    return " ".join(words)


def _read_number(match: re.Match) -> str:
    written = match["number"]
    sign = "minus " if match["sign"] else ""
    is_year = not sign and len(written) == 4 and written.isdigit() and "1100" <= written <= "2099"
    return year(written) if is_year else sign + number(written)


def _read_money(match: re.Match) -> str:
    one, many, one_cent, many_cents = _MONEY[match["symbol"]]
    whole, _, cents = match["number"].replace(",", "").partition(".")
    if match["scale"] or len(cents) not in (0, 2) or (cents and not whole):
        return " ".join(filter(None, [number(match["number"]), match["scale"], many]))
    units = f"{cardinal(whole)} {one if whole == '1' else many}"
    if not cents or cents == "00":
        return units
    small = f"{cardinal(str(int(cents)))} {one_cent if cents == '01' else many_cents}"
    return small if whole == "0" else f"{units} and {small}"


def _read_time(match: re.Match) -> str:
    hour, minute, half = cardinal(str(int(match["hour"]))), match["minute"], match["half"]
    if minute == "00":
        spoken = hour if half else f"{hour} o'clock"
    else:
        spoken = f"{hour} {'oh ' + cardinal(minute[1]) if minute[0] == '0' else cardinal(minute)}"
    return f"{spoken} {half[0].lower()} m" if half else spoken


def _read_hour(match: re.Match) -> str:
    return f"{cardinal(match['hour'])} {match['half'][0].lower()} m"


def _read_fraction(match: re.Match) -> str:
    top, bottom = match["top"], match["bottom"]
    if int(top) >= int(bottom):
        return " ".join(filter(None, [match["whole"] and cardinal(match["whole"]), cardinal(top), cardinal(bottom)]))
    name = {"2": "half", "4": "quarter"}.get(bottom) or ordinal(bottom)
    plural = "halves" if bottom == "2" else f"{name}s"
    mixed = f"{cardinal(match['whole'])} and " if match["whole"] else ""
    return f"{mixed}{cardinal(top)} {name if top == '1' else plural}"


def _read_plural(match: re.Match) -> str:
    words = year(match["digits"]) if len(match["digits"]) == 4 else cardinal(match["digits"])
    return words.removesuffix("y") + "ies" if words.endswith("y") else words + "s"


_END = r"(?=(?P<end>\s+[\"']?[A-Z]|[\"')]*$)?)"
_NAME = r"(?=(?P<name>\s+[A-Z])?)"
_HALF = r"(?P<half>[AaPp])\.?[Mm]\b(?:\.(?=\s+[a-z]|[,;:]))?"
_NUMBER = r"(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)*|\.\d+)"

# Order matters: the patterns that say more about a number come before the bare number.
_RULES: tuple[tuple[str, Callable[[re.Match], str]], ...] = (
    (rf"\b(?P<word>{'|'.join(_TITLES)})\b\.?", lambda m: _TITLES[m["word"]]),
    (rf"(?i:\b(?P<word>{'|'.join(map(re.escape, _SHORT))})\.)", lambda m: _SHORT[m["word"].lower()]),
    (rf"\b(?P<word>{'|'.join(_BEFORE_A_NAME)})\.{_NAME}", lambda m: _BEFORE_A_NAME[m["word"]][0 if m["name"] else 1]),
    (rf"\b(?P<word>(?i:{'|'.join(_ENDINGS)}))\.{_END}",
     lambda m: _ENDINGS[m["word"].lower()] + ("." if m["end"] is not None else "")),
    (r"\bNo\.(?=\s*\d)", lambda m: "Number"),
    (rf"(?P<symbol>[$€£¥])\s?{_NUMBER}(?:\s(?P<scale>thousand|million|billion|trillion)\b)?", _read_money),
    (rf"(?<![\d:])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?![\d:])(?:\s?{_HALF})?", _read_time),
    (rf"(?<![\d.,])(?P<hour>1[0-2]|[1-9])\s?{_HALF}", _read_hour),
    (r"(?<![\d/.,])(?:(?P<whole>\d+)\s)?(?P<top>\d{1,2})/(?P<bottom>[2-9]|10)(?![\d/])", _read_fraction),
    (r"(?<=\d)[-/:](?=\d)", lambda m: " "),
    (r"(?<=\d),(?=\d)(?!\d{3}(?!\d))", lambda m: ", "),
    (r"(?P<digits>\d+)(?:st|nd|rd|th)\b", lambda m: ordinal(m["digits"])),
    (r"(?<![\d.,])'?(?P<digits>(?:1[1-9]|20)?[1-9]0|(?:1[1-9]|20)00)'?s\b", _read_plural),
    (rf"(?P<sign>(?<![\w)])-)?{_NUMBER}", _read_number),
    (f"(?P<symbol>[{re.escape(''.join(_SYMBOLS))}])", lambda m: _SYMBOLS[m["symbol"]]),
)
_COMPILED = tuple((re.compile(pattern), read) for pattern, read in _RULES)


def _read_english(text: str) -> str:
    for pattern, read in _COMPILED:
        text = pattern.sub(lambda match, read=read: _spaced(match, read(match)), text)
    return text


def _spaced(match: re.Match, words: str) -> str:
    """Keep words apart from the letters and digits that touched what they replace."""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return f"{' ' if before.isalnum() else ''}{words}{' ' if after.isalnum() else ''}"
