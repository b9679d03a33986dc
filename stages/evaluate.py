"""`halle eval`: a test set and a model, a codec or anyone's audio to scores and a page to read and listen to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.artifacts.manifest import Manifest, Utterance
from stages.artifacts.run_dir import check_output, claim_output, versions
from stages.artifacts.storage import (
    FORMAT_VERSION,
    append_jsonl,
    read_journal,
    read_json,
    write_json,
    write_jsonl,
    write_text,
)
from stages.audio.io import AudioError, audio_info, read_audio, write_audio
from stages.config.stage_configs import EvalConfig
from stages.errors import UnfinishedSpeechError, UsageError
from stages.metrics.base import Metric, Need
from stages.metrics.intelligibility import NORMALISER, normaliser_version
from stages.metrics.registry import choose_metrics
from stages.metrics.scoring import (
    FAILED,
    MISSING,
    REFUSED,
    SCORED,
    Output,
    Scorer,
    Sound,
    count_rows,
    row_of,
    summarise_rows,
)
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
from stages.reports.evaluation import evaluation_page, worst_first
from stages.speech.transcriber import Transcriber, load_transcriber
from stages.synthesis.pipeline import SYNTHETIC
from stages.synthesis.sources import Source, Speak, find_source
from stages.training.processes import pick_device

log = logging.getLogger("halle.eval")

ITEMS, SCORES, REPORT = "items.jsonl", "scores.json", "report.html"
_OFFERS: dict[str, frozenset[Need]] = {
    "cross-sentence": frozenset({"transcript", "reference"}),
    "continuation": frozenset({"transcript", "reference"}),
    "reconstruction": frozenset({"transcript", "aligned_reference"}),
}


@dataclass(frozen=True)
class Job:
    """What an evaluation is going to do; made without loading a model. `cases` are those asked for, in order."""

    config: EvalConfig
    manifest: Manifest
    split: str
    cases: tuple[Case, ...]
    source: Source
    metrics: tuple[Metric, ...]
    offered: frozenset[Need]

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def parents(self) -> dict[str, str]:
        return {"set": self.manifest.fingerprint, "system": self.source.fingerprint}


def run(config: EvalConfig) -> dict:
    """Make and score what is not done yet, then write scores and the page; nothing is done twice."""
    job = prepare(config)
    with claim_output("eval", job.config, job.parents) as folder:
        # What an unfinished evaluation refused is tried again: it may have been mended since.
        rows = {row["id"]: row for row in read_journal(job.out / ITEMS) if folder.complete or row["status"] != REFUSED}
        todo = [case for case in job.cases if case.utterance.id not in rows]
        if folder.complete and not todo:
            return result(job, read_json(job.out / SCORES))
        folder.reopen()
        transcriber = load_transcriber(config.transcriber)
        rows |= {row["id"]: row for row in evaluate_cases(job, todo, transcriber)}
        done = [rows[utterance.id] for utterance in job.manifest.utterances if utterance.id in rows]
        write_jsonl(job.out / ITEMS, done)
        refused = (row["reason"] for row in done if row["status"] == REFUSED)
        refuse_bad_set(refused, len(done), config.bad_allowed(len(done)))
        scores = score_rows(job, done, transcriber)
        write_json(job.out / SCORES, scores)
        write_text(job.out / REPORT, evaluation_page(scores, with_players(job, done)))
        folder.finish()
    return result(job, scores)


def plan(config: EvalConfig) -> dict:
    """Check the inputs and say what would be scored and written."""
    job = prepare(config)
    check_output("eval", job.config, job.parents)
    refused = Counter(case.refused for case in job.cases if case.refused)
    return {
        "reads": {"set": str(job.manifest.folder), "split": job.split, "system": job.source.what},
        "setting": f"{config.setting}: {setting_in_words(config)}",
        "utterances": len(job.cases),
        "refused": dict(refused),
        "metrics": [metric.name for metric in job.metrics],
        "writes": [str(job.out / name) for name in (SCORES, ITEMS, REPORT)],
    }


def prepare(config: EvalConfig) -> Job:
    """Find the test set and the source of its audio; refuse a set of which too much cannot be evaluated."""
    path = find_test_set(config.set, config.data_root)
    manifest, split = read_test_set(path, config.split)
    if not config.out:
        config = config.model_copy(update={"out": f"eval/{manifest.folder.resolve().name}"})
    # Someone else's audio is there already: it needs no prompt from us.
    prompting = "reconstruction" if config.hypotheses else config.setting
    limits = (config.prompt_seconds, config.max_prompt_seconds)
    everyone = read_test_set(path, "all")[0].utterances
    planned = plan_cases(manifest.utterances, prompting, *limits, config.seed, everyone)
    cases = without_recording(planned[: config.max_items])
    refuse_bad_set((case.refused for case in cases if case.refused), len(cases), config.bad_allowed(len(cases)))
    source = find_source(config, manifest.utterances)
    offered = _OFFERS[config.setting] | (frozenset({"timing"}) if source.timed else frozenset())
    return Job(config, manifest, split, cases, source, tuple(choose_metrics(config.metrics, offered)), offered)


def evaluate_cases(job: Job, todo: list[Case], transcriber: Transcriber) -> Iterator[dict]:
    """Yield a row for each case once its audio and the row are on disk."""
    if not todo:
        return
    scorer = Scorer(job.metrics, job.offered, transcriber)
    speak = job.source.open(pick_device(job.config.device))
    progress = Progress("evaluate", len(job.cases), start=len(job.cases) - len(todo))
    for case in todo:
        row = evaluate_case(job, case, speak, scorer)
        append_jsonl(job.out / ITEMS, row)
        progress.advance(note=case.utterance.id)
        yield row
    progress.close()


def evaluate_case(job: Job, case: Case, speak: Speak, scorer: Scorer) -> dict:
    """Make one utterance's audio and score it; whatever goes wrong with it becomes a row with the reason."""
    if case.refused:
        return row_of(case, REFUSED, case.refused)
    try:
        recording = read_recording(case.utterance)
    except AudioError as error:
        return row_of(case, REFUSED, f"the recording: {error.message}")
    status, reason, output = attempt(case, recording, speak)
    row = row_of(case, status, reason, output, recording)
    if output is not None:
        row["audio"] = f"audio/{file_stem(case.utterance.id)}.wav"
        comment = SYNTHETIC if job.source.timed else None  # what our model says
        write_audio(job.out / row["audio"], output.sound.waveform, output.sound.sample_rate, comment)
    row["output"] = scorer.score(case.utterance.text, output, recording)
    row["recording"] = scorer.score_recording(case.utterance.text, recording)
    return row


def attempt(case: Case, recording: Sound, speak: Speak) -> tuple[str, str, Output | None]:
    """Return the status, the reason and the output. Failures of one utterance do not end the evaluation."""
    try:
        output = speak(case, recording)
    except (UsageError, AudioError, UnfinishedSpeechError) as error:
        return FAILED, error.message, None
    except torch.OutOfMemoryError:
        return FAILED, "out of memory", None
    return (SCORED, "", output) if output is not None else (MISSING, "there is no audio for it", None)


def read_recording(utterance: Utterance) -> Sound:
    """Return the test set's own recording at its own sample rate."""
    sample_rate = audio_info(utterance.audio).sample_rate
    return Sound(read_audio(utterance.audio, None, utterance.start, utterance.duration), sample_rate)


def score_rows(job: Job, rows: list[dict], transcriber: Transcriber) -> dict:
    """Return what scores.json holds, from the rows of items.jsonl."""
    heard_only = tuple(metric for metric in job.metrics if metric.needs == {"transcript"})
    shared = (transcriber.name, job.config.seed, job.config.bootstrap_samples)
    return {
        "format_version": FORMAT_VERSION,
        "setting": job.config.setting,
        "setting_in_words": setting_in_words(job.config),
        "set": {"name": job.manifest.folder.resolve().name, "path": str(job.manifest.folder), "split": job.split,
                "utterances": len(job.manifest.utterances), "evaluated": len(rows),
                "fingerprint": job.manifest.fingerprint},
        "system": {"name": job.source.name, "what": job.source.what, "fingerprint": job.source.fingerprint},
        "recogniser": {"name": transcriber.name, "version": transcriber.version},
        "normaliser": {"name": NORMALISER, "version": normaliser_version()},
        "seed": job.config.seed,
        "counts": count_rows(rows),
        "left_out": dict(Counter(f"{row['status']}: {row['reason']}" for row in rows if row["reason"])),
        "unknown_files": list(job.source.unknown_files),
        "metrics": summarise_rows(job.metrics, rows, "output", *shared),
        "recordings": summarise_rows(heard_only, rows, "recording", *shared),
        **versions(),
    }


def with_players(job: Job, rows: list[dict]) -> list[dict]:
    """Return the rows with players of output, recording and prompt; writes recordings and prompts of those shown."""
    shown = {row["id"]: row for row in worst_first(rows)}
    cases = {case.utterance.id: case for case in job.cases}
    for name, row in shown.items():
        case = cases.get(name)
        if row["status"] == REFUSED or case is None:
            continue
        players = {"output": row["audio"]} if row["audio"] else {}
        for label, utterance in (("recording", case.utterance), ("prompt", case.prompt)):
            if utterance is not None:
                players[label] = f"recordings/{file_stem(utterance.id)}.wav"
                sound = read_recording(utterance)
                write_audio(job.out / players[label], sound.waveform, sound.sample_rate)
        shown[name] = row | {"players": players}
    return [shown.get(row["id"], row) for row in rows]


def result(job: Job, scores: dict) -> dict:
    """Return what the command prints."""
    values = {}
    for score in scores["metrics"].values():
        value = "no value" if score["value"] is None else f"{score['value']:.{score['digits']}f}"
        values[score["label"]] = f"{value} ({score['denominator']} of {score['total']} utterances)"
    counts = {name: count for name, count in scores["counts"].items() if count}
    return {"report": str(job.out / REPORT), "scores": str(job.out / SCORES), "system": scores["system"]["what"],
            "setting": scores["setting"], **values, **counts}
