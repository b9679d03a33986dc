"""Curate recordings without transcripts: steps per recording, shared by all processes, then one selection.

    check -> gate -> fingerprint -> vad -> diarize -> transcribe -> cut  |  all processes wait  |  select, write

Results of steps are kept (stages/curation/work.py): any process may be killed at any time, and steps may run on
different machines one after the other; the end is the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from stages.artifacts import storage
from stages.artifacts.run_dir import Output
from stages.audio.io import AudioError, audio_info
from stages.config.stage_configs import CurateConfig
from stages.curation import chain
from stages.curation.clips import clear_clips, write_utterances
from stages.curation.histogram import load_histogram
from stages.curation.oddities import tell_oddities
from stages.curation.readers import Corpus
from stages.curation.result import (
    REJECTED,
    STATISTICS,
    refuse_nothing,
    refuse_too_many_bad,
    write_audio_root,
    write_result,
)
from stages.curation.screening import FILTERS
from stages.curation.selection import Selection, dropped_seconds, select
from stages.curation.sets import set_name, times_of, write_sets
from stages.curation.statistics import describe, table
from stages.curation.throughput import estimate, hours_per_hour
from stages.curation.work import WorkFolder, belongs_to
from stages.data.encoding import one_thread_an_operation
from stages.errors import UsageError
from stages.parallel import Workers
from stages.training.processes import Processes

CLIPS_OF = "work/clips.json"  # which selection the clips belong to
SPEEDS = "work/throughput.json"  # not of the result: no two runs take the same time


def is_finished(output: Path, work: WorkFolder) -> bool:
    """Tell whether the folder holds what these settings, models and recordings would give."""
    return storage.is_complete(output) and storage.read_json(output / STATISTICS).get("work") == work.fingerprint


def open_work(corpus: Corpus, config: CurateConfig, device: str = "cpu") -> WorkFolder:
    """Return the folder of results; steps compute on `device`, that of this process."""
    if config.duration_histogram:
        load_histogram(config.duration_histogram)  # or `write` refuses it, after days
    config = config.model_copy(update={"device": device})
    return WorkFolder(Path(config.out), corpus.recordings, chain.STEPS, config)


def curate_untranscribed(
    corpus: Corpus, config: CurateConfig, output: Output, work: WorkFolder, processes: Processes
) -> None:
    """Do the chosen steps for this process's recordings and, if asked, write the result together."""
    chain.refuse_missing_models(config)
    processes.on_main(work.sweep)
    mine = tuple(recording for recording in corpus.recordings
                 if belongs_to(recording.id, processes.rank, processes.world_size))
    count = min(len(mine), chain.count_workers(config, processes.device.type, processes.world_size))
    with Workers(count) as workers, one_thread_an_operation():
        for step in chain.chosen_steps(config):
            chain.run_step(step, mine, work, workers)
            if step.name == "check":
                processes.wait()
                processes.on_main(lambda: _refuse_bad_audio(corpus, work, config))
    processes.wait()
    if "write" in config.steps:
        _write(corpus, config, output, work, processes)


def _refuse_bad_audio(corpus: Corpus, work: WorkFolder, config: CurateConfig) -> None:
    """Stop before the costly steps when too many recordings are damaged."""
    heads = [(recording, work.head("check", recording)) for recording in corpus.recordings]
    dropped = [(recording, head.reason) for recording, head in heads if head is not None and head.reason]
    if dropped:
        storage.write_jsonl(Path(config.out) / REJECTED, [
            {"id": recording.id, "source": recording.source, "reason": reason,
             "detail": work.result("check", recording)["detail"]} for recording, reason in dropped])
    refuse_too_many_bad([reason for _, reason in dropped if reason not in FILTERS], len(heads), config)


def _write(
    corpus: Corpus, config: CurateConfig, output: Output, work: WorkFolder, processes: Processes
) -> None:
    """Select on every process, write clips on all, and the manifest on one."""
    processes.on_main(lambda: _refuse_undone(corpus, work))
    selection = select(corpus.recordings, work, config)
    processes.on_main(lambda: _prepare(selection, config, output.path))
    write_utterances(corpus.root, selection.assemblies, config, output.path, processes.rank, processes.world_size,
                     in_order=True)
    processes.wait()
    processes.on_main(lambda: _finish(corpus, config, output, work, selection))


def _refuse_undone(corpus: Corpus, work: WorkFolder) -> None:
    undone = [step.name for step in work.steps if any(work.is_due(step, recording) for recording in corpus.recordings)]
    if undone:
        raise UsageError(f"step `write` needs what {' and '.join(f'`{name}`' for name in undone)} found",
                         f"--steps {','.join([*undone, 'write'])}")


def _prepare(selection: Selection, config: CurateConfig, out: Path) -> None:
    """Write what is dropped, stop if nothing is left, and clear clips of another selection."""
    storage.write_jsonl(out / REJECTED, [rejection.to_row() for rejection in selection.rejections])
    bad = [rejection.reason for rejection in selection.rejections if rejection.is_bad_audio]
    refuse_too_many_bad(bad, selection.recordings, config)
    refuse_nothing(len(selection.assemblies), [rejection.reason for rejection in selection.rejections],
                   selection.recordings, config)
    chosen = [[assembly.id, take.recording.source, take.recording.start, take.duration]
              for assembly in selection.assemblies for take in assembly.takes]
    mark = storage.fingerprint_of([chosen, config.sample_rate, config.loudness_db, config.clips])
    kept = (out / CLIPS_OF).is_file() and storage.read_json(out / CLIPS_OF)["selection"] == mark
    clear_clips(out, keep=kept)
    if not kept:
        storage.write_json(out / CLIPS_OF, {"format_version": storage.FORMAT_VERSION, "selection": mark})


def _finish(
    corpus: Corpus, config: CurateConfig, output: Output, work: WorkFolder, selection: Selection
) -> None:
    rows = write_utterances(corpus.root, selection.assemblies, config, output.path, in_order=True)
    kept, dropped = len(selection.assemblies), selection.rejections
    statistics = describe(rows, dropped, kept + len(dropped), kept)
    write_audio_root(output.path, corpus, config)
    tell_oddities(selection.oddities, config.sample_rate, config.clips != "reference")
    storage.write_json(output.path / SPEEDS, {"format_version": storage.FORMAT_VERSION,
                                              "steps": tell_steps(corpus, work)})
    sets = write_sets(rows, times_of(corpus.recordings, work), config, output.path)
    write_result(output, corpus, config, rows, statistics | {
        "work": work.fingerprint,
        **selection.oddities,
        "table": table({set_name(config.max_seconds): rows, **sets}),
        "texts_in_several_splits": selection.texts_in_several_splits,
        "recordings": selection.recordings,
        "input_seconds": round(selection.seconds, 3),
        "kept_seconds": round(sum(assembly.duration for assembly in selection.assemblies), 3),
        "dropped_seconds": dropped_seconds(dropped),
    })


# ---- what is told


def summarise(corpus: Corpus, config: CurateConfig, work: WorkFolder) -> dict:
    """Return what every step did so far, and how fast."""
    told = {"out": config.out, "layout": corpus.layout, "recordings": len(corpus.recordings)}
    if storage.is_complete(config.out) and (Path(config.out) / SPEEDS).is_file():
        return {**told, "steps": storage.read_json(Path(config.out) / SPEEDS)["steps"]}
    return {**told, "steps": tell_steps(corpus, work)}


def tell_steps(corpus: Corpus, work: WorkFolder) -> dict[str, dict]:
    """Return step -> recordings done and dropped, their hours, and hours of audio an hour and process."""
    steps = {}
    for step in chain.STEPS:
        heads = work.heads(step, corpus.recordings)
        speed = hours_per_hour(heads)
        steps[step.name] = {
            "done": len(heads),
            "dropped": sum(bool(head.reason) for head in heads),
            "hours": round(sum(head.seconds for head in heads) / 3600, 4),
            "hours_per_hour": round(speed, 1) if speed else None,
        }
    return steps


def plan_steps(corpus: Corpus, config: CurateConfig) -> dict:
    """Say how much there is to do, what is missing, and how long it may take; only headers are read."""
    work = open_work(corpus, config)
    seconds, unreadable = 0.0, 0
    for recording in corpus.recordings:
        try:
            seconds += audio_info(recording.audio).duration
        except AudioError:
            unreadable += 1
    hours = seconds / 3600
    done = {step.name: work.heads(step, corpus.recordings) for step in chain.chosen_steps(config)}
    to_write = {"write": []} if "write" in config.steps and not is_finished(Path(config.out), work) else {}
    return {
        "hours": round(hours, 4),
        "unreadable": unreadable,
        "done": {name: len(heads) for name, heads in done.items()},
        "missing_models": chain.missing_models(config),
        "estimate": estimate(hours, done | to_write, config),
    }
