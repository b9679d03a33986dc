"""What a recogniser heard, word by word beside the text: what the page shows of errors, and where sentences lie."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from stages.metrics.languages import normalise
from stages.reports.page import Words

CONTEXT = 5  # words beside an error that are shown of a long stretch without one; the others are counted
_SHORT = 12  # words of a stretch without an error that are shown whole
_KINDS = {"equal": "same", "substitute": "changed", "delete": "lost", "insert": "added"}
_SENTENCE_END = re.compile(r"(?<=[.!?\u2026])[\"'\u2019\u201d)]*\s+|\n+|(?<=[\u3002\uff01\uff1f])")


@dataclass(frozen=True)
class Stretch:
    """Neighbouring words of one kind (see `page.Words`), `first` to `last` of the text and of what was heard."""

    kind: str
    written: slice
    heard: slice


def align(written: Sequence[str], heard: Sequence[str]) -> list[Stretch]:
    """Return the stretches of the alignment with the fewest errors, in order; both are normalised words."""
    if not written or not heard:
        kind = "lost" if written else "added"
        return [Stretch(kind, slice(0, len(written)), slice(0, len(heard)))] if written or heard else []
    chunks = jiwer.process_words(" ".join(written), " ".join(heard)).alignments[0]
    return [Stretch(_KINDS[chunk.type], slice(chunk.ref_start_idx, chunk.ref_end_idx),
                    slice(chunk.hyp_start_idx, chunk.hyp_end_idx)) for chunk in chunks]


def marked_words(text: str, heard: str, language: str = "en") -> list[Words]:
    """Return the words of `text` with what was heard otherwise; long stretches without an error are only counted."""
    written, spoken = normalise(text, language).split(), normalise(heard, language).split()
    stretches = align(written, spoken)
    pieces: list[Words] = []
    for place, stretch in enumerate(stretches):
        if stretch.kind == "same":
            before, after = (CONTEXT if place else 0), (CONTEXT if place < len(stretches) - 1 else 0)
            pieces += _shortened(written[stretch.written], before, after)
        else:
            pieces.append(Words(stretch.kind, " ".join(written[stretch.written]), " ".join(spoken[stretch.heard])))
    return pieces


def _shortened(words: Sequence[str], before: int, after: int) -> list[Words]:
    """Return so many words of the beginning and the end of a stretch, and how many there are between."""
    hidden = len(words) - before - after
    if hidden <= _SHORT:
        return [Words("same", " ".join(words))]
    ends = words[:before], words[len(words) - after :]
    shown = [Words("same", " ".join(end)) for end in ends]
    shown.insert(1, Words("elided", f"{hidden} words"))
    return [piece for piece in shown if piece.written]


def sentence_spans(
    text: str, words: Sequence[Sequence], seconds: float, language: str = "en"
) -> list[tuple[float, float]]:
    """Return when each sentence of `text` is heard, in seconds, one span after the other over all `seconds`.

    `words` are (word, start, end) as a recogniser gives them. Between sentences the border lies in the middle of the
    pause. A sentence of which nothing was heard has no length; without times there is one span.
    """
    sentences = [normalise(sentence, language).split() for sentence in _SENTENCE_END.split(text)]
    sentences = [sentence for sentence in sentences if sentence]
    heard = [(part, start, end) for word, start, end in words for part in normalise(word, language).split()]
    if not heard or len(sentences) < 2:
        return [(0.0, seconds)]
    owner = [index for index, sentence in enumerate(sentences) for _ in sentence]
    times: dict[int, list[float]] = {}
    for stretch in align([word for sentence in sentences for word in sentence], [word for word, _, _ in heard]):
        for index, (_, start, end) in zip(owner[stretch.written], heard[stretch.heard], strict=False):
            times.setdefault(index, []).extend((start, end))
    borders, last = [0.0], 0.0
    for index in range(1, len(sentences)):
        if index in times and index - 1 in times:
            last = (max(times[index - 1]) + min(times[index])) / 2
        elif index in times:
            last = min(times[index])
        borders.append(min(max(last, borders[-1]), seconds))
    return list(itertools.pairwise([*borders, seconds]))
