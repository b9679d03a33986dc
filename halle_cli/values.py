"""Read options that are more than one word or number."""

from __future__ import annotations

import typer


def one_or_all(values: list[str]) -> str | list[str]:
    """Return the value itself when there is one."""
    return values if len(values) > 1 else values[0]


def numbers(text: str | None, option: str, kind: type) -> tuple | None:
    """Read numbers with commas between."""
    try:
        return None if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = "8,16,24,48" if kind is float else "1,2,2,3"
        raise typer.BadParameter(f"expected numbers such as {example}, got `{text}`", param_hint=option) from None


def seconds_range(text: str | None, option: str) -> tuple[float, float] | None:
    """Read MIN-MAX."""
    if text is None:
        return None
    low, dash, high = text.partition("-")
    try:
        if not dash or not 0 <= float(low) < float(high):
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"expected MIN-MAX such as 8-20, got `{text}`", param_hint=option) from None
    return float(low), float(high)
