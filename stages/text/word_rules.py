"""How English reads what is not written as words: abbreviations, initials, Roman numerals, addresses, symbols."""

from __future__ import annotations

import re

from stages.text.number_rules import MONEY_SYMBOLS, MONTH_ABBREVIATIONS
from stages.text.numbers import cardinal, ordinal, roman, spell
from stages.text.rewriting import Rule, left_of, right_of, rule

_TITLES = {"Mr": "Mister", "Mrs": "Missus", "Ms": "Miss"}  # British spelling has no full stop
# These lose their full stop; the endings keep it where it also ends the sentence.
_SHORT = {"prof": "Professor", "capt": "Captain", "sgt": "Sergeant", "lt": "Lieutenant", "rev": "Reverend",
          "vs": "versus", "e.g": "for example", "i.e": "that is", "approx": "approximately", "cf": "compare",
          "viz": "namely", "a.k.a": "also known as", "incl": "including"}
_ENDINGS = {"etc": "et cetera", "et al": "and others", "a.m": "a m", "p.m": "p m", "jr": "Junior", "sr": "Senior",
            "inc": "Incorporated", "ltd": "Limited", "corp": "Corporation", "co": "Company", "bros": "Brothers",
            "esq": "Esquire", "dept": "Department", "govt": "Government", "ave": "Avenue", "blvd": "Boulevard",
            "rd": "Road", "hwy": "Highway"}
_BEFORE_A_NAME = {"Gen": "General", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Col": "Colonel",
                  "Maj": "Major", "Cpl": "Corporal", "Adm": "Admiral", "Pres": "President", "Hon": "Honorable",
                  "Ft": "Fort"}
_TWO_SENSES = {"Dr": ("Doctor", "Drive"), "St": ("Saint", "Street"), "Mt": ("Mount", "Mount")}  # before, after a name
_BEFORE_A_NUMBER = {"no": "number", "nos": "numbers", "pp": "pages", "vol": "volume", "vols": "volumes",
                    "ch": "chapter", "chap": "chapter", "fig": "figure", "figs": "figures", "eq": "equation",
                    "ver": "version", "sec": "section", "ca": "circa"}
_LETTER_BEFORE_A_NUMBER = {"p": "page", "c": "circa"}
_DAYS = {"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday",
         "Thur": "Thursday", "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday"}
_STARTERS = r"(?:The|He|She|It|They|We|I|But|And|This|That|These|In|On|A|An|You|There|Then|When|If|What|So)\b(?!\.)"

# Spelled though they have a vowel. Words that are also written in capitals (IT, WHO, NASA) are not here.
_INITIALISMS = frozenset("""
ABC AC AD ADHD AI AOL API ATM AWS BCE BMI CEO CFO CIA CIO CTO DIY DNA ECG EDT EEG EKG EPA EST ETA EU EV FAQ FBI GOP
GPA GPU CPU GUI HIV IBM ICU ID IMF IOU IP IPO IQ IRA IRS ISP ISS KO LA LGBTQ MIT MRI NBA NGO NYC NYPD NYU OECD PA RNA
ROI SOS SUV TBA UAE UCLA UFC UFO UI UK UN UPS URL US USA USB USDA USSR UTC UV UX VIP
""".split())
_SOUNDS = frozenset("""
BRR BRRR DR GRR GRRR HM HMM HMMM MM MMM MR MRS MS MT NTH PFFT PSST SH SHH SHHH ST TH TSK VS ZZZ
""".split())

_REGNAL = frozenset("""
Albert Alexander Alfonso Alfred Benedict Boniface Carl Carlos Catherine Charles Christian Clement Constantine Darius
Edward Elizabeth Eric Ferdinand Francis Frederick George Gregory Gustav Harald Henry Innocent Ivan James John Juan
Julius Leo Leopold Louis Mary Napoleon Nicholas Olaf Otto Paul Peter Philip Pius Ptolemy Ramses Richard Robert Rudolf
Selim Theodore Umberto Urban Victor Wilhelm William Xerxes
""".split())
_NUMBERED = frozenset("""
act appendix article book bowl canto chapter class episode figure grade lesson level mark number part phase psalm scene
season section stage step table title type unit version volume war
""".split())
# Elsewhere only numerals that are no initials: not I, V, X, nor IV, VI, XL, XX.
_PLAIN_NUMERALS = frozenset("II III VII VIII XII XIII XIV XVI XVII XVIII".split())

_SYMBOLS = {"%": "percent", "&": "and", "+": "plus", "=": "equals", "@": "at", "#": "number", "°": "degrees",
            "×": "times", "÷": "divided by", "±": "plus or minus", "≈": "about", "≤": "at most", "≥": "at least",
            "≠": "is not", "§": "section", "©": "copyright", **MONEY_SYMBOLS}
_IN_ADDRESSES = {".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", "?": "question mark",
                 "=": "equals", "&": "and", "+": "plus", "#": "hash", "%": "percent", ":": "colon", "~": "tilde"}
_TOP_LEVEL = "com|org|net|edu|gov|mil|info|io|ai|dev|app|(?:co|ac|org|gov)\\.[a-z][a-z]"
_END = r"(?=(?P<end>\s+[\"']?[A-Z]|[\"')]*$)?)"


def _read_ending(match: re.Match) -> str:
    return _ENDINGS[match["word"].lower()] + ("." if match["end"] is not None else "")


def _read_short(match: re.Match) -> str:
    words = _SHORT[match["word"].lower()]
    return words[0].upper() + words[1:] if match["word"][0].isupper() else words


def _read_from_to(match: re.Match) -> str:
    names = _DAYS if match["first"] in _DAYS else MONTH_ABBREVIATIONS
    return f"{names[match['first']]} to {names[match['last']]}" + ("." if match["end"] is not None else "")


def _read_month(match: re.Match) -> str:
    return MONTH_ABBREVIATIONS[match["word"]] + ("." if match["end"] is not None else "")


def _read_address(match: re.Match) -> str:
    """Read an address of the web or of mail: words as they are, marks by name, digits and short endings spelled."""
    address = re.sub(r"^https?://", "", match[0]).rstrip("/")
    address = re.sub(r"\b(?:www|[a-z]{2}(?=$|/)|ai|io)\b", lambda part: " ".join(part[0]), address)
    words = (f" {spell(part)} " if part.isdigit() and part.isascii() else f" {_IN_ADDRESSES[part]} "
             if part in _IN_ADDRESSES else part for part in re.split(r"(\d+|[./\-_@?=&+#%:~])", address))
    return " ".join("".join(words).split())


def _read_dotted(match: re.Match) -> str:
    """Spell `U.S.A.`; its last full stop stays where it surely ends the sentence too."""
    ends = re.match(rf"[\"')]*(?:$|\s+{_STARTERS})", right_of(match))
    letters = match[0].upper().replace(".", "").replace(" ", "")
    return " ".join(letters) + ("." if ends and match[0].endswith(".") else "")


def _read_initial(match: re.Match) -> str | None:
    """Take the full stop from an initial: beside another, after a capitalised word, or at the beginning."""
    before = left_of(match).rstrip()
    followed = re.match(r"\s[A-Z]\.\s", right_of(match))  # by another initial
    preceded = re.search(r"(?:\b[A-Z][a-z]+|\b[A-Z]\.|[.!?][\"']?)$", before)
    return match["letter"] if followed or preceded or not before else None


def _read_capitals(match: re.Match) -> str | None:
    letters = match["letters"]
    spelled = letters in _INITIALISMS or not (set(letters) & set("AEIOUY") or letters in _SOUNDS)
    if not spelled or (letters in ("US", "LA", "PA", "AD") and _shouting(match)):
        return None
    return " ".join(letters) + ("'s" if match["plural"] else "")


def _shouting(match: re.Match) -> bool:
    """Tell whether the words beside are in capitals too."""
    return bool(re.search(r"\b[A-Z]{2,}\W*$", left_of(match))
                or re.match(r"\W*[A-Z]{2,}\b", right_of(match)))


def _read_two_senses(match: re.Match) -> str:
    before, after = _TWO_SENSES[match["word"]]
    return before if match["name"] else after + ("." if match["end"] is not None else "")


def _read_before_number(match: re.Match) -> str:
    name = _BEFORE_A_NUMBER.get(match["word"].lower()) or _LETTER_BEFORE_A_NUMBER[match["word"]]
    return f"{name.capitalize() if match['word'][0].isupper() else name} "


def _read_roman(match: re.Match) -> str | None:
    word, numeral, after = match["word"], match["numeral"], right_of(match)
    digits = roman(numeral)
    if digits is None:
        return None
    if numeral == "I" and word != "War" and not (word.istitle() and re.match(r"[.,:;)]|\s(?:of|and)\b|$", after)):
        return None  # the part I like
    if word.lower() in _NUMBERED:
        return f"{word} {cardinal(digits)}"
    if word in _REGNAL:
        certain = len(numeral) > 1 or (numeral == "V" and not re.match(r"\.?\s[A-Z][a-z]", after))  # John V. Smith
        return f"{word} the {ordinal(digits)}" if certain else None
    return f"{word} {cardinal(digits)}" if numeral in _PLAIN_NUMERALS else None


def _words(names: dict[str, str] | dict[str, tuple[str, str]]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


ADDRESS_RULES: tuple[Rule, ...] = (
    rule("e-mail address", r"(?<![\w.])[\w.+-]*\w@(?:[\w-]+\.)+[A-Za-z]{2,}", _read_address),
    rule("web address", r"\b(?:https?://|www\.)[\w./\-?=&+#%:~@]*[\w/]", _read_address),
    rule("web address", rf"(?<![\w.])(?:[\w-]+\.)+(?:{_TOP_LEVEL})\b(?:/[\w./\-?=&+#%:~]*[\w/])?(?![\w@])",
         _read_address),
)

WORD_RULES: tuple[Rule, ...] = (
    rule("title", rf"\b(?P<word>{_words(_TITLES)})\b\.?", lambda match: _TITLES[match["word"]]),
    rule("abbreviation", rf"(?i:\b(?P<word>{_words(_SHORT)})\.)", _read_short),
    rule("abbreviation", rf"\b(?P<word>{_words(_TWO_SENSES)})\.(?=(?P<name>\s*(?!{_STARTERS})[A-Z])?){_END}",
         _read_two_senses),
    rule("title", rf"\b(?P<word>{_words(_BEFORE_A_NAME)})\.(?=\s+[A-Z])", lambda match: _BEFORE_A_NAME[match["word"]]),
    rule("abbreviation", rf"\b(?P<word>(?i:{_words(_ENDINGS)}))\.{_END}", _read_ending),
    rule("abbreviation", rf"\b(?P<word>[cp]|(?i:{_words(_BEFORE_A_NUMBER)}))\.\s*(?=\d)", _read_before_number),
    rule("title", r"\bDr(?=\s[A-Z][a-z])", "Doctor"),
    rule("weekday", rf"\b(?P<first>{_words(_DAYS)})\.?-(?P<last>{_words(_DAYS)})\b(?:\.{_END})?", _read_from_to),
    rule("month", rf"\b(?P<first>{_words(MONTH_ABBREVIATIONS)})\.?-(?P<last>{_words(MONTH_ABBREVIATIONS)})\b"
                  rf"(?:\.{_END})?", _read_from_to),
    rule("month", rf"\b(?P<word>{_words(MONTH_ABBREVIATIONS)})\.{_END}", _read_month),
    rule("weekday", rf"\b(?P<word>{_words(_DAYS)})\.?(?=,?\s(?:\d|{_words(MONTH_ABBREVIATIONS)}|May\b))",
         lambda match: _DAYS[match["word"]]),
    rule("abbreviation", r"\bw/o(?!\w)", "without"),
    rule("abbreviation", r"\bw/(?=\s|\w)", "with "),
    rule("Roman numeral", r"\b(?P<word>[A-Z][a-z]+|act|chapter|part|section|volume)\s(?P<numeral>[IVXL]+)"
                          r"(?!\w|'(?!s\b))", _read_roman),
    rule("Roman numeral", r"\bWW(?P<numeral>II?)\b", lambda match: f"World War {cardinal(roman(match['numeral']))}"),
    rule("initials", r"\bPh\.\s?D\.|\b(?:[A-Z]\.){2,}|\b(?:[A-Z]\.){1,}[A-Z]\b", _read_dotted),
    rule("initial", rf"\b(?P<letter>[A-Z])\.(?=\s(?:[A-Z]\.|(?!{_STARTERS})[A-Z][a-z]))", _read_initial),
    rule("initials", r"(?<![\w'.])(?P<letters>[A-Z]{2,6})(?P<plural>s)?(?![A-Za-z])", _read_capitals),
    rule("initials", r"\bPhD(?P<plural>s)?\b", lambda match: "P H D" + ("'s" if match["plural"] else "")),
)

SYMBOL_RULES: tuple[Rule, ...] = (
    rule("sharp", r"\b(?P<letter>[A-G])#(?!\w)", lambda match: f"{match['letter']} sharp"),
    rule("hashtag", r"#(?=[^\W\d])", "hashtag "),
    rule("about", r"~(?=\s?\d)", "about "),
    rule("times", r"(?<=\d)\s?\*\s?(?=\d)", " times "),
    rule("alternatives", r"\band/or\b", "and or"),
    rule("mark that is not read", r"(?<=\w)[/_\\|*](?=\w)", " "),
    rule("mark that is not read", r"[*_\\|]+", ""),
    rule("symbol", f"(?P<symbol>[{re.escape(''.join(_SYMBOLS))}])", lambda match: _SYMBOLS[match["symbol"]]),
)
