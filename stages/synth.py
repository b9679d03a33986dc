"""`halle synth`: texts read aloud in the voice of a recording, with a report beside the audio."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import torch

from stages.artifacts.checkpoint import describe_checkpoint
from stages.artifacts.journal import Journal
from stages.artifacts.manifest import write_manifest
from stages.artifacts.run_dir import Output, check_output
from stages.artifacts.storage import decode_utf8, write_jsonl
from stages.audio.io import AUDIO_SUFFIXES, audio_info, check_suffix
from stages.config.stage_configs import SynthConfig
from stages.errors import UnfinishedSpeechError, UsageError
from stages.progress import Progress
from stages.synthesis.batch import (
    ITEMS,
    REJECTED,
    Batches,
    Item,
    check_all_spoken,
    holds_many,
    known_rows,
    manifest_rows,
    num_known,
    read_items,
    unfinished,
)
from stages.synthesis.explain import explain_text, reading_passage
from stages.synthesis.long_script import has_words
from stages.synthesis.model import SpeechModel, find_parts, load_speech_model, with_own_sampling
from stages.synthesis.output import SpeechWriter, caption_listener, output_files, refuse_foreign, why_it_stopped
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.prompt import Prompt, PromptLimits, read_prompt
from stages.synthesis.sources import part_fingerprints
from stages.synthesis.takes import Script
from stages.synthesis.verify import in_short, make_verifier
from stages.text.normalizer import drop_control_characters
from stages.training.processes import Processes, pick_device


def run(config: SynthConfig) -> dict:
    """Speak one text into a file, or many into a folder, which several processes share among them.

    What is not finished is written all the same; then `UnfinishedSpeechError` is raised unless that is allowed.
    """
    alone = config.reading_passage or config.explain_text or not holds_many(config.text)
    if alone and os.environ.get("RANK", "0") != "0":  # of several processes the first one does it
        return {}
    if config.reading_passage:
        return reading_passage(config.out)
    if config.explain_text:
        return explain_text(_one_text(config), config)
    config = with_own_sampling(config, find_parts(config)["ar"])
    return speak_many(config) if holds_many(config.text) else speak_one(config)


def plan(config: SynthConfig) -> dict:
    """Check the inputs and say what would be read and written."""
    if config.reading_passage or config.explain_text:
        return {"writes": [config.out] if config.reading_passage and config.out else []}
    parts = find_parts(config)
    config = with_own_sampling(config, parts["ar"])
    text_pointer = describe_checkpoint(parts["ar"], "ar")[1]["architecture"]["model"].get("text_pointer", False)
    make_verifier(config), caption_listener(config, text_pointer)  # raise for a recogniser that cannot be had
    if holds_many(config.text):
        return plan_many(config, parts)
    text, out = read_text(config), output_path(config)
    info = audio_info(_prompt_path(config))
    return {"reads": {**parts, "prompt": f"{config.prompt} ({info.duration:.1f} s)",
                      "text": f"{len(text.split())} words"},
            "sampling": config.sampling.given,
            "writes": [file.as_posix() for file in output_files(out, out.with_suffix(".json"), config)]}


def open_pipeline(config: SynthConfig, device: torch.device) -> SpeechPipeline:
    """Load the model, and the recogniser when what it speaks shall be verified."""
    verifier = make_verifier(config)
    return SpeechPipeline(load_speech_model(config, device), config, verifier)


def prompt_of(config: SynthConfig, model: SpeechModel, path: str, text: str | None) -> Prompt:
    """Read a voice prompt as the model takes it."""
    limits = PromptLimits(config.prompt_seconds, config.max_prompt_seconds)
    return read_prompt(path, model.codec, limits, text, config.transcriber, model.loudness_db, config.trim_prompt)


# ---- one text


def speak_one(config: SynthConfig) -> dict:
    """Speak and write the audio and its report."""
    text, out, prompt_path = read_text(config), output_path(config), _prompt_path(config)
    pipeline = open_pipeline(config, pick_device(config.device))
    writer = SpeechWriter(config, pipeline.model)
    script = Script(text, prompt_of(config, pipeline.model, prompt_path, config.prompt_text), config.seed)
    progress = Progress("speak", pipeline.size_of(text))
    speech = pipeline.speak_all([script], progress.advance)[0]
    progress.close()
    report = writer.write(speech, script, out, out.with_suffix(".json"))
    if not report["finished"] and not config.allow_unfinished:
        more = "raise --max-seconds" if config.max_seconds is not None else "try another --seed"
        raise UnfinishedSpeechError(
            f"wrote `{out}`, {speech.seconds:.1f} s, but the text is not finished: {why_it_stopped(speech, config)}",
            f"{more}, change the text, or accept it with --allow-unfinished")
    return {"speech": out.as_posix(), "report": out.with_suffix(".json").as_posix(),
            "seconds": round(speech.seconds, 2), "passes": report["passes"], "stopped": report["stopped"],
            "real_time_factor": report["real_time_factor"], **in_short(report)}


def read_text(config: SynthConfig) -> str:
    """Return the text to speak from --say, a file or standard input; refuse an empty one."""
    if (config.text is None) == (config.say is None):
        raise UsageError("expected exactly one of --text FILE and --say TEXT", "--text - reads standard input")
    text, source = (config.say, "--say") if config.say is not None else (_read_file(config.text), config.text)
    text = drop_control_characters(text)
    if not has_words(text):
        raise UsageError(f"the text of `{source}` is empty after normalisation", "give some words to speak")
    return text


def _one_text(config: SynthConfig) -> str:
    if holds_many(config.text):
        raise UsageError(f"expected one text to explain, got `{config.text}` with many", "give one of them")
    return read_text(config)


def _read_file(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"text file `{name}` does not exist", "to speak words given here, use --say") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UsageError(f"text file `{name}` cannot be read: {error.strerror.lower()}") from error
    return decode_utf8(data, name)


def _prompt_path(config: SynthConfig) -> str:
    if not config.prompt:
        raise UsageError("expected a recording of the voice, got nothing", "give one with --prompt FILE")
    if not Path(config.prompt).exists():
        raise UsageError(f"prompt `{config.prompt}` does not exist", "give a recording of the voice with --prompt FILE")
    return config.prompt


def output_path(config: SynthConfig) -> Path:
    """Return --out, else the text file's name with .wav in the current folder."""
    if config.out:
        out = Path(config.out)
        if out.is_dir():
            raise UsageError(f"expected an audio file after --out, got the folder `{out}`", f"use {out / 'speech.wav'}")
    else:
        stem = Path(config.text).stem if config.text not in (None, "-") else "speech"
        out = Path(f"{stem}.wav")
    check_suffix(out)
    given = {Path(name).resolve() for name in (config.prompt, config.text) if name}
    for file in output_files(out, out.with_suffix(".json"), config):
        if file.resolve() in given:
            raise UsageError(f"`{file}` would be replaced, which is given to be read", "give another file after --out")
    refuse_foreign(out, out.with_suffix(".json"), config)
    return out


# ---- many texts


def speak_many(config: SynthConfig) -> dict:
    """Speak what is not done yet, then write a manifest of everything. One text's failure does not stop the others.

    Of several processes each speaks its share; the first one writes the result and returns it.
    """
    items, parents = _many(config), part_fingerprints(find_parts(config))
    processes = Processes(config.device, patience=timedelta(days=30))  # shares take unequal times
    with processes.claim("synth", config, parents) as folder:
        journal = Journal(folder.path / ITEMS, processes.share())
        processes.on_main(journal.join)  # what killed processes left
        known = known_rows(config, items, folder.complete)
        todo = [item for item in items if item.id not in known]
        changed = bool(todo) or num_known(config) != len(items)  # one may have been taken away
        processes.wait()  # nobody writes before all have seen the same
        if changed:
            processes.on_main(folder.reopen)
            _speak(config, items, todo, journal, processes)
            processes.wait()
        return processes.on_main(lambda: _finish(config, folder, items, todo, journal)) or {}


def _finish(config: SynthConfig, folder: Output, items: Sequence[Item], todo: Sequence[Item],
            journal: Journal) -> dict:
    """Write what there is unless the folder is complete; raise when too little of it was spoken."""
    journal.join()
    rows = {row["id"]: row for row in journal.rows()}
    done = [rows[item.id] for item in items]
    rejected = [row for row in done if row["refused"]]
    if not folder.complete:
        write_jsonl(folder.path / ITEMS, done)
        write_jsonl(folder.path / REJECTED, [{"id": row["id"], "reason": row["refused"]} for row in rejected])
        write_manifest(folder.path, manifest_rows(done))
        if len(rejected) <= config.bad_allowed(len(items)):
            folder.finish()
    check_all_spoken(config, done, rejected)
    return {"speech": config.out, "texts": len(done),
            "spoken_now": sum(not rows[item.id]["refused"] for item in todo),
            "rejected": len(rejected), "unfinished": unfinished(done),
            "seconds": round(sum(row.get("duration", 0) for row in done), 2)}


def plan_many(config: SynthConfig, parts: dict[str, str]) -> dict:
    """Say what `speak_many` would read, skip and write."""
    items = _many(config)
    check_output("synth", config, part_fingerprints(parts))
    known = known_rows(config, items, complete=False)
    return {"reads": {**parts, "texts": len(items), "words": sum(len(item.text.split()) for item in items)},
            "sampling": config.sampling.given,
            "done": len(known), "rejected": {item.id: item.problem for item in items if item.problem},
            "writes": [(Path(config.out) / name).as_posix() for name in ("manifest.jsonl", ITEMS, REJECTED)],
            "audio": f"{config.out}/ID.{config.audio_format}"}


def _many(config: SynthConfig) -> list[Item]:
    if config.say is not None:
        raise UsageError("expected exactly one of --text and --say, got both")
    if not config.out:
        raise UsageError("expected a folder for the speech of many texts, got nothing", "give --out DIR")
    if Path(config.out).suffix.lower() in AUDIO_SUFFIXES:
        raise UsageError(f"expected a folder for the speech of many texts, got `{config.out}`",
                         "give --out DIR, and the format of its audio as -O audio_format=flac")
    return read_items(config)


def _speak(config: SynthConfig, items: Sequence[Item], todo: Sequence[Item], journal: Journal,
           processes: Processes) -> None:
    """Speak this process's share of the items to do; each is in the journal as soon as its files are on disk."""
    pipeline = open_pipeline(config, processes.device)

    @lru_cache(maxsize=8)  # few voices are used again and again; many must not fill the memory
    def read(path: str, text: str | None) -> Prompt:
        return prompt_of(config, pipeline.model, path, text)

    batches = Batches(config, pipeline, SpeechWriter(config, pipeline.model),
                      lambda item: read(item.prompt, item.prompt_text))
    for row in batches.speak(items, todo, journal.share):
        journal.add(row)
