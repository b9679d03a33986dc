"""Diarizers: who speaks when in a recording, behind one small interface.

The real choice is a pipeline of pyannote.audio, whose weights somebody has fetched. Without it, `resemblyzer` finds
voices with the encoder that its package contains.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from stages.artifacts.storage import sha256_file
from stages.audio.recording import Recording
from stages.errors import MissingModelError
from stages.speech.spans import Span, Turn, intersect, union
from stages.speech.voice_clusters import (
    DEFAULT,
    ClusterSettings,
    Moments,
    Windows,
    find_voices,
    follow,
    second_voices,
)

RESEMBLYZER = "resemblyzer"
PIPELINE_FILE = "config.yaml"
RATE = 16_000
WINDOW_SECONDS, HOP_SECONDS = 1.6, 0.4  # 1.6 s is what the encoder was trained on
STEP_SECONDS = 0.1  # turns of different speakers meet on this grid
_BLOCK_SECONDS = 60.0
_MEL_HOP = 160  # samples
_REVISION_DIGITS = 12
_INSTALL_RESEMBLYZER = ("pip install 'halle[mos]' webrtcvad 'setuptools<81'; pip install --no-deps resemblyzer; "
                        "webrtcvad needs a C compiler")
_LEVEL = 10 ** (-30 / 20)  # quieter windows are made as loud, as the package does with whole recordings


class Diarizer(Protocol):
    """Tell who speaks when. `name` and `version` go into every result that rests on it."""

    name: str
    version: str

    def diarize(self, recording: Recording, speech: Sequence[Span]) -> list[Turn]:
        """Return turns in order, of speakers named A, B, ... as they come; `speech` is the set of spans with speech.

        Turns of different speakers may overlap. The same recording gives the same turns.
        """
        ...


def name_speakers(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns in order with their speakers called A, B, ..., Z, AA, ... by who speaks first."""
    ordered = sorted(turns)
    names: dict[str, str] = {}
    for turn in ordered:
        names.setdefault(turn.speaker, _letters(len(names)))
    return [Turn(turn.start, turn.end, names[turn.speaker]) for turn in ordered]


def _letters(index: int) -> str:
    return ("" if index < 26 else _letters(index // 26 - 1)) + chr(ord("A") + index % 26)


class ResemblyzerDiarizer:
    """Cluster the voices of short windows. It keeps 5 MB for each hour of a recording."""

    name = RESEMBLYZER

    def __init__(self) -> None:
        _refuse_missing(RESEMBLYZER)
        from resemblyzer import VoiceEncoder
        from resemblyzer.audio import wav_to_mel_spectrogram

        self.version = _package_version("resemblyzer")
        self._encoder, self._mel = VoiceEncoder("cpu", verbose=False), wav_to_mel_spectrogram

    def diarize(self, recording: Recording, speech: Sequence[Span]) -> list[Turn]:
        """Return turns that cover `speech`; they overlap where a voice may not be alone as another takes over."""
        if not speech:
            return []
        windows = self._listen(recording, speech)
        is_speech = _covered(speech, np.arange(0, recording.seconds, STEP_SECONDS), STEP_SECONDS) > 0
        return name_speakers(turns_of(windows, Moments(is_speech, STEP_SECONDS), speech))

    def _listen(self, recording: Recording, speech: Sequence[Span]) -> Windows:
        """Return the vectors of all windows with speech in them."""
        vectors, shares = [], []
        for first, waveform in _pieces(recording):
            count = 1 + (len(waveform) - _samples(WINDOW_SECONDS)) // _samples(HOP_SECONDS)
            share = _covered(speech, (first + np.arange(count)) * HOP_SECONDS, WINDOW_SECONDS)
            vectors.append(self._embed(waveform, share > 0))
            shares.append(share)
        return Windows(np.concatenate(vectors), np.concatenate(shares), WINDOW_SECONDS, HOP_SECONDS)

    @torch.inference_mode()
    def _embed(self, waveform: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Return float16 [windows, 256] of the wanted windows of a piece, zeros of others."""
        found = np.zeros((len(wanted), 256), dtype=np.float16)
        if wanted.any():
            starts = np.flatnonzero(wanted) * _samples(HOP_SECONDS)
            sounds = np.stack([waveform[start : start + _samples(WINDOW_SECONDS)] for start in starts])
            level = np.sqrt(np.mean(sounds.astype(np.float64) ** 2, axis=1)) + 1e-9
            mel, frames = self._mel(waveform), _samples(WINDOW_SECONDS) // _MEL_HOP
            mels = np.stack([mel[start // _MEL_HOP : start // _MEL_HOP + frames] for start in starts])
            mels *= (np.maximum(1.0, _LEVEL / level) ** 2).astype(np.float32)[:, None, None]
            found[wanted] = self._encoder(torch.from_numpy(mels)).numpy()
        return found


def _samples(seconds: float) -> int:
    return round(seconds * RATE)


def _pieces(recording: Recording) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the first window, waveform of whole windows) that hold every window once.

    The last window is filled with silence.
    """
    held, first, window, hop = np.zeros(0, dtype=np.float32), 0, _samples(WINDOW_SECONDS), _samples(HOP_SECONDS)
    for _, block in recording.blocks(_BLOCK_SECONDS, RATE):
        held = np.concatenate([held, block])
        count = 1 + (len(held) - window) // hop
        if count > 0:
            yield first, held[: window + (count - 1) * hop]
            held, first = held[count * hop :], first + count
    if len(held) > window - hop or not first:
        yield first, np.pad(held, (0, window - len(held)))


def _covered(speech: Sequence[Span], starts: np.ndarray, seconds: float) -> np.ndarray:
    """Return the share of speech [starts] in the stretches of so many seconds from `starts`."""
    edges = np.array([[span.start, span.end] for span in speech])
    before = np.concatenate([[0.0], np.cumsum(edges[:, 1] - edges[:, 0])])

    def until(times: np.ndarray) -> np.ndarray:
        index = np.searchsorted(edges[:, 0], times, side="right")
        inside = np.minimum(times - edges[index - 1, 0], edges[index - 1, 1] - edges[index - 1, 0])
        return np.where(index > 0, before[index - 1] + inside, 0.0)

    return np.maximum(0.0, until(starts + seconds) - until(starts)) / seconds


def turns_of(windows: Windows, moments: Moments, speech: Sequence[Span],
             settings: ClusterSettings = DEFAULT) -> list[Turn]:
    """Return the turns of each voice in the windows: its moments cut to the spans of speech."""
    path, centres = follow(windows, find_voices(windows, settings), moments, settings)
    second = second_voices(windows, centres, path, moments, settings)
    turns = []
    for voice in range(len(centres)):
        talking = (path == voice) | (second == voice)
        edges = np.flatnonzero(np.diff(talking, prepend=False, append=False)) * moments.step
        own = [Span(float(start), float(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]
        turns += [Turn(span.start, span.end, str(voice)) for span in intersect(own, speech)]
    return turns


class PyannoteDiarizer:
    """A pipeline of pyannote.audio, with overlaps: a folder with its `config.yaml`, or a name in the hub's cache."""

    def __init__(self, pipeline: str, device: str = "cpu"):
        _refuse_missing(pipeline)
        os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "false")  # it would report its use to its authors
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from pyannote.audio import Pipeline

        try:
            self._pipeline = Pipeline.from_pretrained(_pipeline_folder(pipeline))
            self._pipeline.to(torch.device(device))
        except Exception as error:  # whatever foreign settings make foreign code raise
            raise MissingModelError(f"the diarizer `{pipeline}` cannot be loaded: {error}",
                                    hint=_how_to_fetch(pipeline)) from error
        self.name = pipeline
        self.version = f"pyannote.audio {_package_version('pyannote.audio')} {_revision(_pipeline_folder(pipeline))}"

    def diarize(self, recording: Recording, speech: Sequence[Span]) -> list[Turn]:
        """Return what the pipeline finds, where `speech` is; it needs the whole waveform, 230 MB an hour."""
        if not speech:
            return []
        waveform = torch.from_numpy(np.concatenate([block for _, block in recording.blocks(_BLOCK_SECONDS, RATE)]))
        found = self._pipeline({"waveform": waveform[None], "sample_rate": RATE})
        annotation = getattr(found, "speaker_diarization", found)  # before 4.0 it is the result itself
        return name_speakers(_within(speech, [
            Turn(segment.start, segment.end, str(speaker))
            for segment, _, speaker in annotation.itertracks(yield_label=True)
        ]))


def _within(speech: Sequence[Span], turns: Sequence[Turn]) -> list[Turn]:
    return [Turn(span.start, span.end, speaker) for speaker in sorted({turn.speaker for turn in turns})
            for span in intersect(union(turn.span for turn in turns if turn.speaker == speaker), speech)]


def _pipeline_folder(pipeline: str) -> Path | None:
    """Return the folder of a pipeline given as a folder or by its name in the hub's cache; None when it is not here."""
    if Path(pipeline).is_dir():
        return Path(pipeline) if (Path(pipeline) / PIPELINE_FILE).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(pipeline, PIPELINE_FILE)
    except ValueError:  # a path cannot be a name
        return None
    return Path(config).parent if isinstance(config, str) else None


def _how_to_fetch(pipeline: str) -> str:
    name = "pyannote/speaker-diarization-community-1" if Path(pipeline).exists() else pipeline
    return (f"accept the conditions on https://hf.co/{name}, then: hf download {name} --local-dir FOLDER, and "
            f"--diarizer FOLDER; or --diarizer {RESEMBLYZER}, which needs no download")


def missing_diarizer(name: str) -> str:
    """Say what has to be installed or fetched before `load_diarizer(name)` can work, '' when nothing has."""
    if name == RESEMBLYZER:
        absent = [package for package in ("resemblyzer", "webrtcvad", "librosa") if find_spec(package) is None]
        return f"{' and '.join(f'`{package}`' for package in absent)} ({_INSTALL_RESEMBLYZER})" if absent else ""
    if _pipeline_folder(name) is None:
        return f"the pipeline `{name}`, which is not on this machine ({_how_to_fetch(name)})"
    if find_spec("pyannote") is None or find_spec("pyannote.audio") is None:
        return f"`pyannote.audio` (pip install pyannote.audio, or --diarizer {RESEMBLYZER})"
    return ""


def _refuse_missing(name: str) -> None:
    if missing := missing_diarizer(name):
        what, _, hint = missing.partition(" (")
        raise MissingModelError(f"the diarizer `{name}` needs {what}", hint=hint.removesuffix(")"))


def load_diarizer(name: str, device: str = "cpu") -> Diarizer:
    """Return the diarizer `resemblyzer`, or the pipeline of pyannote.audio in a folder or in the hub's cache.

    Nothing is downloaded. Raises `MissingModelError` when its package or its weights are not on this machine.
    """
    return ResemblyzerDiarizer() if name == RESEMBLYZER else PyannoteDiarizer(name, device)


def _revision(folder: Path) -> str:
    """Return the commit of a folder in the hub's cache, else a hash of all of its files."""
    if folder.parent.name == "snapshots":
        return folder.name[:_REVISION_DIGITS]
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    hashes = "".join(f"{file.relative_to(folder).as_posix()} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(hashes.encode()).hexdigest()[:_REVISION_DIGITS]


def _package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
