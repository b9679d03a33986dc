"""JSON as the standard has it, from anybody and for anybody: no NaN, no number beyond what a float holds."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class UnkeptError(ValueError):
    """A text that other programs take for JSON; says what of it JSON has not."""


def parse(text: str) -> Any:
    """Return the value in a text; raise `ValueError` for anything that is no JSON, such as NaN or bottomless lists."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise UnkeptError("it is nested too deeply") from error


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


def _refuse(name: str) -> NoReturn:
    raise UnkeptError(f"{name} is no number that can be kept")


def to_text(value: object, indent: int | None = None) -> str:
    """Return the JSON of a value in characters of all scripts; half a character (a lone surrogate) stays escaped.

    Raises `ValueError` for NaN and infinity, which JSON has not.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, allow_nan=False)
    return text
