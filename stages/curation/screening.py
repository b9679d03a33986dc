"""Decide which recordings are usable speech, and say of every other one why it is not.

Decoding is measured once a recording (`measure`, expensive, remembered); what follows from the measurements
(`screen`) is a pure function, so that an interrupted run ends exactly as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.audio.base import AudioInfo
from stages.audio.io import AudioError, audio_info, check_sound, mix_down, read_audio, stream_audio
from stages.config.stage_configs import CurateConfig
from stages.curation.oddities import oddities
from stages.curation.outliers import usual_range
from stages.curation.recordings import UNKNOWN_SPEAKER, Recording, real_path
from stages.text.tables import chars_per_second

# Reasons that are choices about usable recordings or texts; any other reason is bad audio and counts as bad.
FILTERS = {
    "NO_TRANSCRIPT": "no transcript belongs to it",
    "EMPTY_TEXT": "its text has no letter or digit",
    "BAD_TEXT": "its text holds a character that is no character",
    "LOW_RATE": "its sample rate is below min_rate",
    "TOO_SHORT": "shorter than min_seconds",
    "TOO_LONG": "longer than max_seconds",
    "TEXT_RATE": "text and sound do not fit: too few or too many characters a second",
    "DUPLICATE": "the same sound as an earlier recording",
    "HELD_OUT_TEXT": "a held-out speaker says the same, so it may not be trained on",
    "LOW_QUALITY": "the gate's mean score is too low",
    "UNEVEN_QUALITY": "the gate's scores deviate too much",
    "NO_SPEECH": "no voice is heard in it",
    "NO_TEXT": "speech in which no word was recognised",
    "NO_SPEAKER": "words where no speaker was found",
    "NO_TURNS": "no speaker was found in it",
    "OVERLAP": "several speak at once",
    "NO_PAUSE": "words before or after somebody else's, up to a pause: both may speak at once",
    "BAD_SEGMENT": "a turn or word of no or negative length, or outside of the recording",
    "LANGUAGE": "its words are of another language",
    "REPETITION": "its words go round in a loop",
    "DUPLICATE_TEXT": "an earlier recording says mostly the same",
    "DUPLICATE_SOUND": "mostly the sound of an earlier utterance",
    "HISTOGRAM": "more of this duration than duration_histogram asks for",
    "NOT_JOINED": "joining did not reach join_seconds",
}
SHORTEST_PIECE = 0.3  # seconds; what is shorter is a click, even as a part of a joined utterance
_LEAST_SPREAD = 0.05  # of the log text rate: in a very even corpus every recording would else be an outlier


@dataclass(frozen=True)
class Measurement:
    """What decoding a recording told. `reason` is empty when it is sound; `content` is a hash of its samples."""

    id: str
    reason: str = ""
    detail: str = ""
    duration: float = 0.0
    sample_rate: int = 0
    content: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Take:
    """A recording that passed, with its duration in seconds."""

    recording: Recording
    duration: float
    sample_rate: int


@dataclass(frozen=True)
class Rejection:
    """A recording that did not pass, and why."""

    recording: Recording
    reason: str
    detail: str

    @property
    def is_bad_audio(self) -> bool:
        return self.reason not in FILTERS

    def to_row(self) -> dict:
        """Return the row of `rejected.jsonl`: what, where in its source (seconds), whose, and why."""
        recording = self.recording
        row = {"id": recording.id, "source": recording.source, "reason": self.reason, "detail": self.detail}
        if recording.duration is not None:
            row |= {"start": recording.start, "duration": recording.duration}
        if recording.speaker != UNKNOWN_SPEAKER:
            row["speaker"] = recording.speaker
        return row | ({"license": recording.extra["license"]} if recording.extra.get("license") else {})


OF_THE_MACHINE = frozenset({"NEEDS_AV", "DENIED"})  # reasons that may be gone the next time: nobody keeps them


def measure(recording: Recording, root: Path | None, config: CurateConfig) -> Measurement:
    """Decode a recording and check it; what is wrong with it is in the result, never raised."""
    problem = _text_problem(recording)
    if problem:
        return Measurement(recording.id, problem, FILTERS[problem])
    try:
        check_inside(recording, root, config)
        with local_audio(recording) as path:
            return _measure_file(recording, path, config)
    except AudioError as error:
        return Measurement(recording.id, error.reason, error.detail)


def _text_problem(recording: Recording) -> str:
    if recording.text is None:
        return "NO_TRANSCRIPT"
    if any("\ud800" <= char <= "\udfff" for char in recording.text):
        return "BAD_TEXT"
    return "" if any(char.isalnum() for char in recording.text) else "EMPTY_TEXT"


def check_inside(recording: Recording, root: Path | None, config: CurateConfig) -> None:
    """A link that leaves the corpus may lead anywhere on the machine."""
    if root is None or recording.audio is None or config.follow_links:
        return
    target = real_path(recording.audio)  # a link that leads to itself stays what it is, and is no regular file
    if not target.is_relative_to(real_path(root)):
        raise AudioError(recording.source, "OUTSIDE_ROOT", f"a link to `{target}`; -O follow_links=true accepts it")


@contextmanager
def local_audio(recording: Recording) -> Iterator[Path]:
    """Yield the path of a recording's audio; what lies inside a dataset is unpacked for the while."""
    if recording.payload is None:
        yield recording.audio
        return
    with tempfile.TemporaryDirectory(prefix="halle-") as folder:
        path = Path(folder) / "audio"
        try:
            path.write_bytes(recording.payload())
        except (OSError, TypeError, KeyError) as error:
            raise AudioError(recording.source, "MISSING", f"the dataset holds no audio for it: {error}") from error
        yield path


def _measure_file(recording: Recording, path: Path, config: CurateConfig) -> Measurement:
    info = audio_info(path)
    duration = recording.duration if recording.duration is not None else info.duration - recording.start
    known = {"duration": round(duration, 6), "sample_rate": info.sample_rate}
    if info.sample_rate < config.min_rate:
        detail = f"expected at least {config.min_rate} Hz, got {info.sample_rate}"
        return Measurement(recording.id, "LOW_RATE", detail, **known)
    shortest = SHORTEST_PIECE if config.join_seconds else config.min_seconds
    if duration < shortest:
        return Measurement(recording.id, "TOO_SHORT", f"expected at least {shortest:g} s, got {duration:.2f}", **known)
    if duration > config.max_seconds:  # by the header: hours are not decoded to be thrown away
        detail = f"expected at most {config.max_seconds:g} s, got {duration:.2f}"
        return Measurement(recording.id, "TOO_LONG", detail, **known)
    waveform, channel_power = _listen(path, recording, info)
    check_sound(path, waveform)
    offset = float(np.mean(waveform, dtype=np.float64))
    if abs(offset) > config.max_offset:
        raise AudioError(path, "OFFSET", f"expected a mean sample within {config.max_offset:g} of 0, got {offset:.3f}")
    known["duration"] = round(len(waveform) / info.sample_rate, 6)
    content = hashlib.blake2b(waveform.tobytes(), digest_size=16, key=str(info.sample_rate).encode()).hexdigest()
    return Measurement(recording.id, content=content, **known,
                       warnings=tuple(oddities(path, info, float(np.vdot(waveform, waveform)), channel_power)))


def _listen(path: Path, recording: Recording, info: AudioInfo) -> tuple[np.ndarray, float]:
    """Return the samples, mono, and the sum of the channels' mean power, 0 of a part: its channels are not compared."""
    if info.channels == 1 or recording.start or recording.duration is not None:
        return read_audio(path, start=recording.start, duration=recording.duration), 0.0
    blocks = list(stream_audio(path))
    power = sum(float(np.vdot(block, block)) / info.channels for block in blocks)
    return np.concatenate([mix_down(block) for block in blocks]), power


def screen(
    recordings: tuple[Recording, ...], measurements: dict[str, Measurement], config: CurateConfig
) -> tuple[list[Take], list[Rejection]]:
    """Split the recordings into takes and rejections, both in source order; every recording is in one of them."""
    takes, rejections, heard = [], [], {}
    for recording in recordings:
        measured = measurements[recording.id]
        reason, detail = _judge(recording, measured, heard, config)
        if reason:
            rejections.append(Rejection(recording, reason, detail))
        else:
            takes.append(Take(recording, measured.duration, measured.sample_rate))
    outliers = text_rate_outliers(takes, config.rate_outlier_mads)
    rejections += [Rejection(take.recording, "TEXT_RATE", outliers[take.recording.id]) for take in takes
                   if take.recording.id in outliers]
    return [take for take in takes if take.recording.id not in outliers], rejections


def _judge(
    recording: Recording, measured: Measurement, heard: dict[str, str], config: CurateConfig
) -> tuple[str, str]:
    """Return (reason, detail) of a rejection, or empty texts; `heard` maps contents to the first id."""
    if measured.reason:
        return measured.reason, measured.detail
    first = heard.setdefault(measured.content, recording.id)
    if first != recording.id:
        return "DUPLICATE", f"the same samples as `{first}`"
    rate = chars_per_second(recording.text or "", measured.duration)
    if not config.min_chars_per_second <= rate <= config.max_chars_per_second:
        expected = f"{config.min_chars_per_second:g} to {config.max_chars_per_second:g}"
        return "TEXT_RATE", f"expected {expected} characters a second, got {rate:.1f}"
    return "", ""


def text_rate_outliers(takes: list[Take], limit: float) -> dict[str, str]:
    """Return id -> detail of takes whose log text rate lies more than `limit` deviations from the median."""
    rates = {take.recording.id: chars_per_second(take.recording.text or "", take.duration) for take in takes}
    usual = usual_range([math.log(rate) for rate in rates.values()], limit, _LEAST_SPREAD)
    if usual is None:
        return {}
    low, high = math.exp(usual[0]), math.exp(usual[1])
    return {
        name: f"expected {low:.1f} to {high:.1f} characters a second as in the rest, got {rate:.1f}"
        for name, rate in rates.items()
        if not low <= rate <= high
    }
