"""Measure what lies on disk, into the JSON-ready rows of items.jsonl: one an utterance and take, every system in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from stages.artifacts.journal import Journal
from stages.metrics.base import Measurement, Metric, MetricInput, Need, not_measured
from stages.metrics.cases import Case
from stages.metrics.kept_audio import MADE, KeptAudio, Made, sweep_sounds
from stages.metrics.measurements import MEASUREMENTS, KeptMeasurements
from stages.metrics.registry import why_not
from stages.metrics.sounds import FAILED, MISSING, RECORDINGS, SCORED, Sound, resample
from stages.metrics.transcripts import TRANSCRIPTS, Heard, words_to_json
from stages.parallel import ALONE, Share
from stages.progress import Progress
from stages.speech.transcriber import Transcript

__all__ = ["FAILED", "MISSING", "RECORDINGS", "SCORED", "AllMade", "Scene", "Scorer", "measures_alone", "row_of",
           "rows_of"]

# What every system made of every utterance, by (id, take, system)
AllMade = dict[tuple[str, int, str], Made]


@dataclass(frozen=True)
class Scene:
    """A case as it lies on disk: the test set's own `recording` of it, if any, and the `prompt` if it is another one.

    One that is `refused` cannot be judged (bad recording, empty text, no prompt).
    """

    case: Case
    recording: Made | None = None
    prompt: Made | None = None
    refused: str = ""

    @property
    def voice(self) -> Made | None:
        """The recording of the voice that systems were to speak with."""
        return self.prompt or self.recording


def row_of(scene: Scene, take: int, systems: dict[str, dict]) -> dict:
    """Return a line of items.jsonl. A scene that was refused is in no denominator, and shown."""
    case = scene.case
    return {
        "id": case.id,
        "take": take,
        "speaker": case.speaker,
        "text": case.text,
        "prompt": case.prompt.id if case.prompt else None,
        "prompt_audio": scene.prompt.audio if scene.prompt else None,
        "refused": scene.refused,
        "reference_seconds": scene.recording.seconds if scene.recording else None,
        "systems": systems,
    }


@dataclass(frozen=True)
class Scorer:
    """Apply metrics to sounds on disk, for an evaluation that offers what metrics `offered` need.

    `heard` and `measured` keep what was done before; only what they lack is heard and measured.
    """

    metrics: Sequence[Metric]
    offered: frozenset[Need]
    sounds: KeptAudio
    heard: Heard | None
    measured: KeptMeasurements
    language: str = "en"

    def score(self, scene: Scene, made: Made) -> dict:
        """Return what a row says of one system: what it made, what was heard in it, and every measurement."""
        return self._entry(self.metrics, scene, made)

    def score_recording(self, scene: Scene) -> dict:
        """Return the same for the recording itself, such as what the recogniser gets wrong of real speech."""
        return self._entry([metric for metric in self.metrics if measures_alone(metric)], scene, scene.recording)

    def _entry(self, metrics: Sequence[Metric], scene: Scene, made: Made) -> dict:
        read = cache(self.sounds.read)
        heard = self._hear(made, read)
        item = cache(lambda: self._to_input(scene, made, heard, read))
        measured = {}
        for metric in metrics:
            found = self._measure(metric, scene, made, heard, item)
            measured[metric.name] = {"value": found.value, "reason": found.reason, **found.numbers,
                                     "details": found.details}
        return asdict(made) | {"heard": heard.text if heard else None,
                               "heard_words": words_to_json(heard.words) if heard else [], "metrics": measured}

    def _hear(self, made: Made, read: Callable[[Made], Sound]) -> Transcript | None:
        if self.heard is None or made.audio is None:
            return None
        return self.heard.of(made.audio_sha256, lambda: read(made))

    def _measure(
        self, metric: Metric, scene: Scene, made: Made, heard: Transcript | None, item: Callable[[], MetricInput]
    ) -> Measurement:
        if reason := why_not(metric, self.offered):
            return not_measured(reason)
        if made.audio is None:
            return metric.measure_failure(item())
        if reason := _lacking(metric, scene, made):
            return not_measured(reason)
        return self.measured.of(metric, self._inputs(metric, scene, made, heard), lambda: metric.measure(item()))

    def _inputs(self, metric: Metric, scene: Scene, made: Made, heard: Transcript | None) -> list:
        """Return all that a measurement depends on; what was heard, only for metrics that ask what was heard."""
        listens = heard is not None and "transcript" in metric.needs
        sounds = [each.audio_sha256 if each else None for each in (made, scene.recording, scene.voice)]
        return [scene.case.text, self.language, *sounds, made.prompt_seconds, made.seconds_to_make, made.peak_memory,
                [heard.text, words_to_json(heard.words)] if listens else None]

    def _to_input(
        self, scene: Scene, made: Made, heard: Transcript | None, read: Callable[[Made], Sound]
    ) -> MetricInput:
        text, recording, voice = scene.case.text, scene.recording, scene.voice
        if made.audio is None:
            return MetricInput(text, 0, language=self.language)
        sound = read(made)
        rate = sound.sample_rate
        return MetricInput(
            text=text,
            sample_rate=rate,
            waveform=sound.waveform,
            prompt_samples=round(made.prompt_seconds * rate),
            reference=resample(read(recording), rate) if recording else None,
            voice=_given(resample(read(voice), rate), scene, made, rate) if voice else None,
            transcript=heard.text if heard else None,
            seconds_to_make=made.seconds_to_make,
            words=heard.words if heard else (),
            peak_memory=made.peak_memory,
            language=self.language,
        )


def rows_of(scorer: Scorer, scenes: Sequence[Scene], made: AllMade, share: Share = ALONE) -> list[list[dict]]:
    """Return the lines of items.jsonl of each scene of a share, one a take.

    In the first take's are the recording and those who say everything once.
    """
    takes: dict[tuple[str, int], dict[str, Made]] = {}
    for (case_id, take, system), output in made.items():
        takes.setdefault((case_id, take), {})[system] = output
    last = max((take for _, take in takes), default=1)
    progress, rows = Progress("score", len(scenes[share.rank :: share.world_size])), []
    for scene in share.of(scenes):
        found = []
        for take in range(1, 2 if scene.refused else last + 1):
            entries = {RECORDINGS: scorer.score_recording(scene)} if scene.recording and take == 1 else {}
            entries |= {system: scorer.score(scene, output)
                        for system, output in takes.get((scene.case.id, take), {}).items()}
            found.append(row_of(scene, take, entries))
        rows.append(found)
        progress.advance(note=scene.case.id)
    progress.close()
    return rows


def tidy(folder: Path) -> None:
    """Bring together what processes of an evaluation have left that were killed."""
    sweep_sounds(folder)
    join_journals(folder)


def join_journals(folder: Path) -> None:
    """Make one file each of what several processes of an evaluation made, heard and measured."""
    for name in (MADE, TRANSCRIPTS, MEASUREMENTS):
        Journal(folder / name).join()


def measures_alone(metric: Metric) -> bool:
    """Tell whether a metric compares with nothing but the text, so that recordings can be measured with it too."""
    return metric.needs <= {"transcript"}


def _given(voice: np.ndarray, scene: Scene, made: Made, sample_rate: int) -> np.ndarray:
    """Return what a system was given of the voice [samples]: of its own recording that it goes on with, the beginning.

    What follows there is what it was to say: similarity to it would be that of the words too.
    """
    if scene.prompt or not made.prompt_seconds:
        return voice
    return voice[: round(made.prompt_seconds * sample_rate)]


def _lacking(metric: Metric, scene: Scene, made: Made) -> str:
    """Return what the metric asks for and this utterance does not have, or ''."""
    if scene.recording is None and metric.needs & {"reference", "aligned_reference"}:
        return "there is no recording of it to compare with"
    if scene.voice is None and "voice" in metric.needs:
        return "there is no recording of the voice"
    if made.seconds_to_make is None and "timing" in metric.needs:
        return "nobody told how long it took to make"
    return ""
