"""Errors that a user can act on, each with the exit code of its kind.

Messages are lower case, name the offending value in backticks and say what was expected
before what was found. The hint is a command or a setting that mends it.
"""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is of any allocator: CUDA's has a kind of its own, those of CPU and MPS only words."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(
            said in words for said in ("out of memory", "can't allocate memory", "not enough memory")))


class HalleError(Exception):
    """Say what went wrong and how to mend it; `exit_code` is what the process ends with.

    `problems` are the parts of a message that tells of several.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None, problems: tuple[str, ...] = ()):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = problems


class UsageError(HalleError):
    """A wrong command line, config, path or input: nothing was done."""

    exit_code = 2


class BadInputsError(HalleError):
    """More bad items in a corpus than `--max-bad` allows."""

    exit_code = 3


class StorageError(HalleError):
    """The disk is full, unwritable, or holds a damaged artifact."""

    exit_code = 4


class DivergedError(HalleError):
    """Training produced losses or gradients that are not finite."""

    exit_code = 5


class MemoryFullError(HalleError):
    """A batch does not fit into the memory of a device."""

    exit_code = 4


class LockedError(HalleError):
    """Another process is writing the same output folder."""

    exit_code = 6


class MissingModelError(HalleError):
    """A model, a set of weights or an optional package is not installed."""

    exit_code = 7


class UnfinishedSpeechError(HalleError):
    """Speech was written, but it ends before its text does."""

    exit_code = 8


class PeerError(HalleError):
    """Another process of a distributed run has stopped, with a message of its own."""

    def __init__(self, message: str, hint: str | None = None, exit_code: int = 1):
        super().__init__(message, hint)
        self.exit_code = exit_code


class InterruptedRunError(HalleError):
    """A signal stopped the run after its state was saved; exit code 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str, hint: str | None = None):
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number
