"""Long speech in windows that overlap, and one transcript out of what was heard in each of them.

    window 1   so the train left an hour late be
    window 2                         our late because of snow
    together   so the train left an hour late because of snow
                                         ^ the middle of the longest run of words that both heard

A window's edge cuts a word in two and takes its context away, so words near it are not to be trusted; the run that
two windows agree on lies away from both edges.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, pairwise

from stages.speech.transcriber import Word

WINDOW_SECONDS = 30.0  # what Whisper takes in; models trained on sentences lose the thread on longer input
OVERLAP_SECONDS = 5.0  # a dozen words
# Scripts without spaces between words (Thai, Lao, Tibetan, Myanmar, Khmer, Chinese, Japanese): each letter is a unit
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef" \
            "\U00020000-\U0002fa1f"
_UNIT = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_JOINED = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")
_SIGNS = re.compile(r"[^\w']+")


def plan_windows(num_samples: int, sample_rate: int, window_seconds: float = WINDOW_SECONDS,
                 overlap_seconds: float = OVERLAP_SECONDS) -> list[tuple[int, int]]:
    """Return (first, end) samples of as few windows as cover everything, all of one length.

    None is longer than `window_seconds`; neighbours have at least `overlap_seconds` in common.
    """
    longest, overlap = int(window_seconds * sample_rate), round(overlap_seconds * sample_rate)
    if num_samples <= longest:
        return [(0, num_samples)]
    count = -(-(num_samples - overlap) // (longest - overlap))
    length = min(longest, -(-(num_samples + (count - 1) * overlap) // count))
    firsts = [(num_samples - length) * index // (count - 1) for index in range(count)]
    return [(first, first + length) for first in firsts]


def spread(text: str, start: float, end: float) -> list[Word]:
    """Return the words of a text that was heard from `start` to `end`, each for as long as its letters let expect.

    Where a script puts no spaces between words, every letter is one.
    """
    units = _UNIT.findall(text)
    letters = sum(map(len, units))
    times = [start, *(start + (end - start) * count / letters for count in accumulate(map(len, units)))]
    return [Word(unit, *span) for unit, span in zip(units, pairwise(times), strict=True)]


def join(words: Sequence[Word]) -> str:
    """Return words as a text, without spaces inside scripts that have none."""
    return _JOINED.sub("", " ".join(word.text for word in words))


def stitch_all(windows: Sequence[Sequence[Word]], spans: Sequence[tuple[float, float]], time_error: float,
               ) -> list[Word]:
    """Return the words of all windows, once each.

    `windows` are heard words with times from the beginning of the recording, `spans` the seconds from which to which
    each window goes. Times of one word in two windows differ by `time_error` seconds at most.
    """
    def add(left: Sequence[Word], index: int) -> list[Word]:
        return stitch(left, windows[index], (spans[index][0], spans[index - 1][1]), time_error)

    return _in_order(reduce(add, range(1, len(windows)), list(windows[0])))


def stitch(left: Sequence[Word], right: Sequence[Word], overlap: tuple[float, float], time_error: float) -> list[Word]:
    """Return the words of two windows that both heard what lies in `overlap`, from and to these seconds.

    They are joined in the middle of the longest run of equal words of the overlap, counted in letters; when there is
    none, in the middle of the overlap by time. Words outside of it are none that both heard, however equal: speech in
    a loop would lose rounds. Only times that are worth less than the overlap is long do not tell which words those are.
    """
    (first, end), middle = overlap, sum(overlap) / 2
    margin = time_error if time_error > end - first else 0.0
    before = sum(_centre(word) < first - margin for word in left)
    after = sum(_centre(word) > end + margin for word in right)
    i, j, length = common_run(left[before:], right[: len(right) - after], middle, time_error)
    if not length:
        return [word for word in left if _centre(word) < middle] + [word for word in right if _centre(word) >= middle]
    return [*left[: before + i + length // 2], *right[j + length // 2 :]]


def common_run(left: Sequence[Word], right: Sequence[Word], middle: float, time_error: float) -> tuple[int, int, int]:
    """Return where the longest run of words that both sides have begins in each, and its number of words.

    Words are the same when they differ in nothing but case and punctuation, and their times by no more than
    `time_error`. The longest run is that with the most letters; of several the one nearest to `middle` seconds.
    """
    keys = [[_key(word) for word in side] for side in (left, right)]
    best, rank = (0, 0, 0), (0, 0.0)
    lengths = [0] * (len(right) + 1)  # of the run that ends before (i, j), for all j
    for i, word in enumerate(left):
        row = [0] * (len(right) + 1)
        for j, other in enumerate(right):
            if keys[0][i] == keys[1][j] and abs(_centre(word) - _centre(other)) <= time_error:
                length = row[j + 1] = lengths[j] + 1
                first = i + 1 - length
                letters = sum(map(len, keys[0][first : i + 1]))
                found = (letters, -abs((left[first].start + word.end) / 2 - middle))
                if found > rank:
                    best, rank = (first, j + 1 - length, length), found
        lengths = row
    return best


def _key(word: Word) -> str:
    """Return what of a word is compared; signs alone are compared as they are."""
    return _SIGNS.sub("", word.text.casefold()) or word.text


def _centre(word: Word) -> float:
    return (word.start + word.end) / 2


def _in_order(words: Sequence[Word]) -> list[Word]:
    """Return words whose times, estimated in two windows, do not run backwards."""
    ordered: list[Word] = []
    for word in words:
        start = max(word.start, ordered[-1].end) if ordered else word.start
        ordered.append(Word(word.text, start, max(start, word.end)))
    return ordered
