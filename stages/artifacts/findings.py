"""Everything that is wrong with an artifact, found in one pass: a problem does not end the search for others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stages.errors import HalleError, StorageError, UsageError


class Findings:
    """Problems in the order in which they were found, and counts of what was looked at, by name."""

    def __init__(self) -> None:
        self.problems: list[HalleError] = []
        self.checked: dict[str, int] = {}

    def count(self, what: str, number: int = 1) -> None:
        """Say that so many more of something were checked."""
        self.checked[what] = self.checked.get(what, 0) + number

    def damaged(self, message: str) -> None:
        """Note what only damage explains."""
        self.problems.append(StorageError(message))

    def wrong(self, message: str) -> None:
        """Note what its maker made wrong."""
        self.problems.append(UsageError(message))

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note the error that ends the body, and go on."""
        try:
            yield
        except HalleError as error:
            self.problems.append(error)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            self.damaged(f"a file does not hold what it should: {type(error).__name__} {error}")

    def raise_any(self, what: str) -> None:
        """Raise one error with all problems: `StorageError` (exit code 4) if any is damage, else `UsageError` (2)."""
        if not self.problems:
            return
        damaged = any(isinstance(problem, StorageError) for problem in self.problems)
        messages = tuple(message for problem in self.problems for message in problem.problems or (problem.message,))
        number = "1 problem" if len(messages) == 1 else f"{len(messages)} problems"
        hints = dict.fromkeys(problem.hint for problem in self.problems if problem.hint)
        kind = StorageError if damaged else UsageError
        raise kind(f"{what} has {number}:" + "".join(f"\n  {message}" for message in messages),
                   "; ".join(hints) or "make it again with the stage that wrote it, or restore it from a copy",
                   messages)
