"""Many texts at once: where they come from, which are done already, and how they are spoken in batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path

from stages.artifacts.journal import Journal
from stages.artifacts.manifest import FILE_NAME
from stages.artifacts.storage import decode_utf8, fingerprint_of, read_jsonl, sha256_file
from stages.audio.io import AudioError
from stages.config.resolve import flatten, running_keys
from stages.config.stage_configs import SynthConfig
from stages.errors import BadInputsError, HalleError, UnfinishedSpeechError, UsageError, is_out_of_memory
from stages.metrics.cases import file_stem
from stages.parallel import ALONE, Share
from stages.progress import Progress
from stages.randomness import derive_seed
from stages.synthesis.long_script import has_words
from stages.synthesis.output import SpeechWriter, output_files
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.prompt import Prompt
from stages.synthesis.takes import Script, Speech
from stages.text.normalizer import drop_control_characters

log = logging.getLogger("halle.synth")

ITEMS, REJECTED, REPORTS = "items.jsonl", "rejected.jsonl", "reports"


@dataclass(frozen=True)
class Item:
    """A text with the voice to speak it in. `problem` says why it cannot be spoken; empty when it can."""

    id: str
    text: str
    prompt: str
    prompt_text: str | None
    problem: str = ""

    @property
    def inputs(self) -> str:
        """Identify what is spoken and by whom: what is done already is recognised by it."""
        spoken = self.prompt_text if self.prompt_text is not None or not self.prompt else \
            _content(Path(self.prompt).with_suffix(".txt"))
        return fingerprint_of([self.text, self.prompt and _content(Path(self.prompt)), spoken, self.problem])


def _content(file: Path) -> str | None:
    """Return the hash of a file, or None when there is none."""
    if not file.is_file():
        return None
    stat = file.stat()
    return _hash(file, stat.st_size, stat.st_mtime_ns)


@cache
def _hash(file: Path, size: int, changed: int) -> str:
    return sha256_file(file)


def holds_many(source: str | None) -> bool:
    """Tell whether --text names a folder of texts or a list of them."""
    return source not in (None, "-") and (Path(source).is_dir() or Path(source).suffix == ".jsonl")


def read_items(config: SynthConfig) -> list[Item]:
    """Return all texts of a folder of .txt files, whose stems are ids, or of a list's rows `id text [prompt]`.

    A prompt's path is relative to the list. What cannot be spoken is returned with its problem.
    """
    source = Path(config.text)
    listed = source / FILE_NAME if source.is_dir() else source
    if listed.is_file() or not source.is_dir():
        items = [_from_row(number, row, listed.parent, config) for number, row in enumerate(read_jsonl(listed), 1)]
    else:
        items = [_from_file(file, config) for file in sorted(source.glob("*.txt"))]
    if not items:
        raise UsageError(f"`{source}` holds no text", "give a folder of .txt files, or .jsonl rows with id and text")
    return _checked(items)


def _from_file(file: Path, config: SynthConfig) -> Item:
    try:
        text, problem = decode_utf8(file.read_bytes(), file), ""
    except UsageError as error:
        text, problem = "", error.message
    except OSError as error:
        text, problem = "", f"cannot be read: {(error.strerror or str(error)).lower()}"
    return Item(file.stem, text, config.prompt, config.prompt_text, problem)


def _from_row(number: int, row: dict, folder: Path, config: SynthConfig) -> Item:
    for name in ("id", "text", "prompt", "prompt_text"):
        wanted = name in ("id", "text")
        if not isinstance(row.get(name, None if wanted else ""), str):
            found = f"`{row[name]}`" if name in row else "nothing"
            return Item(str(row.get("id", f"row {number}")), "", "", None, f"expected text as `{name}`, got {found}")
    if "prompt" in row:
        return Item(row["id"], row["text"], str(folder / row["prompt"]), row.get("prompt_text"))
    return Item(row["id"], row["text"], config.prompt, row.get("prompt_text", config.prompt_text))


def _checked(items: Sequence[Item]) -> list[Item]:
    """Return the items, with the problems that can be seen without a model. File names of ids may not be equal."""
    names, checked = {_file_name(item.id) for item in items}, []
    seen: dict[str, str] = {}  # ids by their file names
    for item in (replace(item, text=drop_control_characters(item.text)) for item in items):
        item_id, problem = item.id, item.problem or _problem(item)
        if (first := seen.get(_file_name(item.id))) is not None:
            problem = f"its id `{item.id}` is that of `{first}` too (upper and lower case are one): rename one"
            item_id = next(name for number in count(2) if _file_name(name := f"{item.id} ({number})") not in names)
            names.add(_file_name(item_id))
        seen[_file_name(item_id)] = item_id
        checked.append(Item(item_id, "", "", None, problem) if problem else item)
    return checked


def _file_name(item_id: str) -> str:
    return file_stem(item_id).lower()


def _problem(item: Item) -> str:
    if not item.id.strip():
        return "its id is empty"
    if not item.prompt:
        return "it has no prompt"
    if not Path(item.prompt).is_file():
        return f"prompt `{item.prompt}` does not exist"
    try:
        return "" if has_words(item.text) else "the text is empty after normalisation"
    except UsageError as error:  # half a character
        return error.message


def settings_of(config: SynthConfig) -> str:
    """Identify the settings that decide how a text is spoken."""
    free = running_keys(config)
    return fingerprint_of({key: value for key, value in flatten(config).items() if key not in free})


def known_rows(config: SynthConfig, items: Sequence[Item], complete: bool) -> dict[str, dict]:
    """Return the journal's rows of items that need not be spoken again.

    Those are finished texts, and unfinished ones that were spoken under these very settings. What was refused is
    tried again unless the whole was complete then.
    """
    wanted, settings = {item.id: item for item in items}, settings_of(config)
    rows = {row["id"]: row for row in Journal(Path(config.out) / ITEMS).rows()}
    return {row["id"]: row for row in rows.values()
            if row["id"] in wanted and row["inputs"] == wanted[row["id"]].inputs
            and _still_holds(row, settings, complete, config)}


def num_known(config: SynthConfig) -> int:
    """Return the number of rows that the journal holds."""
    return len(Journal(Path(config.out) / ITEMS).rows())


def _still_holds(row: dict, settings: str, complete: bool, config: SynthConfig) -> bool:
    if row["refused"]:
        return complete
    there = all(file.is_file() for file in _files(row["id"], config))
    return there and (row["finished"] or row["settings"] == settings)


def _places(item_id: str, config: SynthConfig) -> tuple[Path, Path]:
    out, stem = Path(config.out), file_stem(item_id)
    return out / f"{stem}.{config.audio_format}", out / REPORTS / f"{stem}.json"


def _files(item_id: str, config: SynthConfig) -> list[Path]:
    return output_files(*_places(item_id, config), config)


@dataclass(frozen=True)
class Batches:
    """Speak items with one model, `batch_size` at a time in the AR. `read` returns an item's prompt."""

    config: SynthConfig
    pipeline: SpeechPipeline
    writer: SpeechWriter
    read: Callable[[Item], Prompt]

    def speak(self, items: Sequence[Item], todo: Sequence[Item], share: Share = ALONE) -> Iterator[dict]:
        """Yield the journal row of each item to do, once its files are on disk; equally long ones go together.

        Of several processes each does a share of the groups, which are the same for any number of them.
        """
        sizes = {item.id: self.pipeline.size_of(item.text) for item in items}
        ordered = sorted(todo, key=lambda item: sizes[item.id])
        groups = [ordered[first : first + self.config.batch_size]
                  for first in range(0, len(ordered), self.config.batch_size)]
        mine = sum(sizes[item.id] for group in groups[share.rank :: share.world_size] for item in group)
        before = sum(sizes.values()) - sum(sizes[item.id] for item in todo)
        progress = Progress("speak", before + mine, start=before)
        finished = len(items) - len(todo)
        for group in share.of(groups):
            place = f"text {finished + 1} of {len(items)}"
            for item, tried in self._attempt(group, lambda count, note, place=place:
                                             progress.advance(count, f"{place}, {note}")):
                yield self._row(item, *tried) if isinstance(tried, tuple) else self._refused(item, tried)
            finished += len(group)
        progress.close()

    def _attempt(self, group: Sequence[Item], advance: Callable[[int, str], None]
                 ) -> Iterator[tuple[Item, tuple[Script, Speech] | str]]:
        """Yield what each item became: script and speech, or why it failed. One failure does not touch the others."""
        scripts: dict[str, Script] = {}
        for item in group:
            try:
                scripts[item.id] = self._script(item)
            except (UsageError, AudioError) as error:
                yield item, error.message
        ready = [item for item in group if item.id in scripts]
        try:
            spoken = self.pipeline.speak_all([scripts[item.id] for item in ready], advance)
        except (UsageError, AudioError, RuntimeError, MemoryError) as error:
            if not (isinstance(error, HalleError) or is_out_of_memory(error)):
                raise
            if len(ready) == 1:
                yield ready[0], error.message if isinstance(error, HalleError) else "out of memory"
                return
            log.warning("%d texts at once failed (%s): they are spoken one by one", len(ready), error)
            for item in ready:
                yield from self._attempt([item], advance)
            return
        for item, speech in zip(ready, spoken, strict=True):
            yield item, (scripts[item.id], speech)

    def _script(self, item: Item) -> Script:
        if item.problem:
            raise UsageError(item.problem)
        return Script(item.text, self.read(item), derive_seed(self.config.seed, "synth", item.id))

    def _row(self, item: Item, script: Script, speech: Speech) -> dict:
        audio, report = _places(item.id, self.config)
        content = self.writer.write(speech, script, audio, report)
        return {"id": item.id, "inputs": item.inputs, "settings": settings_of(self.config), "refused": "",
                "finished": content["finished"], "stopped": content["stopped"], "audio": audio.name, "start": 0.0,
                **{key: content[key] for key in ("duration", "speaker", "text", "real_time_factor")}}

    def _refused(self, item: Item, reason: str) -> dict:
        log.warning("`%s` is not spoken: %s", item.id, reason)
        return {"id": item.id, "inputs": item.inputs, "refused": reason}


def manifest_rows(rows: Sequence[dict]) -> list[dict]:
    """Return the rows of a manifest of what was spoken, for `eval` to read."""
    kept = ("id", "audio", "start", "duration", "speaker", "text")
    return [{**{key: row[key] for key in kept}, "split": "test", "synthetic": True, "finished": row["finished"]}
            for row in rows if not row["refused"]]


def check_all_spoken(config: SynthConfig, done: Sequence[dict], rejected: Sequence[dict]) -> None:
    """Raise when too many texts were refused, or when speech ends before its text does."""
    if len(rejected) > config.bad_allowed(len(done)):
        shown = "; ".join(f"`{row['id']}`: {row['refused']}" for row in rejected[:3])
        raise BadInputsError(f"{len(rejected)} of {len(done)} texts were not spoken: {shown}",
                             f"see {Path(config.out) / REJECTED}, mend them and run the command again, or allow more "
                             "with --max-bad")
    cut_short = unfinished(done)
    if cut_short and not config.allow_unfinished:
        shown = ", ".join(f"`{name}`" for name in cut_short[:5])
        raise UnfinishedSpeechError(
            f"wrote `{config.out}`, but {len(cut_short)} of {len(done)} texts are not finished: {shown}",
            "raise --max-seconds and add --allow-change max_seconds to speak these again, or --allow-unfinished")


def unfinished(rows: Sequence[dict]) -> list[str]:
    """Return the ids of texts that were spoken, but not to their ends."""
    return [row["id"] for row in rows if not row["refused"] and not row["finished"]]
