"""Rules that replace parts of a text, applied in one pass from left to right, each change kept with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SIGHT = 40  # characters


@dataclass(frozen=True)
class Change:
    """A part of a text that was replaced, and why."""

    before: str
    after: str
    why: str


@dataclass(frozen=True)
class Rule:
    """What `pattern` matches becomes what `read` makes of the match; None leaves it to the rules that follow."""

    why: str
    pattern: re.Pattern
    read: Callable[[re.Match], str | None]


def rule(why: str, pattern: str, read: Callable[[re.Match], str | None] | str) -> Rule:
    """Return a rule; `read` may be the words themselves."""
    return Rule(why, re.compile(pattern), read if callable(read) else lambda match: read)


def left_of(match: re.Match) -> str:
    """Return what stands before a match, as far as a rule may look: a long text is not searched for every match."""
    return match.string[max(0, match.start() - _SIGHT) : match.start()]


def right_of(match: re.Match) -> str:
    """Return what stands after a match, as far as a rule may look."""
    return match.string[match.end() : match.end() + _SIGHT]


def rewrite(text: str, rules: Sequence[Rule]) -> tuple[str, list[Change]]:
    """Apply the leftmost match again and again, of several that begin together that of the first rule.

    Nothing that was replaced is matched again, so that each change shows a part of the text as it was.
    """
    pieces, changes, position = [], [], 0
    matches = [each.pattern.search(text) for each in rules]
    while found := [(match.start(), index) for index, match in enumerate(matches) if match]:
        start, index = min(found)
        match = matches[index]
        words = rules[index].read(match)
        if words is None:
            matches[index] = rules[index].pattern.search(text, start + 1)
            continue
        pieces.append(text[position:start])
        before = (pieces[-1] or "".join(pieces[-2:]))[-1:]
        replaced = _apart(before, words, right_of(match)[:1])
        pieces.append(replaced)
        changes.append(Change(match[0].strip(), replaced.strip(), rules[index].why))
        position = match.end()
        for other, waiting in enumerate(matches):
            if waiting and waiting.start() < position:
                matches[other] = rules[other].pattern.search(text, position)
    return "".join([*pieces, text[position:]]), changes


def _apart(before: str, words: str, after: str) -> str:
    """Keep words apart from the letters and digits that touch them."""
    if not words:
        return ""
    return f"{' ' if before.isalnum() and words[0].isalnum() else ''}{words}{' ' if after.isalnum() else ''}"
