"""Recordings with transcripts -> a manifest of clean, single-speaker utterances.

Two passes: every recording is decoded and measured once (remembered in a journal), then what the measurements
select is written. All decisions between the passes are pure functions of the measurements and the settings, so
a run that was killed anywhere ends with the same bytes as one that was not.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from stages.artifacts import storage
from stages.artifacts.manifest import AUDIO_ROOT_FILE, write_manifest
from stages.artifacts.run_dir import CONFIG, Output, check_output, claim_output
from stages.config.resolve import flatten, running_keys
from stages.config.stage_configs import CurateConfig
from stages.curation.clips import CLIPS, write_utterances
from stages.curation.readers import Corpus, read_corpus
from stages.curation.screening import Measurement, Rejection, measure, screen
from stages.curation.segmentation import Assembly, assemble
from stages.curation.splits import assign_splits, texts_in_several_splits
from stages.curation.statistics import describe
from stages.errors import BadInputsError, UsageError
from stages.parallel import ordered_map
from stages.progress import Progress

log = logging.getLogger("halle.curate")

JOURNAL, REJECTED, STATISTICS = "journal.jsonl", "rejected.jsonl", "statistics.json"


def run(config: CurateConfig) -> dict:
    """Curate `config.source` into `config.out`; return what was kept and what was not."""
    if _is_finished_without_source(config):
        return _summary(config)
    corpus = _read_checked(config)
    parents = {"source": _fingerprint(corpus)}
    work = _work_fingerprint(config, parents)
    with claim_output("curate", config, parents) as output:
        if output.complete and storage.read_json(output.path / STATISTICS).get("work") == work:
            return _summary(config)
        output.reopen()
        measurements = _measure_all(corpus, config, output.path, work)
        assemblies, rejections, shared_texts = _select(corpus, measurements, config)
        storage.write_jsonl(output.path / REJECTED, [rejection.to_row() for rejection in rejections])
        _check_enough(corpus, assemblies, rejections, config)
        rows = write_utterances(corpus.root, assemblies, config, output.path)
        accepted = sum(len(assembly.takes) for assembly in assemblies)
        statistics = describe(rows, rejections, len(corpus.recordings), accepted)
        _finish(output, corpus, config, rows, statistics | {
            "work": work,
            "texts_in_several_splits": shared_texts,
            "low_bit_depth": sum(measured.low_bit_depth for measured in measurements.values()),
        })
    return _summary(config)


def plan(config: CurateConfig) -> dict:
    """Say what `run` would read and write; raise what it would raise before decoding anything."""
    corpus = _read_checked(config)
    check_output("curate", config, {"source": _fingerprint(corpus)})
    out = Path(config.out)
    return {
        "reads": config.source,
        "layout": corpus.layout,
        "recordings": len(corpus.recordings),
        "speakers": len({recording.speaker for recording in corpus.recordings}),
        "unlisted": corpus.unlisted,
        "writes": [(out / name).as_posix() for name in ("manifest.jsonl", REJECTED, STATISTICS)],
        "clips": f"{config.sample_rate} Hz FLAC in {(out / CLIPS).as_posix()}" if config.clips == "flac" else "none",
    }


def _read_checked(config: CurateConfig) -> Corpus:
    if not config.out:
        raise UsageError("expected a folder to write, got nothing", "give --out DIR")
    corpus = read_corpus(config)
    if config.clips == "reference" and corpus.root is None:
        raise UsageError("a dataset has no files to refer to: expected clips `flac`, got `reference`", "--clips flac")
    return corpus


def _is_finished_without_source(config: CurateConfig) -> bool:
    """A finished result stays valid when its recordings are gone, or when its dataset would need the network."""
    out = Path(config.out)
    if config.restart or not config.out or not storage.is_complete(out) or Path(config.source).exists():
        return False
    check_output("curate", config, storage.read_json(out / CONFIG)["parents"])
    return True


def _fingerprint(corpus: Corpus) -> str:
    """Identify the recordings by what the tables say and how large the files are; they are not read for it."""
    facts = []
    for recording in corpus.recordings:
        size = recording.audio.stat().st_size if recording.audio and recording.audio.is_file() else -1
        facts.append([recording.id, recording.source, recording.text, recording.speaker, recording.split,
                      recording.start, recording.duration, size])
    return storage.fingerprint_of(facts)


def _work_fingerprint(config: CurateConfig, parents: dict[str, str]) -> str:
    free = running_keys(config)
    return storage.fingerprint_of([{key: value for key, value in flatten(config).items() if key not in free}, parents])


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
        return {row["id"]: Measurement(**row) for row in rows[1:]}
    (out / JOURNAL).unlink(missing_ok=True)
    with storage.storage_errors(out / CLIPS, "clear"):
        if (out / CLIPS).exists():
            shutil.rmtree(out / CLIPS)
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
    bad = [rejection for rejection in rejections if rejection.is_bad_audio]
    total = len(corpus.recordings)
    where = (Path(config.out) / REJECTED).as_posix()
    if len(bad) > config.bad_allowed(total):
        raise BadInputsError(
            f"expected at most `{config.max_bad}` of {total} recordings to be bad, got {len(bad)}: {_reasons(bad)}",
            f"see {where}; mend or remove them, or allow more: --max-bad {len(bad)} (what was checked is kept)",
        )
    if not assemblies:
        raise BadInputsError(f"none of {total} recordings was accepted: {_reasons(rejections)}", f"see {where}")


def _reasons(rejections: list[Rejection]) -> str:
    counts = Counter(rejection.reason for rejection in rejections)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


# ---- after the second pass


def _finish(
    output: Output, corpus: Corpus, config: CurateConfig, rows: list[dict], statistics: dict
) -> None:
    """Write the manifest last of all, then the checksums that make the folder complete."""
    out = output.path
    header = out / AUDIO_ROOT_FILE
    if config.clips == "reference" and corpus.root is not None:
        root = corpus.root.resolve().as_posix()
        storage.write_json(header, {"format_version": storage.FORMAT_VERSION, "audio_root": root})
    else:
        header.unlink(missing_ok=True)
    storage.write_json(out / STATISTICS, {
        "format_version": storage.FORMAT_VERSION, "layout": corpus.layout, "unlisted": corpus.unlisted,
        **statistics,
    })
    write_manifest(out, rows)
    output.finish(exclude=(JOURNAL,))
    (out / JOURNAL).unlink(missing_ok=True)


def _summary(config: CurateConfig) -> dict:
    """What a user wants to know of a finished result, short enough for a terminal."""
    found = storage.read_json(Path(config.out) / STATISTICS)
    shown = ("layout", "inputs", "accepted", "rejected", "reasons", "unlisted", "clips", "hours", "mean_seconds",
             "sd_seconds", "words", "longest", "texts_in_several_splits")
    splits = {name: values["clips"] for name, values in found["splits"].items()}
    return {"out": config.out, **{key: found[key] for key in shown}, "splits": splits,
            "speakers": len(found["speakers"])}
