"""First half of an evaluation: every sound that is to be scored, made once and kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from stages.artifacts.journal import Journal
from stages.audio.io import SYNTHETIC, AudioError
from stages.config.stage_configs import EvalConfig
from stages.errors import HalleError, UnfinishedSpeechError, UsageError, is_out_of_memory
from stages.metrics.cases import Case, refuse_bad_set
from stages.metrics.kept_audio import MADE, KeptAudio, Made, output_path, prompt_path, recording_path
from stages.metrics.scoring import AllMade, Scene
from stages.metrics.sounds import FAILED, MISSING, SCORED, Attempt
from stages.parallel import Share
from stages.progress import Progress
from stages.synthesis.sources import Prompter, Source, Speak, Task
from stages.training.processes import Processes

log = logging.getLogger("halle.eval")


@dataclass(frozen=True, eq=False)
class Errand:
    """One sound to be made: what `source` says of a scene for the n-th time."""

    source: Source
    scene: Scene
    take: int

    @property
    def case(self) -> Case:
        return self.scene.case

    @property
    def path(self) -> str:
        return output_path(self.source.name, self.case, self.take)

    @property
    def made_of(self) -> str:
        return self.source.made_of(self.case)

    def done(self, sounds: KeptAudio) -> Made | None:
        return sounds.find(self.path, self.made_of)


def keep_scenes(sounds: KeptAudio, cases: Iterable[Case]) -> list[Scene]:
    """Copy the recordings and prompts of the cases; those of which one is damaged are refused."""
    return [_scene(sounds, case) for case in cases]


def _scene(sounds: KeptAudio, case: Case) -> Scene:
    if case.refused:
        return Scene(case, refused=case.refused)
    try:
        recording = sounds.keep_utterance(recording_path(case), case.recording) if case.recording else None
        prompt = sounds.keep_utterance(prompt_path(case), case.prompt) if case.prompt else None
        return Scene(case, recording, prompt)
    except AudioError as error:
        return Scene(case, refused=f"its recording or prompt: {error.message}")


def refuse_bad_scenes(scenes: Sequence[Scene], config: EvalConfig) -> None:
    """Say which utterances cannot be judged; stop when they are too many."""
    refused = [scene for scene in scenes if scene.refused]
    for scene in refused:
        log.warning("`%s` refused: %s", scene.case.id, scene.refused)
    refuse_bad_set([scene.refused for scene in refused], len(scenes), config.bad_allowed(len(scenes)))


def errands_of(source: Source, scenes: Sequence[Scene], takes: int) -> list[Errand]:
    """Return what a source has to say: a model that samples says everything `takes` times, others once."""
    numbers = range(1, (takes if source.speaks else 1) + 1)
    return [Errand(source, scene, take) for scene in scenes if not scene.refused for take in numbers]


@dataclass(frozen=True)
class Studio:
    """Where sounds are made: all `processes` do a share of them and write it to `sounds`."""

    sounds: KeptAudio
    processes: Processes
    share: Share

    def join(self) -> Studio:
        """Wait for the others, and return the same with the sounds of all."""
        folder = self.sounds.folder
        self.processes.wait()
        self.processes.on_main(Journal(folder / MADE).join)
        return replace(self, sounds=KeptAudio(folder, self.share))

    def keep_scenes(self, cases: Sequence[Case]) -> tuple[Studio, list[Scene]]:
        """Copy the recordings and prompts of all cases; those of which one is damaged are refused."""
        if self.processes.world_size == 1:
            return self, keep_scenes(self.sounds, self.share.of(cases))
        keep_scenes(self.sounds, self.share.of(cases))
        joined = self.join()
        return joined, keep_scenes(joined.sounds, cases)  # finds what was copied

    def make_audio(self, scenes: Sequence[Scene], sources: Sequence[Source], takes: int) -> tuple[Studio, AllMade]:
        """Let every source say what it has not said before, and return what all have said.

        One source follows the other, so that one model is loaded at a time.
        """
        errands = [errand for source in sources for errand in errands_of(source, scenes, takes)]
        todo = [errand for errand in errands if errand.done(self.sounds) is None]
        self.processes.wait()  # nobody writes before all have seen the same
        progress = Progress("make audio", len(errands), start=len(errands) - len(todo))
        for source, theirs in groupby(self.share.of(todo), key=lambda errand: errand.source):
            self._make(source, theirs, progress)
        progress.close()
        joined = self.join()
        made = {(each.case.id, each.take, each.source.name): each.done(joined.sounds) for each in errands}
        return joined, made

    def _make(self, source: Source, errands: Iterable[Errand], progress: Progress) -> None:
        device = self.processes.device
        speak = source.open(device)
        comment = SYNTHETIC if source.speaks else None  # what our model says
        for group in in_batches(errands, source.batch_size):
            for errand, found in zip(group, attempt_all(self.sounds, group, speak), strict=True):
                self.sounds.keep(errand.path, errand.made_of, found, comment)
                progress.advance(note=f"{source.name}: {errand.case.id}")
        del speak
        if device.type == "cuda":
            torch.cuda.empty_cache()


def in_batches(errands: Iterable[Errand], size: int) -> Iterator[list[Errand]]:
    """Yield groups of `size`, of about equally long texts when they are several; else one by one, as they are taken."""
    if size == 1:
        yield from ([errand] for errand in errands)
        return
    ordered = sorted(errands, key=lambda errand: len(errand.case.text))
    yield from (ordered[first : first + size] for first in range(0, len(ordered), size))


def attempt_all(sounds: KeptAudio, errands: Sequence[Errand], speak: Speak | Prompter) -> list[Attempt]:
    """Return what a source made of each scene, several at once; when that fails, of one after the other."""
    if len(errands) > 1:
        try:
            outputs = speak.together([_task(sounds, errand) for errand in errands])
            return [Attempt(SCORED, "", output) for output in outputs]
        except (UsageError, AudioError, RuntimeError, MemoryError) as error:
            if not (isinstance(error, HalleError) or is_out_of_memory(error)):
                raise
            log.warning("%d texts at once failed (%s): they are spoken one by one", len(errands), error)
    return [attempt(sounds, errand, speak) for errand in errands]


def _task(sounds: KeptAudio, errand: Errand) -> Task:
    recording = errand.scene.recording
    return Task(errand.case, sounds.read(recording) if recording else None, errand.take)


def attempt(sounds: KeptAudio, errand: Errand, speak: Speak) -> Attempt:
    """Return what a source made of a scene. Failures of one utterance do not end the evaluation."""
    try:
        output = speak(_task(sounds, errand))
    except (UsageError, AudioError, UnfinishedSpeechError) as error:
        reason = error.message
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = "out of memory"
    else:
        return Attempt(SCORED, "", output) if output is not None else Attempt(MISSING, "there is no audio for it")
    log.warning("`%s` of `%s` failed: %s", errand.case.id, errand.source.name, reason)
    return Attempt(FAILED, reason)
