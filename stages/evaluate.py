"""`halle eval`: a test set and a model, codecs or anyone's audio to scores and a page to read and listen to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.artifacts.manifest import Manifest
from stages.artifacts.run_dir import check_output, claim_output, versions
from stages.artifacts.storage import (
    FORMAT_VERSION,
    append_jsonl,
    fingerprint_of,
    read_journal,
    read_json,
    write_json,
    write_jsonl,
    write_text,
)
from stages.audio.io import AudioError, write_audio
from stages.config.stage_configs import EvalConfig
from stages.errors import UnfinishedSpeechError, UsageError
from stages.metrics.base import Metric, Need
from stages.metrics.comparison import compare_systems, describe, score_system
from stages.metrics.intelligibility import NORMALISER, normaliser_version
from stages.metrics.registry import choose_metrics
from stages.metrics.scoring import FAILED, MISSING, RECORDINGS, SCORED, Attempt, Scorer, Sound, read_recording, row_of
from stages.metrics.test_set import (
    Case,
    file_stem,
    find_test_set,
    plan_cases,
    read_test_set,
    refuse_bad_set,
    setting_in_words,
    without_recording,
)
from stages.progress import Progress
from stages.reports.evaluation import evaluation_page, score_in_words, with_players
from stages.speech.transcriber import Transcriber, load_transcriber
from stages.synthesis.pipeline import SYNTHETIC
from stages.synthesis.sources import Source, Speak, find_sources
from stages.training.processes import pick_device

log = logging.getLogger("halle.eval")

ITEMS, SCORES, REPORT = "items.jsonl", "scores.json", "report.html"
_OFFERS: dict[str, frozenset[Need]] = {
    "cross-sentence": frozenset({"transcript", "reference", "voice"}),
    "continuation": frozenset({"transcript", "reference", "voice"}),
    "reconstruction": frozenset({"transcript", "aligned_reference", "voice"}),
}


@dataclass(frozen=True)
class Job:
    """What an evaluation is going to do; made without loading a model. `cases` are those asked for, in order."""

    config: EvalConfig
    manifest: Manifest
    split: str
    cases: tuple[Case, ...]
    sources: tuple[Source, ...]
    metrics: tuple[Metric, ...]
    offered: frozenset[Need]

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def parents(self) -> dict[str, str]:
        fingerprints = [source.fingerprint for source in self.sources]
        system = fingerprints[0] if len(fingerprints) == 1 else fingerprint_of(fingerprints)
        return {"set": self.manifest.fingerprint, "system": system}


def run(config: EvalConfig) -> dict:
    """Make and score what is not done yet, then write scores and the page; nothing is done twice."""
    job = prepare(config)
    with claim_output("eval", job.config, job.parents) as folder:
        rows = {row["id"]: row for row in read_journal(job.out / ITEMS) if _still_holds(row, job, folder.complete)}
        todo = [case for case in job.cases if case.utterance.id not in rows]
        if folder.complete and not todo:
            return result(job, read_json(job.out / SCORES))
        folder.reopen()
        transcriber = load_transcriber(config.transcriber)
        rows |= {row["id"]: row for row in evaluate_cases(job, todo, transcriber)}
        done = [rows[utterance.id] for utterance in job.manifest.utterances if utterance.id in rows]
        write_jsonl(job.out / ITEMS, done)
        refuse_bad_set([row["refused"] for row in done if row["refused"]], len(done), config.bad_allowed(len(done)))
        scores = score_rows(job, done, transcriber)
        write_json(job.out / SCORES, scores)
        write_text(job.out / REPORT, evaluation_page(scores, with_players(job.out, done, job.cases)))
        folder.finish()
    return result(job, scores)


def _still_holds(row: dict, job: Job, complete: bool) -> bool:
    """Tell whether a row is not to be done again. What an unfinished evaluation refused may have been mended since."""
    if row["refused"]:
        return complete
    return all(source.name in row["systems"] for source in job.sources)


def plan(config: EvalConfig) -> dict:
    """Check the inputs and say what would be scored and written."""
    job = prepare(config)
    check_output("eval", job.config, job.parents)
    refused = Counter(case.refused for case in job.cases if case.refused)
    return {
        "reads": {"set": str(job.manifest.folder), "split": job.split, "only": list(config.only),
                  "systems": [source.what for source in job.sources]},
        "setting": f"{config.setting}: {setting_in_words(config)}",
        "utterances": len(job.cases),
        "refused": dict(refused),
        "metrics": [metric.name for metric in job.metrics],
        "writes": [str(job.out / name) for name in (SCORES, ITEMS, REPORT)],
    }


def prepare(config: EvalConfig) -> Job:
    """Find the test set and the sources of audio; refuse a set of which too much cannot be evaluated."""
    path = find_test_set(config.set, config.data_root)
    manifest, split = read_test_set(path, config.split, config.only)
    if not config.out:
        kind = "-reconstruction" if config.setting == "reconstruction" else ""
        config = config.model_copy(update={"out": f"eval/{manifest.folder.resolve().name}{kind}"})
    # Someone else's audio is there already: it needs no prompt from us.
    prompting = "reconstruction" if config.hypotheses else config.setting
    limits = (config.prompt_seconds, config.max_prompt_seconds)
    everyone = read_test_set(path, "all")[0].utterances
    planned = plan_cases(manifest.utterances, prompting, *limits, config.seed, everyone)
    cases = without_recording(planned[: config.max_items])
    refuse_bad_set((case.refused for case in cases if case.refused), len(cases), config.bad_allowed(len(cases)))
    sources = find_sources(config, manifest.utterances)
    offered = _OFFERS[config.setting] | (frozenset({"timing"}) if sources[0].timed else frozenset())
    metrics = tuple(metric.configured(config) for metric in choose_metrics(config.metrics, offered))
    return Job(config, manifest, split, cases, sources, metrics, offered)


def evaluate_cases(job: Job, todo: list[Case], transcriber: Transcriber) -> Iterator[dict]:
    """Yield a row for each case once the audio of every system and the row are on disk."""
    if not todo:
        return
    scorer = Scorer(job.metrics, job.offered, transcriber)
    device = pick_device(job.config.device)
    systems = {source.name: source.open(device) for source in job.sources}
    progress = Progress("evaluate", len(job.cases), start=len(job.cases) - len(todo))
    for case in todo:
        row = evaluate_case(job, case, systems, scorer)
        append_jsonl(job.out / ITEMS, row)
        progress.advance(note=case.utterance.id)
        yield row
    progress.close()


def evaluate_case(job: Job, case: Case, systems: Mapping[str, Speak], scorer: Scorer) -> dict:
    """Let every system speak one utterance and score it; whatever goes wrong becomes part of the row."""
    if case.refused:
        return row_of(case, refused=case.refused)
    try:
        recording = read_recording(case.utterance)
        voice = read_recording(case.prompt) if case.prompt else recording
    except AudioError as error:
        return row_of(case, refused=f"the recording: {error.message}")
    row, text = row_of(case, recording), case.utterance.text
    row["systems"][RECORDINGS] = scorer.score_recording(text, recording)
    for source in job.sources:
        tried = attempt(case, recording, systems[source.name])
        entry = row["systems"][source.name] = scorer.score(text, tried, recording, voice)
        if tried.output is not None:
            entry["audio"] = f"audio/{file_stem(source.name)}/{file_stem(case.utterance.id)}.wav"
            comment = SYNTHETIC if source.timed else None  # what our model says
            sound = tried.output.sound
            write_audio(job.out / entry["audio"], sound.waveform, sound.sample_rate, comment)
    return row


def attempt(case: Case, recording: Sound, speak: Speak) -> Attempt:
    """Return what a system made of an utterance. Failures of one utterance do not end the evaluation."""
    try:
        output = speak(case, recording)
    except (UsageError, AudioError, UnfinishedSpeechError) as error:
        reason = error.message
    except torch.OutOfMemoryError:
        reason = "out of memory"
    else:
        return Attempt(SCORED, "", output) if output is not None else Attempt(MISSING, "there is no audio for it")
    log.warning("`%s` failed: %s", case.utterance.id, reason)
    return Attempt(FAILED, reason)


def score_rows(job: Job, rows: list[dict], transcriber: Transcriber) -> dict:
    """Return what scores.json holds, from the rows of items.jsonl."""
    whats = {RECORDINGS: {"what": "the test set's own recordings"}} | {
        source.name: {"what": source.what, "fingerprint": source.fingerprint,
                      "unknown_files": list(source.unknown_files)} for source in job.sources}  # fmt: skip
    return {
        "format_version": FORMAT_VERSION,
        "setting": job.config.setting,
        "setting_in_words": setting_in_words(job.config),
        "set": {"name": job.manifest.folder.resolve().name, "path": str(job.manifest.folder), "split": job.split,
                "only": list(job.config.only), "utterances": len(job.manifest.utterances), "evaluated": len(rows),
                "fingerprint": job.manifest.fingerprint},
        "recogniser": {"name": transcriber.name, "version": transcriber.version},
        "normaliser": {"name": NORMALISER, "version": normaliser_version()},
        "seed": job.config.seed,
        "refused": dict(Counter(row["refused"] for row in rows if row["refused"])),
        "metrics": {metric.name: describe(metric, transcriber.name) for metric in job.metrics},
        "systems": {name: what | score_system(job.metrics, rows, name, job.config) for name, what in whats.items()},
        "differences": compare_systems(job.metrics, rows, [source.name for source in job.sources], job.config),
        **versions(),
    }


def result(job: Job, scores: dict) -> dict:
    """Return what the command prints: the scores of every system."""
    systems = {}
    for name, system in scores["systems"].items():
        told = {scores["metrics"][metric]["label"]: score_in_words(score, scores["metrics"][metric])
                for metric, score in system["scores"].items() if score["value"] is not None}
        without = {status: count for status, count in system["counts"].items() if count and status != SCORED}
        systems[name] = told | without
    labels = [metric["label"] for metric in scores["metrics"].values()]
    measured = {label for told in systems.values() for label in told}
    return {"report": str(job.out / REPORT), "scores": str(job.out / SCORES), "setting": scores["setting"],
            "utterances": scores["set"]["evaluated"], "refused": sum(scores["refused"].values()),
            "not_measured": [label for label in labels if label not in measured], "systems": systems}
