"""Curate recordings that have transcripts, in two passes.

Every recording is decoded and measured once (remembered in a journal), then what the measurements select is written.
All decisions between the passes are pure functions of the measurements and the settings, so a run that was killed
anywhere ends with the same bytes as one that was not.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from stages.artifacts import storage
from stages.artifacts.run_dir import Output
from stages.config.stage_configs import CurateConfig
from stages.curation.clips import clear_clips, write_utterances
from stages.curation.oddities import describe_oddities, tell_oddities
from stages.curation.readers import Corpus
from stages.curation.result import JOURNAL, REJECTED, refuse_nothing, refuse_too_many_bad, write_result
from stages.curation.screening import Measurement, Rejection, measure, screen
from stages.curation.segmentation import Assembly, assemble
from stages.curation.splits import assign_splits, texts_in_several_splits
from stages.curation.statistics import describe
from stages.parallel import ordered_map
from stages.progress import Progress


def curate_transcribed(corpus: Corpus, config: CurateConfig, output: Output, work: str) -> None:
    """Fill the output folder; `work` identifies the settings and recordings that its journal belongs to."""
    measurements = _measure_all(corpus, config, output.path, work)
    assemblies, rejections, shared_texts = _select(corpus, measurements, config)
    storage.write_jsonl(output.path / REJECTED, [rejection.to_row() for rejection in rejections])
    _check_enough(corpus, assemblies, rejections, config)
    rows = write_utterances(corpus.root, assemblies, config, output.path)
    accepted = sum(len(assembly.takes) for assembly in assemblies)
    statistics = describe(rows, rejections, len(corpus.recordings), accepted)
    odd = describe_oddities((measured.sample_rate, measured.warnings) for measured in measurements.values()
                            if not measured.reason)
    tell_oddities(odd, config.sample_rate, config.clips != "reference")
    write_result(output, corpus, config, rows, statistics | {
        "work": work,
        "texts_in_several_splits": shared_texts,
        **odd,
    })


# ---- first pass: what the recordings are


def _measure_all(corpus: Corpus, config: CurateConfig, out: Path, work: str) -> dict[str, Measurement]:
    """Decode every recording that the journal does not know yet."""
    known = _open_journal(out, work)
    missing = [recording for recording in corpus.recordings if recording.id not in known]
    progress = Progress("checking recordings", len(corpus.recordings), start=len(known))
    try:
        for measured in ordered_map(lambda item: measure(item, corpus.root, config), missing, config.workers):
            storage.append_jsonl(out / JOURNAL, asdict(measured))
            known[measured.id] = measured
            progress.advance(note=measured.reason)
    finally:
        progress.close()
    return known


def _open_journal(out: Path, work: str) -> dict[str, Measurement]:
    """Return what is known, and forget all (and old clips) if it was found with other settings or inputs."""
    rows = storage.read_journal(out / JOURNAL)
    if rows and rows[0].get("work") == work:
        clear_clips(out, keep=True)
        return {row["id"]: Measurement(**row) for row in rows[1:]}
    (out / JOURNAL).unlink(missing_ok=True)
    clear_clips(out)
    storage.append_jsonl(out / JOURNAL, {"work": work})
    return {}


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


def _check_enough(
    corpus: Corpus, assemblies: list[Assembly], rejections: list[Rejection], config: CurateConfig
) -> None:
    """Stop if too much audio is bad, or nothing is left; `rejected.jsonl` is written by now."""
    total = len(corpus.recordings)
    refuse_too_many_bad([rejection.reason for rejection in rejections if rejection.is_bad_audio], total, config)
    refuse_nothing(len(assemblies), [rejection.reason for rejection in rejections], total, config)
