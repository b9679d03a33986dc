"""Speakers and words that somebody wrote down beside a recording, which then no model has to find.

    episode.flac
    episode.rttm        who speaks when                  SPEAKER episode 1 12.30 4.25 <NA> <NA> host <NA> <NA>
    episode.ctm         every word and its time          episode 1 12.31 0.22 hello
    episode.srt, .vtt   captions: what is said from when to when

What a line says must be readable, else the file is refused with all of its bad lines. Whether it makes sense (a turn
of no length, words past the end) is found when utterances are cut, and counted there.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.audio.base import AudioError
from stages.errors import UsageError
from stages.speech.spans import Turn
from stages.speech.transcriber import Word
from stages.text.tables import Problems, clean_text, numbered_lines, read_text

TURNS, WORDS = (".rttm",), (".ctm", ".srt", ".vtt")  # suffixes; of several transcripts the first is read
BAD_TRANSCRIPT = "BAD_TRANSCRIPT"
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*(-?){_TIME}\s*-->\s*(-?){_TIME}(?:\s.*)?")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # <i>, <00:01.200>, <v Name>, {\an8}
_SOUNDS = re.compile(r"\[[^\]]*\]|\([^)]*\)|[♪♫#*]+")  # [music], (laughs): heard, not said
_SENTENCE_END = re.compile(r"[.!?…。！？]['\"”’»)\]]*$")
_SENTENCE_GAP, _SENTENCE_SECONDS = 1.0, 30.0  # a sentence goes on after shorter pauses, and ends some day
_COMMENTS = (";;", "#")


@dataclass(frozen=True)
class WrittenSpeech:
    """What a file says was said. Of captions a `Word` is a whole sentence; times are good to `time_error` seconds."""

    words: list[Word]
    file: str
    time_error: float


def turns_beside(audio: Path, encoding: str = "utf-8") -> list[Turn] | None:
    """Return the turns of AUDIO's .rttm as they are written, None when there is none.

    Raises `AudioError` for a file with lines that cannot be read, naming each as file:line.
    """
    path = audio.with_suffix(".rttm")
    return _reading(read_rttm, audio, path, encoding) if path.is_file() else None


def words_beside(audio: Path, encoding: str = "utf-8") -> WrittenSpeech | None:
    """Return what AUDIO's .ctm, else .srt, else .vtt says was said, None when there is none of them.

    Raises `AudioError` for a file with lines that cannot be read, naming each as file:line.
    """
    for suffix, time_error in ((".ctm", 0.05), (".srt", 0.3), (".vtt", 0.3)):  # captions come and go with the picture
        path = audio.with_suffix(suffix)
        if path.is_file():
            read = read_ctm if suffix == ".ctm" else read_sentences
            return WrittenSpeech(_reading(read, audio, path, encoding), path.name, time_error)
    return None


def _reading(read: Callable[[Path, str], list], audio: Path, path: Path, encoding: str) -> list:
    try:
        return read(path, encoding)
    except UsageError as error:
        raise AudioError(audio, BAD_TRANSCRIPT, error.message) from error


def read_rttm(path: Path, encoding: str = "utf-8") -> list[Turn]:
    """Return the turns of an RTTM file, sorted; its lines of other types than SPEAKER say nothing of turns."""
    problems, turns = Problems(), []
    for number, line in numbered_lines(path, encoding):
        fields = line.split()
        if fields[0] != "SPEAKER":
            if not fields[0].replace("-", "").isupper() and not line.startswith(_COMMENTS):
                problems.add(f"{path.name}:{number}", f"expected a line of RTTM such as SPEAKER, got `{line[:40]}`")
            continue
        if len(fields) < 8:
            problems.add(f"{path.name}:{number}", f"expected at least 8 fields, got {len(fields)}")
            continue
        start, seconds = (_seconds(field, f"{path.name}:{number}", problems) for field in fields[3:5])
        turns.append(Turn(start, _end(start, seconds), fields[7]))
    problems.raise_any(f"mend these lines of `{path}`")
    return sorted(turns)


def read_ctm(path: Path, encoding: str = "utf-8") -> list[Word]:
    """Return the words of a CTM file: `recording channel start seconds word [confidence ...]` a line."""
    problems, words = Problems(), []
    for number, line in numbered_lines(path, encoding):
        fields = line.split()
        if line.startswith(_COMMENTS):
            continue
        if len(fields) < 5:
            problems.add(f"{path.name}:{number}", f"expected at least 5 fields, got {len(fields)}")
            continue
        start, seconds = (_seconds(field, f"{path.name}:{number}", problems) for field in fields[2:4])
        if not fields[4].startswith("<"):  # <eps>, <unk>: nothing that can be spoken
            words.append(Word(fields[4], start, _end(start, seconds)))
    problems.raise_any(f"mend these lines of `{path}`")
    return sorted(words, key=lambda word: (word.start, word.end))


def read_captions(path: Path, encoding: str = "utf-8") -> list[Word]:
    """Return the cues of SubRip or WebVTT captions that say something, without their markup."""
    problems, cues = Problems(), []
    for first, block in _blocks(read_text(path, encoding)):
        at = next((index for index, line in enumerate(block) if "-->" in line), None)
        if at is None:
            if not (first == 1 and block[0].startswith("WEBVTT")) and block[0].split()[0] not in _VTT_BLOCKS:
                problems.add(f"{path.name}:{first}", f"expected a cue with `-->`, got `{block[0][:40]}`")
            continue
        times = _TIMES.fullmatch(block[at])
        if not times:
            problems.add(f"{path.name}:{first + at}", f"expected 00:00:01,000 --> 00:00:02,000, got `{block[at][:40]}`")
            continue
        text = _spoken(" ".join(block[at + 1 :]))
        if text:
            cues.append(Word(text, _clock(times.groups()[:5]), _clock(times.groups()[5:])))
    problems.raise_any(f"mend these lines of `{path}`")
    return sorted(cues, key=lambda cue: (cue.start, cue.end))


def read_sentences(path: Path, encoding: str = "utf-8") -> list[Word]:
    """Return captions with those joined that make one sentence: it is not to be cut where a line was full."""
    return join_sentences(read_captions(path, encoding))


def join_sentences(cues: list[Word]) -> list[Word]:
    """Join cues up to one that ends a sentence; those without any punctuation stay as they are."""
    if not any(_SENTENCE_END.search(cue.text) for cue in cues):
        return cues
    sentences: list[Word] = []
    for cue in cues:
        last = sentences[-1] if sentences else None
        goes_on = last is not None and not _SENTENCE_END.search(last.text) and last.start < last.end <= cue.start \
            and cue.start - last.end <= _SENTENCE_GAP and cue.end - last.start <= _SENTENCE_SECONDS
        if goes_on:
            sentences[-1] = Word(f"{last.text} {cue.text}", last.start, cue.end)
        else:
            sentences.append(cue)
    return sentences


_VTT_BLOCKS = ("NOTE", "STYLE", "REGION", "X-TIMESTAMP-MAP")


def _blocks(text: str) -> list[tuple[int, list[str]]]:
    """Return (line number, lines) of what blank lines divide."""
    blocks: list[tuple[int, list[str]]] = []
    blank = True
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            if blank:
                blocks.append((number, []))
            blocks[-1][1].append(line)
        blank = not line.strip()
    return blocks


def _spoken(text: str) -> str:
    """Return what a caption says is said: no markup, no sounds, no `- ` before a speaker's line, no NAME: before it."""
    said = _SOUNDS.sub(" ", html.unescape(_MARKUP.sub("", text)))
    return clean_text(re.sub(r"(^|\s)(?:-|>>+)\s+", r"\1", said))


def _seconds(field: str, where: str, problems: Problems) -> float:
    try:
        seconds = float(field)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        problems.add(where, f"expected seconds, got `{field}`")
    return seconds


def _end(start: float, seconds: float) -> float:
    return round(start + seconds, 6)


def _clock(parts: tuple[str | None, ...]) -> float:
    sign, hours, minutes, seconds, fraction = (part or "0" for part in parts)
    total = int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction) / 10 ** len(fraction)
    return -total if sign == "-" else total
