"""The eight stages as small as they get, on the tiny chain: what they read, how they run, what they leave behind."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from safetensors import safe_open
from tiny_chain import SPEECH, Chain, tiny_config

from stages.artifacts.checkpoint import list_checkpoints
from stages.artifacts.storage import CHECKSUMS, is_complete, read_json, sha256_file, verify_checksums

MODULES = {"tokenize": "tokenize_corpus", "eval": "evaluate"}
TRAINERS = ("train-codec", "mreq", "train-ar", "train-nar")
NUM_STEPS = 4
STEPS = (f"training.steps={NUM_STEPS}", "training.save_every=2", "training.validate_every=3", "training.log_every=1",
         "training.validation_utterances=0")
MANY = ("curate", "tokenize", "synth", "eval")
RECORDINGS, TEXTS = 6, 3
JOURNALS = ("journal.jsonl", "metrics.jsonl", "items.jsonl", "made.jsonl", "measurements.jsonl", "transcripts.jsonl",
            "skipped_steps.jsonl", "log.txt")
# Keys whose values tell how long something took, when or where it was; and files that are made of them.
TIMES = ("seconds_per_step", "real_time_factor", "seconds_to_make", "peak_memory", "started", "command", "out",
         "ar_seconds", "nar_seconds", "decode_seconds")
# journal.jsonl is what curation works from: a recording that was measured twice has two lines.
TIMED_FILES = ("log.txt", "journal.jsonl", "provenance.json", "report.html", "config.json", CHECKSUMS)


@dataclass(frozen=True)
class SmallStage:
    """A stage and its inputs, ready to run into any folder."""

    name: str
    options: dict[str, str]
    overrides: tuple[str, ...] = ()

    def run(self, out: Path, *overrides: str, **options) -> dict:
        """Run the stage in this process."""
        module = importlib.import_module("stages." + MODULES.get(self.name, self.name.replace("-", "_")))
        return module.run(self.config(out, *overrides, **options))

    def config(self, out: Path, *overrides: str, **options):
        return tiny_config(self.name, *self.overrides, *overrides, out=str(out), **{**self.options, **options})


def small_stages(chain: Chain, work: Path) -> dict[str, SmallStage]:
    """Return the eight stages by name; what they read beside the chain is made below `work`."""
    tokens, codec, data = str(chain.tokens), str(chain.mreq), str(chain.data)
    stages = (
        SmallStage("curate", {"source": str(_few_recordings(chain, work / "recordings"))},
                   ("workers=1", "validation_share=0", "test_share=0.2")),
        SmallStage("train-codec", {"data": data}, STEPS),
        SmallStage("mreq", {"teacher": str(chain.codec / "encodec.pt"), "data": data}, STEPS),
        SmallStage("tokenize", {"codec": codec, "data": data}, ("workers=1",)),
        SmallStage("train-ar", {"tokens": tokens}, STEPS),
        SmallStage("train-nar", {"tokens": tokens, "codec": codec}, STEPS),
        SmallStage("synth", {"text": str(_few_texts(work / "texts")), "prompt": str(SPEECH / "prompt.ogg"),
                             "model": str(chain.model), "allow_unfinished": True, "max_seconds": 0.5},
                   ("batch_size=1",)),
        SmallStage("eval", {"set": data, "codec": str(chain.codec), "setting": "reconstruction", "max_items": TEXTS,
                            "metrics": ["mel_distance"]}),
    )
    return {stage.name: stage for stage in stages}


def _few_recordings(chain: Chain, folder: Path) -> Path:
    lines = (chain.recordings / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:RECORDINGS]
    for line in lines:
        target = folder / json.loads(line)["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(chain.recordings / json.loads(line)["file_name"], target)
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _few_texts(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(TEXTS):
        (folder / f"text{index}.txt").write_text(f"Line number {index}.", encoding="utf-8")
    return folder


# ---- what is left behind


def result_of(stage: str, out: Path) -> dict[str, str]:
    """Map what a stage made to its sha256, without what tells times; of a training, its last state and its curve."""
    if stage in TRAINERS:
        step, folder = list_checkpoints(out)[-1]
        assert step == NUM_STEPS
        files = [file for file in folder.rglob("*") if file.is_file() and file.name not in TIMED_FILES]
        return {file.name: sha256_file(file) for file in files} | {"metrics": _without_times(out / "metrics.jsonl")}
    found = {}
    for file in sorted(out.rglob("*")):
        if file.is_file() and file.name not in TIMED_FILES:
            name = file.relative_to(out).as_posix()
            found[name] = _without_times(file) if file.suffix in (".json", ".jsonl") else sha256_file(file)
    return found


def _without_times(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    rows = [json.loads(text)] if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return json.dumps([_pruned(row) for row in rows], sort_keys=True)


def _pruned(value):
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if key not in TIMES}
    return [_pruned(item) for item in value] if isinstance(value, list) else value


def broken_files(out: Path) -> list[str]:
    """Return what is under a final name and not whole: a folder that does not verify, a file that cannot be read."""
    broken = []
    for file in sorted(out.rglob("*")) if out.exists() else ():
        inside = file.relative_to(out).parts
        if any(part.startswith(".halle-tmp-") for part in inside) or not file.is_file() or file.name == ".lock":
            continue
        try:
            _read_whole(file)
            if file.name == CHECKSUMS and (file.parent != out or is_complete(out)):
                verify_checksums(file.parent)
        except Exception as error:
            broken.append(f"{file.relative_to(out).as_posix()}: {type(error).__name__}: {error}")
    return broken


def _read_whole(file: Path) -> None:
    if file.name in JOURNALS:
        return  # lines are added one by one; the last may be torn
    match file.suffix:
        case ".json":
            read_json(file)
        case ".jsonl":
            [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        case ".npy":
            np.load(file)
        case ".safetensors":
            with safe_open(file, "pt") as tensors:
                [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118
        case ".flac" | ".wav" | ".ogg":
            soundfile.read(file)
        case ".html":
            assert file.read_text(encoding="utf-8").rstrip().endswith("</html>")


def leftovers(out: Path) -> list[str]:
    """Return what is still under a temporary name."""
    return [path.relative_to(out).as_posix() for path in out.rglob(".halle-tmp-*")]
