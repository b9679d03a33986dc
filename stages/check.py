"""`halle check`: read an artifact again and name everything that is wrong with it, or say what was found whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stages.artifacts import kinds
from stages.artifacts.checkpoint import list_checkpoints
from stages.artifacts.checkpoint_checks import check_records, check_sums
from stages.artifacts.findings import Findings
from stages.artifacts.kinds import Artifact, artifacts_in, recognise
from stages.artifacts.run_dir import CONFIG
from stages.artifacts.storage import is_complete, read_json
from stages.artifacts.store_checks import check_store
from stages.artifacts.token_store import STORE_FILE, TEXT_TOKENIZER_FILE
from stages.codec.registry import codec_fingerprint, load_codec
from stages.data.manifest_checks import check_manifest
from stages.metrics.score_checks import check_evaluation
from stages.synthesis.model_checks import check_export, check_model, check_model_checkpoint, check_speech
from stages.text.tokenizer import TextTokenizer


def run(path: str) -> dict:
    """Check what is at `path`; raise `StorageError` or `UsageError` with all problems, when there are any."""
    artifact, findings = recognise(path), Findings()
    check(artifact, findings)
    findings.raise_any(f"`{artifact.path.as_posix()}` ({artifact.kind})")
    return {"path": artifact.path.as_posix(), "kind": artifact.kind, "complete": artifact.complete, "problems": 0,
            "checked": findings.checked}


def check(artifact: Artifact, findings: Findings) -> None:
    """Note every problem of an artifact. What is not finished may go on: only what it holds already is checked."""
    with findings.noting():
        _CHECKS[artifact.kind](artifact.path, findings)


def _check_manifest(folder: Path, findings: Findings) -> None:
    _check_finished(folder, findings)
    check_manifest(folder, findings)


def _check_store(folder: Path, findings: Findings) -> None:
    _check_finished(folder, findings)
    if not (folder / STORE_FILE).is_file():
        return
    size = None
    with findings.noting():
        tokenizer = TextTokenizer.load(folder)
        _check_tokenizer(folder / TEXT_TOKENIZER_FILE, findings)
        size = tokenizer.vocab_size
        said = read_json(folder / STORE_FILE)["text_tokenizer_fingerprint"]
        if tokenizer.fingerprint != said:
            findings.damaged(f"`{folder}`: its texts were encoded by tokenizer `{said[:12]}`, "
                             f"`{TEXT_TOKENIZER_FILE}` is `{tokenizer.fingerprint[:12]}`")
    check_store(folder, findings, size)


def _check_tokenizer(file: Path, findings: Findings) -> None:
    """Every entry stands once, and what is encoded comes back."""
    tokenizer = TextTokenizer.load(file)
    if len(set(tokenizer.entries)) != tokenizer.vocab_size:
        findings.damaged(f"`{file}`: {tokenizer.vocab_size - len(set(tokenizer.entries))} of its "
                         f"{tokenizer.vocab_size} entries are there twice")
    for character in sorted(tokenizer.alphabet):
        if tokenizer.decode(tokenizer.encode(character)) != character:
            findings.damaged(f"`{file}`: `{character}` does not come back from its tokens")
    findings.count("entries", tokenizer.vocab_size)


def _check_run(folder: Path, findings: Findings) -> None:
    _check_finished(folder, findings)
    with findings.noting():
        read_json(folder / CONFIG)
    check_records(folder, findings)
    newest = None
    for _, checkpoint in list_checkpoints(folder):
        newest = check_model_checkpoint(checkpoint, findings) or newest
    for export in sorted(folder.glob("*.pt")):
        with findings.noting():
            check_export(export, findings)
            found = codec_fingerprint(load_codec(export))
            if is_complete(folder) and newest is not None and found != newest.fingerprint:
                findings.damaged(f"`{export}` is codec `{found[:12]}`, the newest checkpoint "
                                 f"`{newest.fingerprint[:12]}`")


def _check_checkpoint(folder: Path, findings: Findings) -> None:
    check_model_checkpoint(folder, findings)


def _check_evaluation(folder: Path, findings: Findings) -> None:
    _check_finished(folder, findings)
    if is_complete(folder):
        check_evaluation(folder, findings)


def _check_several(folder: Path, findings: Findings) -> None:
    for artifact in artifacts_in(folder):
        findings.count("artifacts")
        check(artifact, findings)


def _check_finished(folder: Path, findings: Findings) -> None:
    if is_complete(folder):
        check_sums(folder, findings)


_CHECKS: dict[str, Callable[[Path, Findings], None]] = {
    kinds.MANIFEST: _check_manifest, kinds.STORE: _check_store, kinds.RUN: _check_run,
    kinds.CHECKPOINT: _check_checkpoint,
    kinds.MODEL: check_model, kinds.EXPORT: check_export, kinds.EVALUATION: _check_evaluation,
    kinds.SPEECH: check_speech, kinds.TOKENIZER: _check_tokenizer, kinds.SEVERAL: _check_several,
}  # fmt: skip
