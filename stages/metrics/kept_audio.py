"""The sounds of an evaluation, on disk: what is scored is what lies there, and what lies there is not made again.

```
OUT/recordings/ID.wav   the test set's own speech
OUT/prompts/ID.wav      the voice that a system was to speak ID with, where that is another recording
OUT/audio/SYSTEM/ID.wav what a system said; ID.take2.wav is said once more, with another seed
OUT/made.jsonl          a line for each: what it was made of, how, and why there is none
```
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stages.artifacts.journal import Journal
from stages.artifacts.manifest import Utterance
from stages.artifacts.storage import fingerprint_of, sha256_file, sweep_temporaries
from stages.audio.io import AudioError, audio_info, read_audio, write_audio
from stages.metrics.cases import Case, file_stem
from stages.metrics.sounds import FAILED, SCORED, Attempt, Output, Sound, read_recording
from stages.parallel import ALONE, Share

MADE = "made.jsonl"


@dataclass(frozen=True)
class Made:
    """A sound that lies at `audio`, a path below the evaluation's folder; or the `reason` why there is none.

    The first `prompt_seconds` of its `seconds` were given to the system. `peak_memory` is in bytes.
    """

    status: str
    reason: str = ""
    audio: str | None = None
    audio_sha256: str | None = None
    seconds: float | None = None
    prompt_seconds: float | None = None
    seconds_to_make: float | None = None
    peak_memory: int | None = None
    stop_reason: str = ""
    finished: bool = False


class KeptAudio:
    """The sounds below `folder`, each known by its path and by what it was made of."""

    def __init__(self, folder: Path, share: Share = ALONE):
        self.folder, self._journal = folder, Journal(folder / MADE, share)
        self._lines = {line["path"]: line for line in self._journal.rows()}

    def find(self, path: str, made_of: str) -> Made | None:
        """Return what was made of the same things before, or None when it is still to be made."""
        line = self._lines.get(path)
        if line is None or line["made_of"] != made_of:
            return None
        made = Made(**line["made"])
        return made if made.audio is None or (self.folder / made.audio).is_file() else None

    def keep(self, path: str, made_of: str, attempt: Attempt, comment: str | None = None) -> Made:
        """Write the sound, 16-bit PCM at its own rate, then the line that says so. `comment` goes into the file.

        A sound that cannot be written, such as one of samples that are no numbers, is a failure of the system.
        """
        try:
            made = self._written(path, attempt, comment)
        except AudioError as error:
            made = Made(FAILED, error.message)
        if made.audio is None:
            (self.folder / path).unlink(missing_ok=True)
        line = {"path": path, "made_of": made_of, "made": asdict(made)}
        self._journal.add(line)
        self._lines[path] = line
        return made

    def _written(self, path: str, attempt: Attempt, comment: str | None) -> Made:
        made, output = Made(attempt.status, attempt.reason), attempt.output
        if output is None:
            return made
        sound = output.sound
        write_audio(self.folder / path, sound.waveform, sound.sample_rate, comment)
        return replace(made, audio=path, audio_sha256=sha256_file(self.folder / path), seconds=sound.seconds,
                       prompt_seconds=output.prompt_samples / sound.sample_rate,
                       seconds_to_make=output.seconds_to_make, peak_memory=output.peak_memory,
                       stop_reason=output.stop_reason, finished=output.finished)

    def keep_utterance(self, path: str, utterance: Utterance) -> Made:
        """Return a recording of the test set, copied if it is not yet there; raise `AudioError` if it is damaged."""
        state = utterance.audio.stat()
        made_of = fingerprint_of([str(utterance.audio), utterance.start, utterance.duration, state.st_size,
                                  state.st_mtime_ns])
        return self.find(path, made_of) or self.keep(
            path, made_of, Attempt(SCORED, output=Output(read_recording(utterance))))

    def read(self, made: Made) -> Sound:
        """Return the samples that lie on disk."""
        path = self.folder / made.audio
        return Sound(read_audio(path), audio_info(path).sample_rate)


def sweep_sounds(folder: Path) -> None:
    """Delete what killed processes left of sounds that they were writing."""
    for part in (folder / "recordings", folder / "prompts", *(folder / "audio").glob("*")):
        sweep_temporaries(part)


def recording_path(case: Case) -> str:
    return f"recordings/{file_stem(case.id)}.wav"


def prompt_path(case: Case) -> str:
    return f"prompts/{file_stem(case.id)}.wav"


def output_path(system: str, case: Case, take: int = 1) -> str:
    """Return where a system's output lies; the first take has the utterance's name."""
    again = f".take{take}" if take > 1 else ""
    return f"audio/{file_stem(system)}/{file_stem(case.id)}{again}.wav"
