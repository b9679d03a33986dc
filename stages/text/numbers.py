"""Digits to English words: counts, positions, years, decimals, and digits one by one."""

from __future__ import annotations

_ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
         "seventeen eighteen nineteen").split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_THOUSANDS = ("", "thousand", "million", "billion", "trillion", "quadrillion")
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50}


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


def is_year(written: str) -> bool:
    """Tell whether digits look like a year: 1100 to 2099, written without a comma."""
    return len(written) == 4 and written.isdigit() and "1100" <= written <= "2099"


def number(written: str) -> str:
    """Read `1,234.5`, `.5` or `1.2.3` (a version): one thousand two hundred thirty four point five."""
    whole, *parts = written.replace(",", "").split(".")
    words = [cardinal(whole)] if whole else []
    for part in parts:
        words += ["point", spell(part)]
    return " ".join(words)


def plural(words: str) -> str:
    """Return the plural of a number's words: `ninety` is nineties, `one thousand` thousands."""
    if words in ("one hundred", "one thousand"):
        return words.removeprefix("one ") + "s"
    if words.endswith("y"):
        return words.removesuffix("y") + "ies"
    return words + ("es" if words.endswith("x") else "s")


def roman(numeral: str) -> str | None:
    """Return the digits of a well-formed Roman numeral up to 89; None for other letters."""
    value, rest = 0, [_ROMAN[letter] for letter in numeral]
    for current, following in zip(rest, [*rest[1:], 0], strict=True):
        value += current if current >= following else -current
    return str(value) if 0 < value < 90 and to_roman(value) == numeral else None


def to_roman(value: int) -> str:
    """Write 1 to 89 as a Roman numeral."""
    numeral = ""
    for letters, worth in (("L", 50), ("XL", 40), ("X", 10), ("IX", 9), ("V", 5), ("IV", 4), ("I", 1)):
        count, value = divmod(value, worth)
        numeral += letters * count
    return numeral
