"""What every step found in every recording: OUT/work/STEP/STEM.json, and what is still to be found.

A file appears whole or not at all. It begins with the fingerprint of all that it depends on: the step's settings, the
recording, what the step reads beside it, and the same of the steps that it needs. A file with another fingerprint
counts as none, so changed settings redo a step and what follows from it, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.artifacts import storage
from stages.audio.base import AudioError
from stages.config.resolve import flatten, running_keys
from stages.config.stage_configs import CurateConfig
from stages.curation.clips import file_names
from stages.curation.recordings import Recording
from stages.curation.screening import OF_THE_MACHINE
from stages.curation.steps import Step

_HEAD_BYTES = 512  # the first line of a file, which may be long: fingerprint, reason and seconds
_HEAD = ("key", "reason", "seconds", "took", "first")
_begun: set[str] = set()  # steps that this process has run: the first time of each includes loading its model


@dataclass(frozen=True)
class Head:
    """The beginning of a result: what it depends on, why it drops the recording, seconds of audio, seconds it took."""

    key: str
    reason: str
    seconds: float
    took: float
    first: bool  # of its process, which loaded the model for it


@dataclass(frozen=True)
class Job:
    """One step for one recording: what another process needs to do it. `inputs` maps steps to their results' files."""

    step: Step
    recording: Recording
    config: CurateConfig
    seconds: float
    inputs: dict[str, Path]
    key: str
    path: Path


def do_job(job: Job) -> Head:
    """Run the step on the recording and keep what it found."""
    inputs = {name: storage.read_json(path) for name, path in job.inputs.items()}
    first = job.step.name not in _begun
    _begun.add(job.step.name)
    began, used = time.perf_counter(), time.process_time()
    try:
        found = job.step.run(job.recording, inputs, job.config)
    except AudioError as error:
        found = {"reason": error.reason, "detail": error.detail}
    took = round(time.perf_counter() - began, 4)
    cpu = round(time.process_time() - used, 4)  # beside `took`: on a busy machine it takes longer than it needs
    return keep_result(job, found | {"cpu": cpu}, took, first)


def keep_result(job: Job, found: dict, took: float = 0.0, first: bool = True) -> Head:
    """Write what was found; return its beginning."""
    head = Head(job.key, found.get("reason", ""), found.get("seconds", job.seconds), took, first)
    line = storage.to_json_line({"format_version": storage.FORMAT_VERSION, **asdict(head)})
    rest = {name: value for name, value in found.items() if name not in _HEAD}
    storage.write_text(job.path, line.rstrip("}\n") + ",\n" + storage.to_json_line({"step": job.step.name, **rest})[1:])
    return head


class WorkFolder:
    """The results of a chain of steps (in order) for the recordings of a corpus."""

    def __init__(self, out: Path, recordings: tuple[Recording, ...], steps: tuple[Step, ...], config: CurateConfig):
        self._folder, self._config = out / "work", config
        self.steps = steps
        self._files = file_names([recording.id for recording in recordings])
        self._keys = dict(zip(self._files, _all_keys(recordings, steps, config), strict=True))
        self.fingerprint = storage.fingerprint_of([config_identity(config), self._keys])
        self._heads: dict[tuple[str, str], Head] = {}

    def path(self, name: str, recording: Recording) -> Path:
        return self._folder / name / f"{self._files[recording.id]}.json"

    def head(self, name: str, recording: Recording) -> Head | None:
        """Return the beginning of a result, None when there is none that still holds."""
        found = self._heads.get((name, recording.id)) or _read_head(self.path(name, recording))
        if found is None or found.key != self._keys[recording.id][name]:
            return None
        self._heads[name, recording.id] = found
        return found

    def result(self, name: str, recording: Recording) -> dict:
        """Return a result that `head` found."""
        return storage.read_json(self.path(name, recording))

    def dropped_by(self, recording: Recording) -> tuple[str, str] | None:
        """Return the first step that dropped a recording, and its reason."""
        for step in self.steps:
            head = self.head(step.name, recording)
            if head is not None and head.reason:
                return step.name, head.reason
        return None

    def is_due(self, step: Step, recording: Recording) -> bool:
        """Tell whether a step should still be run: it has no result, and no earlier step drops the recording."""
        return self.head(step.name, recording) is None and not self._dropped_before(step, recording)

    def lacks(self, step: Step, recording: Recording) -> list[str]:
        """Name the steps without which this one cannot be run."""
        return [name for name in step.needs if self.head(name, recording) is None]

    def job(self, step: Step, recording: Recording) -> Job:
        first = self.head(self.steps[0].name, recording)
        return Job(step, recording, self._config, first.seconds if first else 0.0,
                   {name: self.path(name, recording) for name in step.needs},
                   self._keys[recording.id][step.name], self.path(step.name, recording))

    def learn(self, step: Step, recording: Recording, head: Head) -> None:
        """Remember what a job returned."""
        self._heads[step.name, recording.id] = head

    def heads(self, step: Step, recordings: tuple[Recording, ...]) -> list[Head]:
        """Return the beginnings of all results of a step."""
        found = (self.head(step.name, recording) for recording in recordings)
        return [head for head in found if head is not None]

    def sweep(self) -> None:
        """Delete what killed processes left under temporary names, and what the machine alone was to blame for."""
        for step in self.steps:
            storage.sweep_temporaries(self._folder / step.name)
        first = self.steps[0].name
        for stem in self._files.values() if first in self._config.steps else ():
            file = self._folder / first / f"{stem}.json"
            if (head := _read_head(file)) and head.reason in OF_THE_MACHINE:
                file.unlink()

    def _dropped_before(self, step: Step, recording: Recording) -> bool:
        earlier = self.steps[: self.steps.index(step)]
        heads = (self.head(other.name, recording) for other in earlier)
        return any(head is not None and head.reason for head in heads)


def config_identity(config: CurateConfig) -> dict:
    """Return the settings that a result depends on."""
    free = running_keys(config)
    return {key: value for key, value in flatten(config).items() if key not in free}


def belongs_to(name: str, rank: int, world_size: int) -> bool:
    """Tell whether a recording of that id is one of this process's, whatever else there is."""
    return int(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12], 16) % world_size == rank


def _read_head(path: Path) -> Head | None:
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD_BYTES)
    except OSError:
        return None
    try:
        values = json.loads(start.split(b"\n")[0].rstrip(b",") + b"}")
        return Head(**{name: values[name] for name in _HEAD})
    except (ValueError, KeyError):  # not of this form: of another version, or of somebody else
        return None


def _all_keys(
    recordings: tuple[Recording, ...], steps: tuple[Step, ...], config: CurateConfig
) -> Iterator[dict[str, str]]:
    """Yield step -> fingerprint for every recording."""
    settings = {step.name: step.settings(config) for step in steps}
    suffixes = {suffix for step in steps for suffix in step.beside}
    listed: dict[Path, set[str]] = {}
    for recording in recordings:
        assert recording.audio is not None
        beside = _beside(recording.audio, suffixes, listed)
        facts = [recording.id, recording.source, file_size(recording.audio)]
        keys: dict[str, str] = {}
        for step in steps:
            read = {suffix: beside[suffix] for suffix in step.beside if suffix in beside}
            parents = [keys[name] for name in step.needs]
            keys[step.name] = storage.fingerprint_of([step.name, settings[step.name], facts, read, parents])
        yield keys


def file_size(path: Path) -> int:
    """Return the bytes of a file, -1 when it cannot be asked."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def _beside(audio: Path, suffixes: set[str], listed: dict[Path, set[str]]) -> dict[str, str]:
    """Return suffix -> sha256 of the files beside a recording that have its name; folders are listed once."""
    if audio.parent not in listed:
        there = audio.parent.iterdir() if suffixes and audio.parent.is_dir() else ()
        listed[audio.parent] = {file.name for file in there}
    files = {suffix: audio.with_suffix(suffix) for suffix in sorted(suffixes)}
    return {suffix: storage.sha256_file(file) for suffix, file in files.items() if file.name in listed[audio.parent]}
