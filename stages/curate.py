"""Recordings -> a manifest of clean, single-speaker utterances.

With transcripts, recordings are screened and written (stages/curation/transcribed.py). Without, models find the good
recordings, the speech, its speakers and its words, and utterances are cut out (stages/curation/untranscribed.py).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from stages.artifacts import storage
from stages.artifacts.run_dir import CONFIG, Output, check_output
from stages.artifacts.team import OneProcess, Team
from stages.config.stage_configs import CurateConfig
from stages.curation.clips import CLIPS, MANY_CLIPS, SHARDS
from stages.curation.readers import Corpus, read_corpus
from stages.curation.result import REJECTED, REPORT, STATISTICS
from stages.curation.transcribed import curate_transcribed
from stages.curation.work import config_identity, file_size
from stages.errors import UsageError


def run(config: CurateConfig) -> dict:
    """Curate `config.source` into `config.out`; return what was kept and what was not."""
    if _is_finished_without_source(config):
        return _summary(config)
    corpus = _read_checked(config)
    parents = {"source": _fingerprint(corpus)}
    if corpus.layout == "recordings":
        return _run_untranscribed(corpus, config, parents)
    work = storage.fingerprint_of([config_identity(config), parents])
    team = _team(config)
    with team.claim("curate", config, parents) as output:
        if not output.complete or storage.read_json(output.path / STATISTICS).get("work") != work:
            team.wait()  # nobody changes what another is still looking at
            team.on_main(lambda: _reopen(output))
            curate_transcribed(corpus, config, output, work, team)
        team.on_main(lambda: _report(config))
    return _summary(config)


def plan(config: CurateConfig) -> dict:
    """Say what `run` would read and write; raise what it would raise before decoding anything."""
    corpus = _read_checked(config)
    check_output("curate", config, {"source": _fingerprint(corpus)})
    out = Path(config.out)
    told = {
        "reads": config.source,
        "layout": corpus.layout,
        "recordings": len(corpus.recordings),
        "speakers": len({recording.speaker for recording in corpus.recordings}),
        "unlisted": corpus.unlisted,
        "writes": [(out / name).as_posix() for name in ("manifest.jsonl", REJECTED, STATISTICS)],
        "clips": _clips_in_words(config, out),
    }
    if corpus.layout != "recordings":
        return told
    from stages.curation.untranscribed import plan_steps

    del told["speakers"]  # nobody knows them yet
    return {**told, **plan_steps(corpus, config)}


def _clips_in_words(config: CurateConfig, out: Path) -> str:
    single, shards = (f"{config.sample_rate} Hz FLAC in {(out / name).as_posix()}" for name in (CLIPS, SHARDS))
    return {"reference": "none", "flac": single, "shards": shards,
            "auto": f"{single}, of more than {MANY_CLIPS} in {(out / SHARDS).as_posix()}"}[config.clips]


def _team(config: CurateConfig) -> Team:
    """Return the processes that a launcher has started; one alone need not wait for torch."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return OneProcess()
    from stages.training.processes import Processes

    return Processes(config.device, patience=timedelta(days=30))  # recordings take unequal times


def _run_untranscribed(corpus: Corpus, config: CurateConfig, parents: dict[str, str]) -> dict:
    # these import torch, for which corpora with transcripts need not wait
    from stages.curation.untranscribed import curate_untranscribed, is_finished, open_work, summarise
    from stages.training.processes import Processes

    processes = Processes(config.device, patience=timedelta(days=30))  # recordings take unequal times
    with processes.claim("curate", config, parents) as output:
        work = open_work(corpus, config, str(processes.device))
        if not processes.largest(int(processes.is_main and is_finished(output.path, work))):
            processes.on_main(lambda: _reopen(output))
            curate_untranscribed(corpus, config, output, work, processes)
        told = summarise(corpus, config, work)
        processes.on_main(lambda: _report(config, told["steps"]))
    return {**told, **_summary(config)} if storage.is_complete(config.out) else told


def _report(config: CurateConfig, steps: dict[str, dict] | None = None) -> None:
    """Write the page of a finished result that has none."""
    if storage.is_complete(config.out) and not (Path(config.out) / REPORT).is_file():
        from stages.reports.curation import write_curation_report

        write_curation_report(Path(config.out), steps)


def _reopen(output: Output) -> None:
    output.reopen()
    (output.path / REPORT).unlink(missing_ok=True)


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
        size = file_size(recording.audio) if recording.audio else -1
        facts.append([recording.id, recording.source, recording.text, recording.speaker, recording.split,
                      recording.start, recording.duration, size, *([recording.extra] if recording.extra else [])])
    return storage.fingerprint_of(facts)


def _summary(config: CurateConfig) -> dict:
    """What a user wants to know of a finished result, short enough for a terminal."""
    found = storage.read_json(Path(config.out) / STATISTICS)
    shown = ("layout", "inputs", "accepted", "rejected", "reasons", "unlisted", "clips", "hours", "mean_seconds",
             "sd_seconds", "words", "longest", "sample_rates", "warnings", "texts_in_several_splits", "table")
    splits = {name: values["clips"] for name, values in found["splits"].items()}
    return {"out": config.out, **{key: found[key] for key in shown if key in found}, "splits": splits,
            "speakers": len(found["speakers"])}
