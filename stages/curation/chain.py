"""The steps of curating untranscribed recordings, in order, and running them."""

from __future__ import annotations

import logging
import os
from concurrent.futures.process import BrokenProcessPool

from stages.config.stage_configs import CurateConfig
from stages.curation.cutting import CUT
from stages.curation.diarization import DIARIZE
from stages.curation.duplicates import FINGERPRINT
from stages.curation.filters import missing_for_language
from stages.curation.gate import GATE
from stages.curation.recordings import Recording
from stages.curation.soundness import CHECK
from stages.curation.steps import Step
from stages.curation.throughput import hours_per_hour
from stages.curation.transcription import TRANSCRIBE
from stages.curation.voice_activity import VAD
from stages.curation.work import Head, Job, WorkFolder, do_job, keep_result
from stages.errors import HalleError, MissingModelError, UsageError
from stages.parallel import CrashError, Workers, run_alone
from stages.progress import Progress
from stages.signals import ENDING

log = logging.getLogger("halle.curate")

STEPS: tuple[Step, ...] = (CHECK, GATE, FINGERPRINT, VAD, DIARIZE, TRANSCRIBE, CUT)


def chosen_steps(config: CurateConfig) -> tuple[Step, ...]:
    """Return the steps that this run does, in their order."""
    return tuple(step for step in STEPS if step.name in config.steps)


def missing_models(config: CurateConfig) -> dict[str, str]:
    """Return step -> what has to be installed before it can run, for the chosen steps that lack something."""
    missing = {step.name: step.missing(config) for step in chosen_steps(config)}
    if "write" in config.steps:
        missing["write"] = missing_for_language(config)
    return {name: what for name, what in missing.items() if what}


def refuse_missing_models(config: CurateConfig) -> None:
    missing = missing_models(config)
    if missing:
        told = "; ".join(f"step `{name}` needs {what}" for name, what in missing.items())
        present: list[str] = []  # what needs none of them
        for step in STEPS:
            if step.name not in missing and all(name in present or name not in config.steps for name in step.needs):
                present.append(step.name)
        can = [name for name in present if name in config.steps]
        others = f", or do the others now: --steps {','.join(can)}" if can else ""
        raise MissingModelError(told, f"choose another model{others}")


def count_workers(config: CurateConfig, device: str, world_size: int) -> int:
    """Return how many recordings a process works on at once: a graphics card serves one caller."""
    if config.workers:
        return config.workers
    return (os.cpu_count() or 1) if device == "cpu" and world_size == 1 else 1


def run_step(step: Step, recordings: tuple[Recording, ...], work: WorkFolder, workers: Workers) -> None:
    """Run a step for those of the recordings that have no result of it yet."""
    due = [recording for recording in recordings if work.is_due(step, recording)]
    _refuse_lacking(step, due, work)
    progress = Progress(step.name, len(recordings), start=len(recordings) - len(due))
    try:
        while due:
            jobs = [work.job(step, recording) for recording in due]
            try:
                for job, head in workers.map(do_job, jobs):
                    work.learn(step, job.recording, head)
                    progress.advance(note=head.reason)
            except BrokenProcessPool:
                undone = [job for job in jobs if work.is_due(step, job.recording)]
                for head in _try_alone(step, undone[: workers.count], work, not work.heads(step, recordings)):
                    progress.advance(note=head.reason)
                workers.restart()
            due = [recording for recording in due if work.is_due(step, recording)]
    finally:
        progress.close()
    speed = hours_per_hour(work.heads(step, recordings))
    log.info("%s: %d recordings%s", step.name, len(recordings), f", {speed:.0f} hours an hour" if speed else "")


def _try_alone(step: Step, jobs: list[Job], work: WorkFolder, is_first: bool) -> list[Head]:
    """Do the first jobs that are not done, each in a process of its own: one of them is what a process died of.

    It drops its recording, unless this `is_first` of the step and all die of theirs.
    """
    heads, crashes = [], []
    for job in jobs:
        try:
            heads.append(run_alone(do_job, job))
            work.learn(step, job.recording, heads[-1])
        except CrashError as error:
            if error.signal in (0, *ENDING):
                raise HalleError(f"a process of step `{step.name}` was killed, perhaps for want of memory",
                                 "run the same command again with fewer at once: -O workers=1") from error
            crashes.append((job, f"step `{step.name}` died of it ({error})"))
    if is_first and not heads and len(crashes) > 1:
        raise HalleError(f"step `{step.name}` died of each of {len(crashes)} recordings: {crashes[0][1]}",
                         "is what it needs installed as it should be? -O workers=1 shows where it dies")
    for job, detail in crashes:
        heads.append(keep_result(job, {"reason": "DECODER_CRASH", "detail": detail}))
        work.learn(step, job.recording, heads[-1])
    return heads


def _refuse_lacking(step: Step, due: list[Recording], work: WorkFolder) -> None:
    lacking = {name for recording in due for name in work.lacks(step, recording)}
    if lacking:
        names = [other.name for other in STEPS if other.name in lacking]
        count = sum(bool(work.lacks(step, recording)) for recording in due)
        raise UsageError(f"step `{step.name}` needs what {' and '.join(f'`{name}`' for name in names)} found, "
                         f"which {count} of {len(due)} recordings lack",
                         f"--steps {','.join([*names, step.name])}")
