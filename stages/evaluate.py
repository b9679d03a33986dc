"""`halle eval`: a test set and a model, codecs or anyone's audio to scores and a page to read and listen to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path

from stages.artifacts.run_dir import Output, check_output
from stages.artifacts.storage import fingerprint_of, read_json, sha256_file, write_json, write_jsonl, write_text
from stages.config.resolve import flatten
from stages.config.stage_configs import EvalConfig
from stages.metrics.base import Metric, Need
from stages.metrics.cases import Case, setting_in_words
from stages.metrics.kept_audio import KeptAudio
from stages.metrics.listening_answers import score_listening, still_hold
from stages.metrics.measurements import MEASUREMENTS, KeptMeasurements, identity_of
from stages.metrics.prompt_lengths import with_room_for_prompts
from stages.metrics.protocol_pieces import AwaitedTranscripts, check_pieces, check_recogniser, runs_elsewhere
from stages.metrics.registry import choose_metrics, why_not
from stages.metrics.scores import scores_of
from stages.metrics.scoring import SCORED, AllMade, Scene, Scorer, join_journals, rows_of, tidy
from stages.metrics.tasks import export_tasks
from stages.metrics.test_set import EvaluationSet, cases_to_judge, open_test_set
from stages.metrics.transcripts import TRANSCRIPTS, GivenTranscripts, Heard, KeptTranscripts
from stages.parallel import ALONE, Share
from stages.reports.evaluation import evaluation_page, score_in_words
from stages.reports.listening_tables import OPINIONS, opinion_in_words
from stages.reports.listening_test import PAGE, write_listening_test
from stages.reports.tables import TABLES, not_measured, write_tables
from stages.speech.transcriber import load_transcriber
from stages.synthesis.making import Studio, refuse_bad_scenes
from stages.synthesis.sources import Source, find_sources
from stages.training.processes import Processes, pick_device

ITEMS, SCORES, REPORT = "items.jsonl", "scores.json", "report.html"
_OFFERS: dict[str, frozenset[Need]] = {
    "cross-sentence": frozenset({"transcript", "reference", "voice"}),
    "continuation": frozenset({"transcript", "reference", "voice"}),
    "reconstruction": frozenset({"transcript", "aligned_reference", "voice"}),
}
# Where things are and how they are done: scores do not depend on it. Files count by their contents.
_NO_MATTER = {"out", "device", "restart", "allow_change", "max_bad", "data_root", "set", "model", "codec", "ar", "nar",
              "further_codecs", "hypotheses", "transcripts", "listening_answers", "cuda_graphs", "batch_size"}


@dataclass(frozen=True)
class Job:
    """What an evaluation is going to do; made without loading a model. `cases` are those asked for, in order."""

    config: EvalConfig
    test_set: EvaluationSet
    cases: tuple[Case, ...]
    sources: tuple[Source, ...]
    metrics: tuple[Metric, ...]
    offered: frozenset[Need]

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def parents(self) -> dict[str, str]:
        """The inputs that may not change below a result. Anyone's audio may: what changed is scored anew."""
        systems = {f"system {source.name}": source.fingerprint for source in self.sources if source.contents is None}
        return {"set": self.test_set.fingerprint} | systems

    @property
    def request(self) -> str:
        """Identify all that scores.json depends on: a finished evaluation of the same request is not done again."""
        settings = {key: value for key, value in flatten(self.config).items() if key not in _NO_MATTER}
        systems = [(source.name, source.fingerprint) for source in self.sources]
        files = [_contents(self.config.transcripts), _contents(self.config.listening_answers)]
        return fingerprint_of([self.test_set.fingerprint, settings, systems, files, [*map(identity_of, self.metrics)]])


def _contents(paths: Iterable[str]) -> list[str]:
    """Return the hashes of files, and of all that are directly in folders."""
    files = [file for path in map(Path, paths) for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return [sha256_file(file) for file in files if file.is_file()]


def run(config: EvalConfig) -> dict:
    """Make the audio that is not there yet, score what lies there, write scores and the page; nothing is done twice.

    Of several processes each makes and scores its share; the first one writes the result and returns it.
    """
    processes = Processes(config.device, patience=timedelta(days=30))  # shares take unequal times
    if config.export_tasks:
        return processes.on_main(lambda: export(config)) or {}
    processes.on_main(lambda: open_test_set(config))  # a named set is built once
    job = prepare(config)
    with processes.claim("eval", job.config, job.parents) as folder:
        scores = processes.on_main(lambda: finished_scores(job) if folder.complete else None)
        if processes.largest(int(scores is not None)):
            return result(job, scores) if scores else {}
        opinions = processes.on_main(lambda: opinions_of(job))
        processes.on_main(lambda: (folder.reopen(), tidy(job.out)))
        share = processes.share()
        heard = open_heard(job, share)  # what is missing here is better known before hours of speaking
        studio, scenes = Studio(KeptAudio(job.out, share), processes, share).keep_scenes(job.cases)
        processes.on_main(lambda: refuse_bad_scenes(scenes, config))
        studio, made = studio.make_audio(scenes, job.sources, config.seeds)
        rows = processes.gather(score(job, studio.sounds, scenes, made, heard, share))
        processes.on_main(lambda: finish(job, folder, [*chain(*rows)], heard, opinions))
    return result(job, read_json(job.out / SCORES)) if processes.is_main else {}


def finish(job: Job, folder: Output, rows: list[dict], heard: Heard | None, opinions: dict | None) -> None:
    """Write what was measured in every form."""
    config = job.config
    join_journals(job.out)
    write_jsonl(job.out / ITEMS, rows)
    systems = {source.name: source.facts for source in job.sources}
    scores = scores_of(config, job.test_set, systems, job.metrics, rows, heard) | {
        "unavailable": unavailable(job), "request": job.request}
    if opinions and still_hold(opinions, job.out, rows, required=bool(config.listening_answers)):
        scores["listening"] = opinions
    if config.listening_test:
        write_listening_test(job.out, rows, config)
    write_json(job.out / SCORES, scores)
    write_text(job.out / REPORT, evaluation_page(scores, rows, job.out))
    write_tables(job.out, scores)
    folder.finish()


def opinions_of(job: Job) -> dict | None:
    """Return what listeners said: by the answers given now, else by those that were given before."""
    config = job.config
    if config.listening_answers:
        return score_listening(job.out, config.listening_answers, config.bad_allowed, config.seed,
                               config.bootstrap_samples)
    return read_json(job.out / SCORES).get("listening") if (job.out / SCORES).is_file() else None


def unavailable(job: Job) -> dict[str, str]:
    """Return why metrics that were asked for cannot be measured here at all, by name."""
    reasons = {metric.name: why_not(metric, job.offered) for metric in job.metrics}
    return {name: reason for name, reason in reasons.items() if reason}


def finished_scores(job: Job) -> dict | None:
    """Return the scores of a finished evaluation; None when another was asked for, or when it could do more now."""
    scores = read_json(job.out / SCORES)
    if scores.get("request") != job.request:
        return None
    lacked = scores["unavailable"]
    same = all(why_not(metric, job.offered) == lacked[metric.name] for metric in job.metrics if metric.name in lacked)
    return scores if same else None


def open_heard(job: Job, share: Share = ALONE) -> Heard | None:
    """Return who listens: given transcripts, or a recogniser; None when no metric asks what was heard."""
    if not any("transcript" in metric.needs for metric in job.metrics):
        return None
    if job.config.transcripts:
        given = GivenTranscripts([Path(file) for file in job.config.transcripts])
        check_recogniser(job.config.protocol, given.name)
        return given
    if runs_elsewhere(job.config.transcriber):
        return AwaitedTranscripts(job.config.transcriber, job.out)
    device = str(pick_device(job.config.device))
    transcriber = load_transcriber(job.config.transcriber, job.config.language, device)
    return KeptTranscripts(job.out / TRANSCRIPTS, transcriber, share)


def score(job: Job, sounds: KeptAudio, scenes: Sequence[Scene], made: AllMade, heard: Heard | None,
          share: Share) -> list[list[dict]]:
    """Return the rows of each utterance of a share, one a take, with everything that lies on disk measured."""
    recordings = [scene.recording for scene in scenes if scene.recording]
    if heard is not None:
        heard.require([each.audio_sha256 for each in (*recordings, *made.values()) if each.audio])
    kept = KeptMeasurements(job.out / MEASUREMENTS, share)
    scorer = Scorer(job.metrics, job.offered, sounds, heard, kept, job.config.language)
    return rows_of(scorer, scenes, made, share)


def plan(config: EvalConfig) -> dict:
    """Check the inputs and say what would be scored and written."""
    if config.export_tasks:
        test_set = open_test_set(config)
        return {"reads": {"set": test_set.folder.as_posix()}, "writes": [config.export_tasks]}
    job = prepare(config)
    check_output("eval", job.config, job.parents)
    opinions_of(job)  # refuses answers that cannot be used
    refused = Counter(case.refused for case in job.cases if case.refused)
    not_here = unavailable(job)
    return {
        "reads": {"set": job.test_set.folder.as_posix(), "split": job.test_set.split, "only": list(config.only),
                  "systems": [source.what for source in job.sources]},
        "setting": f"{config.setting}: {setting_in_words(config)}",
        "utterances": len(job.cases),
        "seeds": config.seeds,
        "refused": dict(refused),
        "metrics": [metric.name for metric in job.metrics if metric.name not in not_here],
        **({"unavailable": not_here} if not_here else {}),
        **({"sampling": job.config.sampling.given} if any(source.sampling for source in job.sources) else {}),
        "writes": [(job.out / name).as_posix() for name in (SCORES, ITEMS, REPORT, *TABLES,
                                                    *([PAGE] if config.listening_test else ()))],
    }


def export(config: EvalConfig) -> dict:
    """Write the test set as tasks for another system; nothing is spoken or scored."""
    cases = cases_to_judge(open_test_set(config), config, speaks=config.setting == "continuation")
    told = export_tasks(Path(config.export_tasks), cases, config)
    return told | {"score_with": f"halle eval --set {config.set} --hypotheses OUTPUTS, with files OUTPUTS/ID.wav"}


def prepare(config: EvalConfig) -> Job:
    """Find the test set and the sources of audio; refuse a set of which too much cannot be evaluated."""
    config = with_room_for_prompts(config)
    test_set = open_test_set(config)
    if not config.out:
        kind = "-reconstruction" if config.setting == "reconstruction" else ""
        kind = f"-{config.protocol}-{config.setting}" if config.protocol else kind
        config = config.model_copy(update={"out": f"eval/{test_set.name}{kind}"})
    sources = find_sources(config, test_set.cases)
    if own := next((source.sampling for source in sources if source.sampling), None):
        config = config.model_copy(update={"sampling": own})  # what is spoken depends on it: identity
    # Someone else's audio is there already: it needs no prompt from us.
    speaks = any(source.contents is None for source in sources)
    cases = cases_to_judge(test_set, config, speaks)
    offered = _OFFERS[config.setting] | (frozenset({"timing"}) if any(s.speaks for s in sources) else frozenset())
    offered |= frozenset({"prompt_lengths"} if config.prompt_lengths else ())
    metrics = tuple(metric.configured(config) for metric in choose_metrics(config.metrics, offered))
    check_pieces(config, metrics, offered)
    return Job(config, test_set, cases, sources, metrics, offered)


def result(job: Job, scores: dict) -> dict:
    """Return what the command prints: the scores of every system."""
    systems = {}
    for name, system in scores["systems"].items():
        told = {scores["metrics"][metric]["label"]: score_in_words(score, scores["metrics"][metric])
                for metric, score in system["scores"].items() if score["value"] is not None}
        without = {status: count for status, count in system["counts"].items() if count and status != SCORED}
        opinions = scores.get("listening", {}).get("systems", {}).get(name, {})
        systems[name] = told | {label: opinion_in_words(opinions[score]) for score, label in OPINIONS.items()
                                if score in opinions} | without
    page = {"listening_test": (job.out / PAGE).as_posix()} if job.config.listening_test else {}
    files = {source.name: source.files for source in job.sources if source.files}
    return page | ({"files": files} if files else {}) | {
        "report": (job.out / REPORT).as_posix(), "scores": (job.out / SCORES).as_posix(), "setting": scores["setting"],
        "utterances": scores["set"]["evaluated"], "refused": sum(scores["refused"].values()),
        "not_measured": not_measured(scores), "systems": systems}
