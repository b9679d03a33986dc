"""What fuzzing has in common: how many examples, how long one may take, and bytes that are nearly right.

HYPOTHESIS_PROFILE=long tries `LONG` examples a test, new ones each time; the suite tries the same few always.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from stages.errors import HalleError

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SHORT, LONG = 15, 500
SECONDS = 30  # for one example; a loop without end takes longer

fuzz = settings(
    max_examples=LONG if IS_LONG else SHORT,
    derandomize=not IS_LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def only_halle_errors() -> Iterator[None]:
    """Accept a `HalleError` with a message of one line in place of a result; any other exception, or a hang, fails."""
    try:
        with _in_time():
            yield
    except HalleError as error:
        assert error.message and error.exit_code in (2, 3, 4)
        str(error).encode("utf-8", "surrogatepass")


@contextmanager
def _in_time() -> Iterator[None]:
    if not hasattr(signal, "setitimer"):
        yield
        return

    def too_long(number: int, frame: object) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 2**63, 2**64, 10**400, 1e308, -0.0]))
words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "a", "../x", "/etc/passwd", "\ud800", "a\x00b", "C:\\x", "train", "\u2028", "é", "𝔞", "A" * 300]
    ),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, words)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
hard_json = st.sampled_from(
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b"NaN",
        b"-Infinity",
        b'"\\ud800"',
        b"1e999",
        b"\xef\xbb\xbf{}",
        b"null",
        b"{}{}",
        b'{"a":1,"a":2}',
        b"\x00",
        b"\xff\xfe{\x00}\x00",
    ]
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return content of which a few places were overwritten, cut out or filled in."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 12))
        data[place : place + length] = draw(st.one_of(st.binary(max_size=12), hard_json.filter(lambda b: len(b) < 100)))
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)
