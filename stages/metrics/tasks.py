"""What another system needs to speak a test set: prompts and texts, in a folder that its authors can read.

    DIR/prompts/ID.wav   the voice to speak with, 16-bit PCM; ID.txt beside it holds its words
    DIR/tasks.jsonl      a task a line: id, text, prompt, prompt_text, speaker
    DIR/tasks.tsv        id<TAB>text<TAB>prompts/ID.wav
    DIR/meta.lst         the same as Seed-TTS has it: id|prompt text|prompts/ID.wav|text

The folder is a test set too, without recordings. Outputs named ID.wav are scored with the set that the tasks are of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stages.artifacts.storage import write_jsonl, write_text
from stages.audio.io import AudioError, write_audio
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics.cases import Case, cut_prompt, file_stem
from stages.metrics.set_layouts import TASKS
from stages.metrics.sounds import Sound, read_recording


def export_tasks(folder: Path, cases: Sequence[Case], config: EvalConfig) -> dict:
    """Write what is to be spoken, and return what was written and what was refused, with reasons.

    A case for which there is no prompt is a text alone. Raises `UsageError` for the reconstruction setting, in which
    nobody speaks.
    """
    if config.setting == "reconstruction":
        raise UsageError("expected the setting cross-sentence or continuation for --export-tasks, got `reconstruction`",
                         hint="a codec needs the recordings, not tasks")
    refused = Counter(case.refused for case in cases if case.refused)
    tasks = []
    for case in (case for case in cases if not case.refused):
        try:
            tasks.append(_write_task(folder, case, config))
        except AudioError as error:
            refused[f"its prompt: {error.message}"] += 1
    write_text(folder / "tasks.tsv", "".join(map(_tab_line, tasks)))
    write_text(folder / "meta.lst", "".join(map(_bar_line, tasks)))
    write_jsonl(folder / TASKS, tasks)
    return {"tasks": len(tasks), "without_prompt": sum("prompt" not in task for task in tasks),
            "refused": dict(refused),
            "writes": [(folder / name).as_posix() for name in (TASKS, "tasks.tsv", "meta.lst")]}


def _write_task(folder: Path, case: Case, config: EvalConfig) -> dict:
    """Write the prompt, if there is one, and return the task as a row. Its id is what the output is to be named."""
    name = file_stem(case.id)
    task = {"id": name, "text": case.text, "speaker": case.speaker}
    source = case.recording if config.setting == "continuation" else case.prompt
    if source is None:
        return task
    sound, words = read_recording(source), source.text
    if config.setting == "continuation":  # nobody knows which words fall into the first seconds
        first = cut_prompt(sound.waveform, sound.sample_rate, config.prompt_seconds)
        sound, words = Sound(first, sound.sample_rate), ""
    prompt = f"prompts/{name}.wav"
    write_audio(folder / prompt, sound.waveform, sound.sample_rate)
    if words:
        write_text(folder / f"prompts/{name}.txt", words + "\n")
    return task | {"prompt": prompt, "prompt_text": words}


def _tab_line(task: dict) -> str:
    return "\t".join([task["id"], _one_line(task["text"]), *([task["prompt"]] if "prompt" in task else [])]) + "\n"


def _bar_line(task: dict) -> str:
    """Return a line of meta.lst; a bar in a text would be read as the end of a column, so it becomes a space."""
    text = _one_line(task["text"].replace("|", " "))
    if "prompt" not in task:
        return f"{task['id']}|{text}\n"
    return f"{task['id']}|{_one_line(task['prompt_text'].replace('|', ' '))}|{task['prompt']}|{text}\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())
