"""`halle info`: say what lies at a path, what it was made from, and its figures; nothing is verified or changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stages.artifacts import kinds
from stages.artifacts.checkpoint import CONFIG_FILE, MODEL_FILE, TRAINER_STATE, list_checkpoints
from stages.artifacts.kinds import Artifact, artifacts_in, recognise
from stages.artifacts.manifest import audio_root, read_manifest
from stages.artifacts.run_dir import CONFIG, METRICS, PROVENANCE
from stages.artifacts.storage import is_complete, read_journal, read_json
from stages.artifacts.tensor_sizes import describe_tensors
from stages.artifacts.token_store import STORE_FILE
from stages.codec.registry import codec_fingerprint, load_codec
from stages.text.tokenizer import TextTokenizer

_SHOWN = 12  # digits of a fingerprint


def run(path: str) -> dict:
    """Describe the artifact at `path`; raise `UsageError` when it is none."""
    artifact = recognise(path)
    return {"path": artifact.path.as_posix(), "kind": artifact.kind, "complete": artifact.complete,
            **_DESCRIBE[artifact.kind](artifact.path), **_sizes(artifact.path)}


def _sizes(path: Path) -> dict:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {"files": len(files), "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 6)}


def _origin(folder: Path) -> dict:
    """Return which stage made a folder, when, with what version, and from what."""
    if not (folder / CONFIG).is_file():
        return {}
    made = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    content = read_json(folder / CONFIG)
    return {"made_by": f"halle {content.get('stage')}", "version": made.get("packages", {}).get("halle"),
            "started": made.get("started"), "parents": _short(content.get("parents", {})),
            "seed": content.get("config", {}).get("seed")}


def _short(fingerprints: dict) -> dict:
    return {name: value[:_SHOWN] if isinstance(value, str) and len(value) == 64 else value
            for name, value in fingerprints.items()}


def _manifest(folder: Path) -> dict:
    told = _origin(folder)
    if not (folder / "manifest.jsonl").is_file():
        return told
    manifest = read_manifest(folder)
    rows = manifest.utterances
    splits = {name: manifest.split(name) for name in rows.split_names}
    return {**told, "fingerprint": manifest.fingerprint[:_SHOWN], "utterances": len(rows),
            "hours": round(manifest.hours, 4), "speakers": len(set(rows.speakers.tolist())),
            "splits": {name: f"{len(part)} utterances, {part.durations.sum() / 3600:.4f} h"
                       for name, part in splits.items()},
            "shortest_seconds": float(rows.durations.min()), "longest_seconds": float(rows.durations.max()),
            "audio_root": audio_root(folder).as_posix()}


def _store(folder: Path) -> dict:
    told = _origin(folder)
    if not (folder / STORE_FILE).is_file():
        return {**told, "finished_shards": sum(is_complete(shard) for shard in folder.glob("shard-*"))}
    facts = read_json(folder / STORE_FILE)
    totals = facts["totals"]
    return {
        **told, "fingerprint": facts["fingerprint"][:_SHOWN], "utterances": totals["utterances"],
        "hours": round(totals["seconds"] / 3600, 4), "text_tokens": totals["text_tokens"],
        "shards": facts["num_shards"], "bits_per_second": facts.get("bits_per_second"),
        "loudness_db": facts.get("loudness_target"), "codec": facts["codec_fingerprint"][:_SHOWN],
        "text_tokenizer": facts["text_tokenizer_fingerprint"][:_SHOWN],
        "streams": [{"name": s["name"], "role": s["role"], "codebooks": s["num_codebooks"],
                     "entries": s["codebook_size"], "hz": s["frame_rate"], "frames": totals[f"{s['name']}_frames"]}
                    for s in facts["streams"]],
    }  # fmt: skip


def _checkpoint(folder: Path) -> dict:
    content = read_json(folder / CONFIG_FILE)
    return {"of": content["kind"], "fingerprint": content["fingerprint"][:_SHOWN],
            "parents": _short(content["parents"]), **_architecture(content["architecture"]),
            **describe_tensors(folder / MODEL_FILE), "trainer_state": (folder / TRAINER_STATE).is_dir()}


def _architecture(architecture: dict) -> dict:
    """Return the settings of a model, without the tokenizer that it carries."""
    return {"architecture": {name: value for name, value in architecture.items() if name != "text_tokenizer_json"}}


def _run(folder: Path) -> dict:
    checkpoints = list_checkpoints(folder)
    config = read_json(folder / CONFIG)["config"]
    rows = read_journal(folder / METRICS, mend=False)
    trained = next((row for row in reversed(rows) if "seconds_per_step" in row), {})
    validated = next((row for row in reversed(rows) if any(name.startswith("validation.") for name in row)), {})
    newest = _checkpoint(checkpoints[-1][1]) if checkpoints else {}
    return {
        **_origin(folder), "steps": config.get("training.steps"),
        "checkpoints": [step for step, _ in checkpoints],
        "fingerprint": newest.get("fingerprint"), "numbers": newest.get("numbers"),
        "architecture": newest.get("architecture"), "loss": trained.get("loss"),
        "seconds_per_step": trained.get("seconds_per_step"), "validated_at_step": validated.get("step"),
        "validation": {name.removeprefix("validation."): value for name, value in validated.items()
                       if name.startswith("validation.") and name.count(".") == 1},
        "exports": [file.name for file in sorted(folder.glob("*.pt"))],
    }  # fmt: skip


def _model(folder: Path) -> dict:
    content = read_json(folder / "model.json")
    return {**{key: content[key] for key in ("system", "sample_rate", "bits_per_second", "frame_rates", "parameters")},
            "fingerprints": _short(content["fingerprints"]),
            "ar_parents": _short(read_json(folder / "ar" / CONFIG_FILE)["parents"]),
            "nar_parents": _short(read_json(folder / "nar" / CONFIG_FILE)["parents"])}


def _export(file: Path) -> dict:
    codec = load_codec(file)
    return {"of": "codec", "fingerprint": codec_fingerprint(codec)[:_SHOWN], **_architecture(codec.export_config()),
            "sample_rate": codec.sample_rate, "bits_per_second": codec.bits_per_second,
            "parameters": sum(parameter.numel() for parameter in codec.parameters()),
            "streams": {spec.name: f"{spec.num_codebooks} x {spec.frame_rate:g} Hz" for spec in codec.transmitted}}


def _evaluation(folder: Path) -> dict:
    told = _origin(folder)
    if not (folder / "scores.json").is_file():
        return told
    scores = read_json(folder / "scores.json")
    return {**told, "setting": scores["setting"], "set": scores["set"]["name"],
            "utterances": scores["set"]["evaluated"], "recogniser": scores["recogniser"]["name"],
            "systems": {name: {metric: f"{score['value']:.4g} ({score['denominator']} of {score['total']})"
                               for metric, score in system["scores"].items() if score["value"] is not None}
                        for name, system in scores["systems"].items()}}


def _speech(report: Path) -> dict:
    said = read_json(report)
    return {"audio": said["audio"], "seconds": said["duration"], "text": said["text"], "finished": said["finished"],
            "stopped": said["stopped"], "passes": said.get("passes"), "seed": said.get("seed"),
            "prompt": said["prompt"]["file"], "fingerprints": _short(said["model"]),
            "version": said.get("packages", {}).get("halle")}


def _tokenizer(file: Path) -> dict:
    tokenizer = TextTokenizer.load(file)
    unused = sum(entry.startswith("<unused-") for entry in tokenizer.entries)
    return {"fingerprint": tokenizer.fingerprint[:_SHOWN], "entries": tokenizer.vocab_size, "unused": unused,
            "merges": len(tokenizer.merges), "lowercase": tokenizer.lowercase, "normalizer": tokenizer.normalizer,
            "alphabet": "".join(sorted(tokenizer.alphabet))}


def _several(folder: Path) -> dict:
    return {"artifacts": [_in_short(artifact) for artifact in artifacts_in(folder)]}


def _in_short(artifact: Artifact) -> dict:
    return {"name": artifact.path.name, "kind": artifact.kind, "complete": artifact.complete,
            "megabytes": _sizes(artifact.path)["megabytes"]}


_DESCRIBE: dict[str, Callable[[Path], dict]] = {
    kinds.MANIFEST: _manifest, kinds.STORE: _store, kinds.RUN: _run, kinds.CHECKPOINT: _checkpoint,
    kinds.MODEL: _model, kinds.EXPORT: _export, kinds.EVALUATION: _evaluation, kinds.SPEECH: _speech,
    kinds.TOKENIZER: _tokenizer, kinds.SEVERAL: _several,
}
