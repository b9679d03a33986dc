"""First half of an evaluation: every sound that is to be scored, made once and kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stages.audio.io import SYNTHETIC, AudioError
from stages.errors import UnfinishedSpeechError, UsageError
from stages.metrics.cases import Case
from stages.metrics.kept_audio import KeptAudio, Made, output_path, prompt_path, recording_path
from stages.metrics.scoring import AllMade, Scene
from stages.metrics.sounds import FAILED, MISSING, SCORED, Attempt, Sound
from stages.progress import Progress
from stages.synthesis.sources import Source, Speak

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


def keep_scenes(sounds: KeptAudio, cases: Sequence[Case]) -> list[Scene]:
    """Copy the recordings and prompts of the cases; those of which one is damaged are refused."""
    return [_scene(sounds, case) for case in cases]


def _scene(sounds: KeptAudio, case: Case) -> Scene:
    if not case.refused:
        try:
            recording = sounds.keep_utterance(recording_path(case), case.recording) if case.recording else None
            prompt = sounds.keep_utterance(prompt_path(case), case.prompt) if case.prompt else None
            return Scene(case, recording, prompt)
        except AudioError as error:
            refused = f"its recording or prompt: {error.message}"
    else:
        refused = case.refused
    log.warning("`%s` refused: %s", case.id, refused)
    return Scene(case, refused=refused)


def errands_of(source: Source, scenes: Sequence[Scene], takes: int) -> list[Errand]:
    """Return what a source has to say: a model that samples says everything `takes` times, others once."""
    numbers = range(1, (takes if source.speaks else 1) + 1)
    return [Errand(source, scene, take) for scene in scenes if not scene.refused for take in numbers]


def make_audio(
    sounds: KeptAudio, scenes: Sequence[Scene], sources: Sequence[Source], takes: int, device: torch.device
) -> AllMade:
    """Let every source say what it has not said before, and return what all have said.

    One source follows the other, so that one model is loaded at a time.
    """
    errands = {source.name: errands_of(source, scenes, takes) for source in sources}
    made = {errand: done for theirs in errands.values() for errand in theirs if (done := errand.done(sounds))}
    progress = Progress("make audio", sum(map(len, errands.values())), start=len(made))
    for source in sources:
        todo = [errand for errand in errands[source.name] if errand not in made]
        speak = source.open(device) if todo else None
        for errand in todo:
            comment = SYNTHETIC if source.speaks else None  # what our model says
            made[errand] = sounds.keep(errand.path, errand.made_of, attempt(sounds, errand, speak), comment)
            progress.advance(note=f"{source.name}: {errand.case.id}")
        del speak
        if device.type == "cuda":
            torch.cuda.empty_cache()
    progress.close()
    return {(errand.case.id, errand.take, name): made[errand] for name, theirs in errands.items() for errand in theirs}


def attempt(sounds: KeptAudio, errand: Errand, speak: Speak) -> Attempt:
    """Return what a source made of a scene. Failures of one utterance do not end the evaluation."""
    scene = errand.scene
    recording: Sound | None = sounds.read(scene.recording) if scene.recording else None
    try:
        output = speak(scene.case, recording, errand.take)
    except (UsageError, AudioError, UnfinishedSpeechError) as error:
        reason = error.message
    except torch.OutOfMemoryError:
        reason = "out of memory"
    else:
        return Attempt(SCORED, "", output) if output is not None else Attempt(MISSING, "there is no audio for it")
    log.warning("`%s` of `%s` failed: %s", errand.case.id, errand.source.name, reason)
    return Attempt(FAILED, reason)
