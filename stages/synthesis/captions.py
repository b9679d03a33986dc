"""When each sentence and word of a script is heard, and subtitles (.srt, .vtt) that say so.

A model with a text pointer tells itself which word each of its frames says. Of others, a recogniser's words are aligned
with the script's within each pass, whose own times are exact. Sentences that were not heard well enough, or all of them
without a recogniser, are placed by their share of the text tokens between those that were: an estimate, and called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np

from stages.artifacts.storage import write_text
from stages.speech.alignment import equal_words, spoken_words, timed_words
from stages.speech.transcriber import Transcriber
from stages.synthesis.long_script import Sentence
from stages.synthesis.takes import Speech, SpokenPiece

Timing = Literal["pointer", "recogniser", "estimate"]
Span = tuple[float, float]  # seconds from the beginning of the speech

LINE_CHARACTERS = 42  # the usual limit of subtitles, two lines of it
_SHOWN_CHARACTERS = 75  # two lines, less what is lost where words do not fill a line
_LEAST_HEARD = 0.5  # of a sentence's words, or its times are an estimate


@dataclass(frozen=True)
class TimedWord:
    """A word as it is written, in seconds from the beginning of the speech."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class TimedSentence:
    """A sentence of the script (or the part of one that a pass spoke) and its words."""

    text: str
    start: float
    end: float
    timing: Timing
    words: tuple[TimedWord, ...]

    def to_row(self) -> dict:
        words = [{"text": word.text, "start": round(word.start, 3), "end": round(word.end, 3)} for word in self.words]
        return {"text": self.text, "start": round(self.start, 3), "end": round(self.end, 3), "timing": self.timing,
                "words": words}


def time_sentences(speech: Speech, transcriber: Transcriber | None) -> list[TimedSentence]:
    """Return every spoken sentence with its times and those of its words."""
    timed = []
    for piece in speech.pieces:
        told = piece.word_times is not None
        timed += _told_times(piece) if told else _time_piece(piece, _hear(speech, piece, transcriber))
    return timed


def _told_times(piece: SpokenPiece) -> list[TimedSentence]:
    """Return the sentences with the times that the model itself has told."""
    timed, first = [], 0
    for sentence in piece.piece.sentences:
        words = sentence.text.split()
        times = piece.word_times[first : first + len(words) + 1]
        first += len(words)
        timed.append(TimedSentence(sentence.text, times[0], times[-1], "pointer",
                                   tuple(TimedWord(word, *span)
                                         for word, span in zip(words, pairwise(times), strict=True))))
    return timed


def _hear(speech: Speech, piece: SpokenPiece, transcriber: Transcriber | None) -> list[Span | None]:
    """Return when each word of a piece, as it is said, was heard; None for those that were not."""
    script = [word for sentence in piece.piece.sentences for word in spoken_words(sentence.text)]
    times: list[Span | None] = [None] * len(script)
    if transcriber is None:
        return times
    first, end = (round(seconds * speech.sample_rate) for seconds in (piece.start, piece.end))
    transcript = transcriber.transcribe(speech.generated[first:end], speech.sample_rate)
    heard = timed_words(transcript, piece.end - piece.start)
    for index, found in equal_words(script, [word.text for word in heard]):
        times[index] = (piece.start + heard[found].start, piece.start + heard[found].end)
    return times


def _time_piece(piece: SpokenPiece, times: Sequence[Span | None]) -> list[TimedSentence]:
    sentences = piece.piece.sentences
    counts = [len(spoken_words(sentence.text)) for sentence in sentences]
    firsts = np.cumsum([0, *counts])
    own = [times[first:end] for first, end in pairwise(firsts)]
    heard = [_is_heard(words) for words in own]
    spans = _place_sentences(sentences, [_span(words) if known else None
                                         for words, known in zip(own, heard, strict=True)], piece)
    return [TimedSentence(sentence.text, *span, "recogniser" if known else "estimate",
                          _time_words(sentence.text, words if known else [None] * len(words), span))
            for sentence, span, words, known in zip(sentences, spans, own, heard, strict=True)]


def _is_heard(words: Sequence[Span | None]) -> bool:
    return sum(word is not None for word in words) >= max(1, _LEAST_HEARD * len(words))


def _span(words: Sequence[Span | None]) -> Span:
    """Return from where to where words were heard; for those missed at either end, as long as the others took."""
    known = [index for index, word in enumerate(words) if word is not None]
    start, end = words[known[0]][0], words[known[-1]][1]
    pace = (end - start) / (known[-1] - known[0] + 1)
    return start - pace * known[0], end + pace * (len(words) - 1 - known[-1])


def _place_sentences(sentences: Sequence[Sentence], spans: Sequence[Span | None], piece: SpokenPiece) -> list[Span]:
    """Fill the gaps by shares of text tokens; times rise and stay within the piece."""
    placed: list[Span] = []
    for index, span in enumerate(spans):
        begin = placed[-1][1] if placed else piece.start
        following = next((i for i in range(index, len(spans)) if spans[i]), None)
        limit = piece.end if following is None else min(piece.end, max(begin, spans[following][0]))
        if span:
            start = max(begin, span[0])
            placed.append((start, min(piece.end, max(start, span[1]))))
            continue
        unknown = sentences[index:following]
        share = sentences[index].tokens / max(1, sum(sentence.tokens for sentence in unknown))
        placed.append((begin, begin + (limit - begin) * share))
    return placed


def _time_words(text: str, times: Sequence[Span | None], span: Span) -> tuple[TimedWord, ...]:
    """Return the words as they are written. Each begins where its first spoken word does: heard, or between those
    that were by its share of letters."""
    written = text.split()
    spoken = [spoken_words(word) for word in written]
    firsts = np.cumsum([0, *map(len, spoken)])
    letters = np.cumsum([0, *(max(1, sum(map(len, words))) for words in spoken)])
    complete = firsts[-1] == len(times)  # else a word is said otherwise in its sentence than alone
    anchors = {0: span[0], len(written): span[1]}
    for index, first in enumerate(firsts[:-1]):
        if complete and index and spoken[index] and times[first] is not None:
            anchors[index] = times[first][0]
    known = sorted(anchors)
    inside = np.maximum.accumulate(np.clip([anchors[index] for index in known], *span))
    starts = np.interp(letters, letters[known], inside)
    return tuple(TimedWord(word, float(start), float(end))
                 for word, (start, end) in zip(written, pairwise(starts), strict=True))


# ---- files


def write_captions(out: Path, sentences: Sequence[TimedSentence], kind: str) -> list[Path]:
    """Write `out` with the suffix .srt, .vtt or both; return the files. `kind` may be none."""
    writers = {"srt": to_srt, "vtt": to_vtt}
    files = caption_files(out, kind)
    for file in files:
        write_text(file, writers[file.suffix[1:]](sentences))
    return files


def caption_files(out: Path, kind: str) -> list[Path]:
    """Return the files that `write_captions` would write."""
    suffixes = {"none": (), "both": (".srt", ".vtt")}.get(kind, (f".{kind}",))
    return [out.with_name(out.stem + suffix) for suffix in suffixes]


def to_srt(sentences: Sequence[TimedSentence]) -> str:
    """Return SubRip subtitles, at most two lines at a time."""
    cues = [f"{number}\n{_clock(cue[0].start, ',')} --> {_clock(cue[-1].end, ',')}\n{_lines(_texts(cue))}\n"
            for number, cue in enumerate(_cues(sentences), start=1)]
    return "\n".join(cues)


def to_vtt(sentences: Sequence[TimedSentence]) -> str:
    """Return WebVTT; each word carries the time at which it begins, so that players can follow along."""
    blocks = ["WEBVTT\n"]
    if any(sentence.timing == "estimate" for sentence in sentences):
        blocks.append("NOTE some times are estimates: the speech was not recognised there\n")
    for cue in _cues(sentences):
        breaks = _lines(_texts(cue), _stamped(cue))
        blocks.append(f"{_clock(cue[0].start, '.')} --> {_clock(cue[-1].end, '.')}\n{breaks}\n")
    return "\n".join(blocks)


def _stamped(cue: Sequence[TimedWord]) -> list[str]:
    """Return words with the times at which they begin: WebVTT wants them to rise, and to lie within the cue."""
    marked, last, end = [], _clock(cue[0].start, "."), _clock(cue[-1].end, ".")
    for word in cue:
        begin = _clock(word.start, ".")
        rises = last < begin < end
        marked.append(f"<{begin}>{_escaped(word.text)}" if rises else _escaped(word.text))
        last = begin if rises else last
    return marked


def _cues(sentences: Sequence[TimedSentence]) -> list[list[TimedWord]]:
    """Return the words that are shown together: a sentence, or about equal parts of a long one."""
    cues = []
    for sentence in sentences:
        about = len(sentence.text) / ceil(len(sentence.text) / _SHOWN_CHARACTERS)
        held: list[TimedWord] = []
        for word in sentence.words:
            texts = _texts([*held, word])
            if held and (len(" ".join(_texts(held))) >= about or _width(texts, _line_break(texts)) > LINE_CHARACTERS):
                cues.append(held)
                held = []
            held.append(word)
        cues.append(held)
    return cues


def _lines(texts: Sequence[str], shown: Sequence[str] | None = None) -> str:
    """Join words, over two lines when one does not hold them; `shown` are the same words with their marks."""
    shown, cut = shown or texts, _line_break(texts)
    return "\n".join(" ".join(line) for line in (shown[:cut], shown[cut:]) if line)


def _line_break(texts: Sequence[str]) -> int:
    """Return after how many words the second line begins: two lines about equally long, or one that holds all."""
    if _width(texts, len(texts)) <= LINE_CHARACTERS:
        return len(texts)
    return min(range(1, len(texts) + 1), key=lambda cut: _width(texts, cut))


def _width(texts: Sequence[str], cut: int) -> int:
    return max(len(" ".join(texts[:cut])), len(" ".join(texts[cut:])))


def _texts(words: Sequence[TimedWord]) -> list[str]:
    return [word.text for word in words]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, mark: str) -> str:
    """Write seconds as 00:01:02,345."""
    milliseconds = round(seconds * 1000)
    return (f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:{milliseconds // 1000 % 60:02d}"
            f"{mark}{milliseconds % 1000:03d}")
