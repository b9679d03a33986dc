"""How English reads what is written with digits: dates, times, money, measures, telephone numbers, counts.

What cannot be known (is `1990` a year or a count?) is decided in the plainest way.
"""

from __future__ import annotations

import re

from stages.text.numbers import cardinal, is_year, number, ordinal, plural, spell, year
from stages.text.rewriting import Rule, left_of, right_of, rule

_NUMBER = r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)*|\.\d+"
_HALF = r"(?P<half>[AaPp])\.?[Mm]\b(?:\.(?=\s+[a-z]|[,;:]))?"
_SIGN = r"(?P<sign>(?<![\w)%°])-)?"

_MONTHS = ("January February March April May June July August September October November December").split()
MONTH_ABBREVIATIONS = {**{name[:3]: name for name in _MONTHS if name != "May"}, "Sept": "September"}
# The full stop of an abbreviation goes, unless it may end the sentence too.
_SHORT_MONTH = "|".join(sorted(MONTH_ABBREVIATIONS, reverse=True))
_MONTH = rf"{'|'.join(_MONTHS)}|(?:{_SHORT_MONTH})(?:\.(?=\s*[\da-z,]))?"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?!\d)"
_AFTER_DAY = r"(?:st|nd|rd|th)?\b(?![.,:/]\d|\s?%)"
_YEAR = r"(?:1[1-9]|20)\d\d(?!\d)"

_MONEY = {"$": ("dollar", "dollars", "cent", "cents"), "€": ("euro", "euros", "cent", "cents"),
          "£": ("pound", "pounds", "penny", "pence"), "¥": ("yen", "yen", "sen", "sen"),
          "₹": ("rupee", "rupees", "paisa", "paise"), "¢": ("cent", "cents", "", "")}
MONEY_SYMBOLS = {symbol: names[1] for symbol, names in _MONEY.items()}
_CURRENCY_CODES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}
_COUNTRIES = {"US": "U S ", "CA": "Canadian ", "C": "Canadian ", "A": "Australian ", "AU": "Australian ",
              "NZ": "New Zealand ", "HK": "Hong Kong "}
_SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "tn": "trillion"}

_UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "μm": "micrometer", "nm": "nanometer",
    "kg": "kilogram", "g": "gram", "mg": "milligram", "μg": "microgram", "mcg": "microgram", "lb": "pound",
    "lbs": "pound", "oz": "ounce", "ft": "foot", "yd": "yard", "mi": "mile", "l": "liter", "L": "liter",
    "ml": "milliliter", "mL": "milliliter", "cl": "centiliter", "dl": "deciliter", "h": "hour", "hr": "hour",
    "hrs": "hour", "min": "minute", "mins": "minute", "sec": "second", "secs": "second", "ms": "millisecond",
    "μs": "microsecond", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "V": "volt",
    "W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "kWh": "kilowatt hour", "dB": "decibel",
    "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "px": "pixel",
    "kcal": "kilocalorie", "tbsp": "tablespoon", "tsp": "teaspoon", "gal": "gallon", "wk": "week", "wks": "week",
    "yr": "year", "yrs": "year", "sq ft": "square foot", "sq. ft": "square foot", "sq mi": "square mile",
    "sq. mi": "square mile", "sq m": "square meter", "sq km": "square kilometer",
    "°C": "degree Celsius", "°F": "degree Fahrenheit", "°": "degree",
    "km/h": "kilometer per hour", "kph": "kilometer per hour", "mph": "mile per hour", "m/s": "meter per second",
    "kbps": "kilobit per second", "Mbps": "megabit per second", "Gbps": "gigabit per second",
    "fps": "frame per second", "rpm": "revolution per minute", "ppm": "part per million",
}
_PLURALS = {"foot": "feet", "square foot": "square feet",
            "degree Celsius": "degrees Celsius", "degree Fahrenheit": "degrees Fahrenheit"}
_UNIT = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))
_PER = {**{unit: _UNITS[unit] for unit in "km mi kg g lb oz l L ml h hr min sec".split()}, "s": "second",
        **{noun: noun for noun in "second minute hour day night week month year mile person".split()}}
_PER_UNIT = rf"/(?P<per>{'|'.join(sorted(_PER, key=len, reverse=True))})(?![\w/])"
_STOP = r"(?:\.(?=\s+[a-z]|[,;:)]))?"  # of an abbreviation: it goes unless it may end the sentence too
_AFTER_UNIT = rf"(?P<power>[23])?(?!\w|/(?!{_PER_UNIT[1:].replace('?P<per>', '?:')})){_STOP}"
_MEASURE_BEFORE = re.compile(rf"\d(?:\s?(?:%|{_UNIT}))?$")
_MEASURED = re.compile(rf"\s?(?:%|(?:{_UNIT}){_AFTER_UNIT})")
# `3-5` after these is a range.
_COUNTED = re.compile(r"(?i:\b(?:pages?|pp\.?|nos?\.|chapters?|chaps?\.|vols?\.|ages?|aged|years?|lines|verses|steps|"
                      r"items|levels?|grades?|between|from|figs?\.|tables))\s*$")
_PLURAL_NOUN = re.compile(r"\s(?:[a-z]+s|people|men|women|children)\b")
# before five digits: a postal code of the United States
_STATE = ("A[LKZR]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]|"
          "W[AIVY]")


def _date(month: str, day: str, written_year: str | None) -> str | None:
    """Read a date: March fifth, twenty twenty four."""
    if not 1 <= int(month) <= 12 or not 1 <= int(day) <= 31:
        return None
    spoken = f"{_MONTHS[int(month) - 1]} {ordinal(day)}"
    return f"{spoken}, {_short_year(written_year)}" if written_year else spoken


def _short_year(digits: str) -> str:
    if len(digits) == 4:
        return year(digits)
    return f"oh {cardinal(digits[1])}" if digits[0] == "0" else cardinal(digits)


def _month_name(written: str) -> str:
    return MONTH_ABBREVIATIONS.get(written.rstrip("."), written)


def _read_month_day(match: re.Match) -> str:
    until = f" to {ordinal(match['until'])}" if match["until"] else ""
    after = f", {year(match['year'])}" if match["year"] else ""
    return f"{_month_name(match['month'])} {ordinal(match['day'])}{until}{after}"


def _read_day_month(match: re.Match) -> str:
    article = "" if re.search(r"\b[Tt]he\s$", left_of(match)) else "the "
    after = f", {year(match['year'])}" if match["year"] else ""
    return f"{article}{ordinal(match['day'])} of {_month_name(match['month'])}{after}"


def _read_slashed_date(match: re.Match) -> str | None:
    first, second = match["first"], match["second"]
    month, day = (second, first) if int(first) > 12 else (first, second)  # the American order where both would do
    return _date(month, day, match["year"])


def _read_time(match: re.Match) -> str:
    hour, minute, half = cardinal(str(int(match["hour"]))), match["minute"], match["half"]
    spoken = hour if half and minute == "00" else f"{hour} {_minutes(minute)}"
    return f"{spoken} {half[0].lower()} m" if half else spoken


def _read_time_stamp(match: re.Match) -> str:
    """Read what follows the date of 2024-11-29T08:15:30Z."""
    seconds = int(match["second"] or 0)
    spoken = f" {cardinal(str(int(match['hour'])))} {_minutes(match['minute'])}"
    if seconds:
        spoken += f" and {cardinal(str(seconds))} {'second' if seconds == 1 else 'seconds'}"
    zone = match["zone"]
    if zone == "Z":
        return f"{spoken} U T C"
    if zone:
        sign = "plus" if zone[0] == "+" else "minus"
        spoken += f" U T C {sign} {cardinal(str(int(zone[1:3])))}"
    return spoken


def _minutes(written: str) -> str:
    if written == "00":
        return "o'clock"
    return f"oh {cardinal(written[1])}" if written[0] == "0" else cardinal(written)


def _read_hour(match: re.Match) -> str:
    return f"{cardinal(match['hour'])} {match['half'].lower()} m"


def _read_money(match: re.Match) -> str:
    country = _COUNTRIES.get(match["country"], "")
    one, many, *_ = _MONEY[match["symbol"]]
    sign = "minus " if match["sign"] else ""
    if re.match(r"-[a-z]", right_of(match)):  # a five dollar-a-day habit
        many = one
    names = (f"{country}{one}", f"{country}{many}", *_MONEY[match["symbol"]][2:])
    scale = match["scale"] and _SCALES.get(match["scale"].lower(), match["scale"])
    if match["until"]:
        return sign + " ".join(filter(None, [number(match["number"]), "to", number(match["until"]), scale, names[1]]))
    return sign + _amount(match["number"], names, scale)


def _amount(written: str, names: tuple[str, ...], scale: str | None = None) -> str:
    """Read a sum of money; `names` are one and many of the unit, one and many of its hundredth."""
    one, many, one_cent, many_cents = names
    whole, _, cents = written.replace(",", "").partition(".")
    if scale or len(cents) not in (0, 2) or (cents and not (whole and many_cents and cents.isdigit())):
        return " ".join(filter(None, [number(written), scale, many]))
    units = f"{cardinal(whole)} {one if whole == '1' else many}"
    if not cents or cents == "00":
        return units
    small = f"{cardinal(str(int(cents)))} {one_cent if cents == '01' else many_cents}"
    return small if whole == "0" else f"{units} and {small}"


def _read_coded_money(match: re.Match) -> str:
    return _amount(match["number"], _MONEY[_CURRENCY_CODES[match["code"]]])


def _read_unit(match: re.Match) -> str:
    name = _UNITS[match["unit"]]
    if match["number"] != "1" and match["gap"] != "-":  # a five kilometer run
        name = _many(name)
    sign, power = "minus " if match["sign"] else "", match["power"]
    if " per " in name and power:
        return f"{sign}{number(match['number'])} {name} {'squared' if power == '2' else 'cubed'}"
    return f"{sign}{number(match['number'])} {({'2': 'square ', '3': 'cubic '}).get(power, '')}{name}"


def _many(unit: str) -> str:
    noun, per, whole = unit.partition(" per ")
    return (noun if noun.endswith("hertz") else _PLURALS.get(noun, f"{noun}s")) + per + whole


def _read_per(match: re.Match) -> str | None:
    measured = re.search(r"\d\s?[^\W\d]*[€£%°¢]?$", left_of(match))
    return f" per {_PER[match['per']]}" if measured else None


def _read_feet(match: re.Match) -> str:
    feet, inches = match["feet"], match["inches"]
    return f"{cardinal(feet)} {'foot' if feet == '1' else 'feet'} {_read_inches(inches)}"


def _read_inches(written: str) -> str:
    return f"{number(written)} {'inch' if written == '1' else 'inches'}"


def _read_measured_range(match: re.Match) -> str | None:
    return " to " if _MEASURE_BEFORE.search(left_of(match)) else None


def _read_emergency(match: re.Match) -> str | None:
    return spell(match[0]) if re.search(r"\b(?i:call|dial)(?:s|ed|ing)?\s$", left_of(match)) else None


def _read_percent(match: re.Match) -> str:
    return f"{'minus ' if match['sign'] else ''}{number(match['number'])} percent"


def _read_phone(match: re.Match) -> str:
    """Read digit by digit, with a pause after each group."""
    groups = [spell(group) for group in re.findall(r"\d+", match[0])]
    return ("plus " if match[0].startswith("+") else "") + ", ".join(groups)


def _read_fraction(match: re.Match) -> str | None:
    top, bottom = match["top"], match["bottom"]
    certain = top == "1" or len(bottom) == 1 or bottom == "10" or re.match(r"[\s-](?:inch|of an inch)", right_of(match))
    if not certain:
        return None  # 3/16 may be a date, 80/100 a score
    if int(top) >= int(bottom):
        return " ".join(filter(None, [match["whole"] and cardinal(match["whole"]), cardinal(top), cardinal(bottom)]))
    name = {"2": "half", "4": "quarter"}.get(bottom) or ordinal(bottom)
    many = "halves" if bottom == "2" else f"{name}s"
    mixed = f"{cardinal(match['whole'])} and " if match["whole"] else ""
    return f"{mixed}{cardinal(top)} {name if top == '1' else many}"


def _read_range(match: re.Match) -> str | None:
    """Read `3-5` as a range where the dash or the words around it say so, not as a score or a code."""
    low, high = match["low"], match["high"]
    if _MEASURED.match(match.string, match.end()):
        return None  # its second number is read with its unit
    if is_year(low) and len(high) == 2 and high > low[2:]:
        return f"{year(low)} to {_short_year(high)}"
    counted = _COUNTED.search(left_of(match)) or _PLURAL_NOUN.match(match.string, match.end())
    if match["dash"] == "-" and not (int(low) < int(high) and (counted or (is_year(low) and is_year(high)))):
        return None
    return f"{_bare(low)} to {_bare(high)}"


def _read_decade(match: re.Match) -> str:
    return plural(year(match["digits"]) if len(match["digits"]) == 4 else cardinal(match["digits"]))


def _read_number(match: re.Match) -> str:
    return f"minus {number(match['number'])}" if match["sign"] else _bare(match["number"])


def _bare(written: str) -> str:
    return year(written) if is_year(written) else number(written)


NUMBER_RULES: tuple[Rule, ...] = (
    rule("date", rf"\b(?P<month>{_MONTH})\s(?P<day>{_DAY})(?:[-–](?P<until>{_DAY}))?{_AFTER_DAY}"
                 rf"(?:,?\s(?P<year>{_YEAR}))?", _read_month_day),
    rule("date", rf"(?<![\d.,:/$€£-])(?P<day>{_DAY})(?:st|nd|rd|th)?\s(?P<month>{_MONTH})(?!\w)"
                 rf"(?:,?\s(?P<year>{_YEAR}))?", _read_day_month),
    rule("date", rf"\b(?P<month>{_MONTH})\s(?P<year>{_YEAR})",
         lambda match: f"{_month_name(match['month'])} {year(match['year'])}"),
    rule("date", rf"(?<![\d-])(?P<year>{_YEAR})-(?P<month>\d\d)-(?P<day>\d\d)(?![\d-])",
         lambda match: _date(match["month"], match["day"], match["year"])),
    rule("time", r"(?<=-\d\d)T(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d)(?:\.\d+)?)?"
                 r"(?P<zone>Z|[+-]\d\d:?\d\d)?(?![\w:])", _read_time_stamp),
    rule("date", rf"(?<![\d/])(?P<first>\d\d?)/(?P<second>\d\d?)/(?P<year>{_YEAR}|\d\d)(?![\d/])", _read_slashed_date),
    rule("date", rf"(?<![\d.])(?P<day>\d\d?)\.(?P<month>\d\d?)\.(?P<year>{_YEAR})",
         lambda match: _date(match["month"], match["day"], match["year"])),
    rule("postal code", rf"(?<=\b(?:{_STATE})\s)\d{{5}}(?:-\d{{4}})?(?![\w-]|[.,]\d)", _read_phone),
    rule("phone number", r"\+\d(?:[\s().-]{0,2}\d){6,14}(?!\d)", _read_phone),
    rule("phone number", r"(?<![\w.,-])(?:1[-. ])?(?:\([2-9]\d\d\)\s?|[2-9]\d\d[-. ])\d{3}[-. ]\d{4}(?![\w-])",
         _read_phone),
    rule("phone number", r"(?<![\w.,$€£-])[2-9]\d\d-\d{4}(?![\w%-]|[.,]\d)", _read_phone),
    rule("phone number", r"(?<![\w.,-])(?=0(?:[ -]?\d){8})0\d{2,4}(?:[ -]\d{3,8}){1,3}(?![\w-])", _read_phone),
    rule("phone number", r"(?<![\w.,-])\d{3}(?![\w%-]|[.,:/]\d)", _read_emergency),
    rule("money", rf"{_SIGN}(?:\b(?P<country>{'|'.join(_COUNTRIES)}))?(?P<symbol>[$€£¥₹])\s?(?P<number>{_NUMBER})"
                  rf"(?:[-–—][$€£¥₹]?(?P<until>{_NUMBER}))?"
                  r"(?:\s?(?P<scale>thousand|million|billion|trillion|[kKmMbB]|mn|bn|tn)\b)?", _read_money),
    rule("money", rf"(?P<number>{_NUMBER})\s?(?P<symbol>[€£¥₹¢])(?!\s?\d)",
         lambda match: _amount(match["number"], _MONEY[match["symbol"]])),
    rule("money", rf"\b(?P<code>{'|'.join(_CURRENCY_CODES)})\s?(?P<number>{_NUMBER})", _read_coded_money),
    rule("money", rf"(?P<number>{_NUMBER})\s?(?P<code>{'|'.join(_CURRENCY_CODES)})\b", _read_coded_money),
    rule("time", rf"(?<![\d:])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?![\d:])(?:\s?{_HALF})?", _read_time),
    rule("time", rf"(?<![\d.,])(?P<hour>1[0-2]|[1-9])\s?{_HALF}", _read_hour),
    rule("range", rf"[-–—](?=(?:{_NUMBER})\s?(?:%|(?:{_UNIT}){_AFTER_UNIT}))", _read_measured_range),
    rule("range", r"(?:(?<=\d)|(?<=\d[kKmMbB])|(?<=\d[mbt]n))[-–—](?=[$€£¥₹]\d)", " to "),
    rule("range", r"(?:(?<=\d)|(?<=[ap]m)|(?<=\.m\.))[-–—](?=\d{1,2}(?::\d\d|\s?[ap]\.?m\b))", " to "),
    rule("range", r"(?<![\w.,/:-])(?P<low>\d{1,9})(?P<dash>[-–—])(?P<high>\d{1,9})(?![\w-]|[.,/:]\d)", _read_range),
    rule("height", r"""(?<![\w.,])(?P<feet>[1-9])'(?P<inches>1[01]|\d)"?(?!\w)""",
         lambda match: f"{cardinal(match['feet'])} foot {cardinal(match['inches'])}"),
    rule("unit", rf"(?<![\w.,])(?P<feet>\d+)\s?ft\.?\s?(?P<inches>\d+)\s?in(?!\w){_STOP}", _read_feet),
    rule("unit", rf"(?P<number>{_NUMBER})[\s-]?in\.(?=\s+[a-z]|[,;:)])", lambda match: _read_inches(match["number"])),
    rule("percent", rf"{_SIGN}(?P<number>{_NUMBER})\s?%", _read_percent),
    rule("unit", rf"{_SIGN}(?P<number>{_NUMBER})(?P<gap>\s|-)?(?P<unit>{_UNIT}){_AFTER_UNIT}", _read_unit),
    rule("unit", _PER_UNIT, _read_per),
    rule("fraction", r"(?<![\d/.,])(?:(?P<whole>\d+)\s)?(?P<top>\d{1,2})/(?P<bottom>[2-9]|10|16|32|64|1000?)(?![\d/])",
         _read_fraction),
    rule("ratio", r"(?<![\d:.,])(?P<low>\d+):(?P<high>\d+)(?![\d:])",
         lambda match: f"{cardinal(match['low'])} to {cardinal(match['high'])}"),
    rule("times", rf"(?<![\w.,])(?P<number>{_NUMBER})x(?!\w)", lambda match: f"{number(match['number'])} times"),
    rule("times", r"(?<=\d)\s?x\s?(?=\d)", " by "),
    rule("dash between numbers", r"(?<=\d)[–—](?=\d)", " to "),
    rule("mark between numbers", r"(?<=\d)[-/:](?=\d)", " "),
    rule("list of numbers", r"(?<=\d),(?=\d)(?!\d{3}(?!\d))", ", "),
    rule("ordinal", r"(?P<digits>\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th|ST|ND|RD|TH)\b",
         lambda match: ordinal(match["digits"].replace(",", ""))),
    rule("decade", r"(?<![\d.,])'?(?P<digits>(?:1[1-9]|20)?[1-9]0|(?:1[1-9]|20)00)'?s\b", _read_decade),
    rule("plural", r"(?<![\d.,])(?P<digits>\d+)'?s\b", lambda match: plural(cardinal(match["digits"]))),
    rule("year", r"(?<!\w)'(?P<digits>\d\d)(?![\w'])", lambda match: _short_year(match["digits"])),
    rule("number", r"(?<![\d.,])\d{1,3}(?: 000)+(?![\d.,:/-])", lambda match: cardinal(match[0].replace(" ", ""))),
    rule("number", rf"{_SIGN}(?P<number>{_NUMBER})", _read_number),
)
