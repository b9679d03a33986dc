"""What recognisers heard in files of sound: nothing is heard twice, and anyone's transcripts can be read.

Both are JSON lines, one a sound: `{"audio_sha256", "recogniser", "version", "text", "words": [[word, start, end]]}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from stages.artifacts.journal import Journal
from stages.artifacts.storage import read_jsonl
from stages.errors import BadInputsError, UsageError
from stages.metrics.sounds import Sound
from stages.parallel import ALONE, Share
from stages.speech.transcriber import Transcriber, Transcript, Word

TRANSCRIPTS = "transcripts.jsonl"
_SHA256 = re.compile("[0-9a-f]{64}")


class Heard(Protocol):
    """What one recogniser hears in sounds, which are known by the sha256 of their files."""

    name: str
    version: str

    def require(self, sounds: Collection[str]) -> None:
        """Raise `BadInputsError` when there is no transcript of some of these sounds, and there will be none."""
        ...

    def of(self, audio_sha256: str, read: Callable[[], Sound]) -> Transcript:
        """Return what is heard in a sound; `read` gives its waveform if it must be heard first."""
        ...


class KeptTranscripts:
    """A recogniser that remembers in a journal what it heard."""

    def __init__(self, journal: Path, transcriber: Transcriber, share: Share = ALONE):
        self.name, self.version = transcriber.name, transcriber.version
        self._journal, self._transcriber = Journal(journal, share), transcriber
        self._heard = {line["audio_sha256"]: to_transcript(line) for line in self._journal.rows()
                       if (line["recogniser"], line["version"]) == (self.name, self.version)}

    def require(self, sounds: Collection[str]) -> None:
        """Accept any sounds: those that are new will be heard."""

    def of(self, audio_sha256: str, read: Callable[[], Sound]) -> Transcript:
        if audio_sha256 not in self._heard:
            sound = read()
            heard = self._transcriber.transcribe(sound.waveform, sound.sample_rate)
            self._journal.add(to_line(audio_sha256, self.name, self.version, heard))
            self._heard[audio_sha256] = heard
        return self._heard[audio_sha256]


class GivenTranscripts:
    """Transcripts that a recogniser outside of halle wrote; all of `files` are of the same one."""

    def __init__(self, files: Sequence[Path]):
        lines = [line for file in files for line in _checked(file)]
        recognisers = sorted({(line["recogniser"], line.get("version", "unknown")) for line in lines})
        if len(recognisers) != 1:
            told = ", ".join(f"`{name} {version}`" for name, version in recognisers) or "no line"
            raise UsageError(f"expected transcripts of one recogniser after --transcripts, got {told}",
                             hint="score with one at a time: what is measured already is kept")
        (self.name, self.version), self._files = recognisers[0], files
        self._heard = {line["audio_sha256"]: to_transcript(line) for line in lines}

    def require(self, sounds: Collection[str]) -> None:
        lacking = len(set(sounds) - self._heard.keys())
        if lacking:
            files = ", ".join(f"`{file}`" for file in self._files)
            raise BadInputsError(
                f"expected transcripts of all {len(set(sounds))} sounds in {files}, {lacking} of them have none",
                hint=f"let {self.name} hear the files below audio/ and recordings/ of the output folder, add its lines "
                     "to the file, and run the same command again: it continues here")

    def of(self, audio_sha256: str, read: Callable[[], Sound]) -> Transcript:
        return self._heard[audio_sha256]


def _checked(file: Path) -> list[dict]:
    """Return the lines of a file of transcripts, all problems reported at once."""
    lines = read_jsonl(file)
    problems = [f"line {number}: {problem}" for number, line in enumerate(lines, 1) for problem in _problems(line)]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UsageError(f"`{file}`: " + "; ".join(problems[:5]) + more,
                         hint='a line is {"audio_sha256": "...", "recogniser": "...", "version": "...", "text": "...", '
                              '"words": [["word", 0.12, 0.48]]}; version and words may be left out')
    return lines


def _problems(line: dict) -> list[str]:
    found = []
    if not _SHA256.fullmatch(str(line.get("audio_sha256"))):
        found.append(f"`audio_sha256` should be 64 hexadecimal digits, got `{line.get('audio_sha256')}`")
    found += [f"`{name}` should be text, got `{line.get(name)}`" for name in ("recogniser", "text")
              if not isinstance(line.get(name), str)]
    if re.search("[\ud800-\udfff]", str(line.get("text"))):  # which no page can hold
        found.append("`text` has half a character (a lone surrogate)")
    if not isinstance(line.get("version", ""), str):
        found.append(f"`version` should be text, got `{line['version']}`")
    words = line.get("words") or []
    if not isinstance(words, list) or not all(map(_is_word, words)):
        found.append("`words` should be a list of [word, start, end], in seconds")
    return found


def _is_word(word: object) -> bool:
    return (isinstance(word, list) and len(word) == 3 and isinstance(word[0], str)
            and all(isinstance(time, (int, float)) and math.isfinite(time) for time in word[1:]))


def to_line(audio_sha256: str, recogniser: str, version: str, heard: Transcript) -> dict:
    """Return a transcript as a line of JSON."""
    return {"audio_sha256": audio_sha256, "recogniser": recogniser, "version": version, "text": heard.text,
            "words": words_to_json(heard.words)}


def words_to_json(words: Sequence[Word]) -> list[list]:
    return [[word.text, word.start, word.end] for word in words]


def to_transcript(line: dict) -> Transcript:
    return Transcript(line["text"], tuple(Word(*word) for word in line.get("words") or ()))
