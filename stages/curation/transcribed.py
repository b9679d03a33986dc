"""Curate recordings that have transcripts, in two passes.

Every recording is decoded and measured once (remembered in a journal), then what the measurements select is written.
All decisions between the passes are pure functions of the measurements and the settings, so a run that was killed
anywhere ends with the same bytes as one that was not.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from stages.artifacts import storage
from stages.artifacts.journal import Journal
from stages.artifacts.run_dir import Output
from stages.artifacts.team import Team
from stages.config.stage_configs import CurateConfig
from stages.curation.clips import clear_clips, write_utterances
from stages.curation.oddities import describe_oddities, tell_oddities
from stages.curation.readers import Corpus
from stages.curation.recordings import Recording
from stages.curation.result import JOURNAL, REJECTED, refuse_nothing, refuse_too_many_bad, write_result
from stages.curation.screening import OF_THE_MACHINE, Measurement, Rejection, measure, screen
from stages.curation.segmentation import Assembly, assemble
from stages.curation.splits import assign_splits, texts_in_several_splits
from stages.curation.statistics import describe
from stages.parallel import Share, ordered_map
from stages.progress import Progress


def curate_transcribed(corpus: Corpus, config: CurateConfig, output: Output, work: str, team: Team) -> None:
    """Fill the output folder; `work` identifies the settings and recordings that its journal belongs to."""
    measurements = _measure_all(corpus, config, output.path, work, team)
    assemblies, rejections, shared_texts = _select(corpus, measurements, config)
    team.on_main(lambda: _tell_rejections(corpus, assemblies, rejections, config, output.path))
    if team.world_size > 1:
        write_utterances(corpus.root, assemblies, config, output.path, team.rank, team.world_size)
        team.wait()
    odd = describe_oddities((measured.sample_rate, measured.warnings) for measured in measurements.values()
                            if not measured.reason)
    team.on_main(lambda: _finish(corpus, assemblies, rejections, config, output, {
        "work": work,
        "texts_in_several_splits": shared_texts,
        **odd,
    }))


def _finish(corpus: Corpus, assemblies: list[Assembly], rejections: list[Rejection], config: CurateConfig,
            output: Output, facts: dict) -> None:
    rows = write_utterances(corpus.root, assemblies, config, output.path)
    accepted = sum(len(assembly.takes) for assembly in assemblies)
    statistics = describe(rows, rejections, len(corpus.recordings), accepted)
    tell_oddities(facts, config.sample_rate, config.clips != "reference")
    write_result(output, corpus, config, rows, statistics | facts)


# ---- first pass: what the recordings are


def _measure_all(corpus: Corpus, config: CurateConfig, out: Path, work: str, team: Team) -> dict[str, Measurement]:
    """Decode every recording that the journal does not know yet; every process does a share."""
    share = team.share()
    journal = Journal(out / JOURNAL, share)
    team.on_main(lambda: _open_journal(journal, out, work))
    known = {name for name, found in _known(journal).items() if found.reason not in OF_THE_MACHINE}
    team.wait()  # nobody writes before all have seen the same
    missing = [recording for recording in corpus.recordings if recording.id not in known]
    _measure_share(missing, share, journal, corpus, config)
    team.wait()
    team.on_main(journal.join)
    return _known(journal)


def _measure_share(missing: list[Recording], share: Share, journal: Journal, corpus: Corpus,
                   config: CurateConfig) -> None:
    places = range(share.rank, len(missing), share.world_size)
    progress = Progress("checking recordings", len(places))
    try:
        measured = ordered_map(lambda place: measure(missing[place], corpus.root, config), places, config.workers)
        for share.place, found in zip(places, measured, strict=True):
            journal.add(asdict(found))
            progress.advance(note=found.reason)
    finally:
        progress.close()


def _open_journal(journal: Journal, out: Path, work: str) -> None:
    """Forget what is known, and old clips, if it was found with other settings or inputs."""
    rows = storage.read_journal(journal.path)
    same = bool(rows) and rows[0].get("work") == work
    clear_clips(out, keep=same)
    if same:
        journal.join()
    else:
        journal.forget()
        storage.append_jsonl(journal.path, {"work": work})


def _known(journal: Journal) -> dict[str, Measurement]:
    return {row["id"]: Measurement(**row) for row in journal.rows()[1:]}


# ---- between the passes: decisions


def _select(
    corpus: Corpus, measurements: dict[str, Measurement], config: CurateConfig
) -> tuple[list[Assembly], list[Rejection], int]:
    """Return the utterances to write, the rejections in source order, and the sentences in several splits."""
    takes, rejections = screen(corpus.recordings, measurements, config)
    splits, held_out = assign_splits(takes, config)
    assemblies, not_joined = assemble([take for take in takes if take.recording.id in splits], splits, config)
    order = {recording.id: index for index, recording in enumerate(corpus.recordings)}
    rejections = sorted([*rejections, *held_out, *not_joined], key=lambda rejection: order[rejection.recording.id])
    return assemblies, rejections, texts_in_several_splits(takes, splits)


def _tell_rejections(
    corpus: Corpus, assemblies: list[Assembly], rejections: list[Rejection], config: CurateConfig, out: Path
) -> None:
    """Write what was rejected; stop if too much audio is bad, or nothing is left."""
    storage.write_jsonl(out / REJECTED, [rejection.to_row() for rejection in rejections])
    total = len(corpus.recordings)
    refuse_too_many_bad([rejection.reason for rejection in rejections if rejection.is_bad_audio], total, config)
    refuse_nothing(len(assemblies), [rejection.reason for rejection in rejections], total, config)
