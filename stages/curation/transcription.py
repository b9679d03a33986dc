"""Step `transcribe`: every word and its time, written beside the recording or heard in its speech."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from stages.audio.recording import ForwardReader, open_recording
from stages.audio.recording import Recording as Sound
from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import Recording
from stages.curation.repetition import is_repetitive
from stages.curation.steps import Results, Step
from stages.curation.transcripts_beside import WORDS, words_beside
from stages.curation.utterances import NO_TEXT, Dropped
from stages.errors import HalleError
from stages.speech.spans import Span
from stages.speech.transcriber import NO_TRANSCRIBER, Transcriber, Word, load_transcriber, split_at_pauses
from stages.training.processes import pick_device

NO_TRANSCRIPT, REPETITION = "NO_TRANSCRIPT", "REPETITION"
_RATE = 16_000  # of all recognisers so far
_STRETCH_SECONDS = 30.0  # what Whisper hears at once
_PAUSE_SECONDS = 1.0  # longer ones end a stretch
_MARGIN_SECONDS = 0.25  # heard before and after speech, up to half of the pause there
_LONGEST_SECONDS = 120.0  # read at once: speech without any pause must not fill the memory


@dataclass(frozen=True)
class Heard:
    """The words of a recording and the stretches whose text is not to be believed."""

    words: list[Word]
    refused: list[Dropped]


def run(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    """Return the words and times of a recording; in `reason` why there are none."""
    assert recording.audio is not None
    written = words_beside(recording.audio, config.encoding)
    if written is not None:
        return _result(written.file, "", Heard(written.words, []), written.time_error, config)
    if config.transcriber == NO_TRANSCRIBER:
        return {"reason": NO_TRANSCRIPT, "detail": f"expected one of {', '.join(WORDS)} beside it"}
    transcriber = _transcriber(config.transcriber, config.language, str(pick_device(config.device)))
    speech = [Span(*span) for span in inputs["vad"]["speech"]]
    heard = listen(transcriber, open_recording(recording.audio), speech)
    return _result(transcriber.name, transcriber.version, heard, 0.05, config)


def _result(recogniser: str, version: str, heard: Heard, time_error: float, config: CurateConfig) -> dict:
    found = {"recogniser": recogniser, "version": version, "language": config.language, "time_error": time_error,
             "words": [[word.text, round(word.start, 3), round(word.end, 3)] for word in heard.words],
             "refused": [[drop.start, drop.end, drop.reason] for drop in heard.refused]}
    if not heard.words:
        reasons = {drop.reason for drop in heard.refused}
        found |= {"reason": REPETITION if REPETITION in reasons else NO_TEXT, "detail": "no words in all of it"}
    return found


def settings(config: CurateConfig) -> dict:
    """Versions are in the results: the machine that selects from them need not have the recogniser."""
    return {"version": 1, "transcriber": config.transcriber, "language": config.language, "encoding": config.encoding}


def missing(config: CurateConfig) -> str:
    if config.transcriber == NO_TRANSCRIBER:
        return ""
    try:
        _transcriber(config.transcriber, config.language, str(pick_device(config.device)))
    except HalleError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return ""


TRANSCRIBE = Step("transcribe", needs=("vad",), settings=settings, run=run, missing=missing, beside=WORDS)


@cache
def _transcriber(name: str, language: str, device: str) -> Transcriber:
    return load_transcriber(name, language, device)


# ---- listening


def listen(transcriber: Transcriber, sound: Sound, speech: Sequence[Span]) -> Heard:
    """Return the words of all speech, one stretch after the other, so that memory stays flat."""
    words: list[Word] = []
    refused: list[Dropped] = []
    reader = ForwardReader(sound.path)
    for stretch in stretches(speech, sound.seconds):
        for part in _readable(reader, stretch):
            waveform = reader.read(part.start, part.end, _RATE)
            transcript = transcriber.transcribe(waveform, _RATE)
            reason = judge(transcript.text)
            if reason:
                refused.append(Dropped(part.start, part.end, reason))
            else:
                words += [replace(word, start=part.start + word.start, end=min(part.start + word.end, part.end))
                          for word in transcript.words]
    return Heard(words, refused)


def judge(text: str) -> str:
    """Return why the text of a stretch is not to be believed, empty when it is."""
    if not any(char.isalnum() for char in text):
        return NO_TEXT
    return REPETITION if is_repetitive(text) else ""


def stretches(speech: Sequence[Span], seconds: float) -> list[Span]:
    """Return what is heard at once: speech with short pauses in it up to 30 s, and some of the pauses around it."""
    joined: list[Span] = []
    for span in speech:
        last = joined[-1] if joined else None
        if last and span.start - last.end <= _PAUSE_SECONDS and span.end - last.start <= _STRETCH_SECONDS:
            joined[-1] = Span(last.start, span.end)
        else:
            joined.append(span)
    ends = [0.0, *(span.end for span in joined)]
    starts = [*(span.start for span in joined), seconds]
    return [Span(max(span.start - _MARGIN_SECONDS, (ends[index] + span.start) / 2 if index else 0.0),
                 min(span.end + _MARGIN_SECONDS, (span.end + starts[index + 1]) / 2 if index + 1 < len(joined)
                     else seconds))
            for index, span in enumerate(joined)]


def _readable(reader: ForwardReader, stretch: Span) -> Iterator[Span]:
    """Cut a stretch that is too long to be read at once where it is quietest."""
    start = stretch.start
    while stretch.end - start > _LONGEST_SECONDS:
        ahead = reader.read(start, start + _LONGEST_SECONDS, _RATE)
        _, end = split_at_pauses(ahead, _RATE, _LONGEST_SECONDS - 1.0)[0]
        yield Span(start, start + end / _RATE)
        start += end / _RATE
    yield Span(start, stretch.end)
