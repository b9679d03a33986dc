"""What must hold of a manifest beyond its own rows: every recording is there and as long as the rows say."""

from __future__ import annotations

from pathlib import Path

from stages.artifacts.findings import Findings
from stages.artifacts.manifest import FILE_NAME, Utterance, audio_root, read_manifest
from stages.artifacts.manifest_rows import index_rows
from stages.artifacts.storage import read_json, read_jsonl
from stages.audio.base import AudioInfo
from stages.audio.io import audio_info
from stages.progress import Progress

MOST_PROBLEMS = 1000  # rows whose problems are worded; more are counted
SLACK_SECONDS = 0.01  # a manifest's seconds are rounded
_STATISTICS, _REJECTED = "statistics.json", "rejected.jsonl"  # what curation leaves beside it


def check_manifest(folder: Path, findings: Findings) -> None:
    """Note every problem of rows, and then of the recordings that they name; headers are read, sound is not."""
    index_rows(folder / FILE_NAME, folder / FILE_NAME, MOST_PROBLEMS)  # raises with all that is wrong
    manifest, root = read_manifest(folder), audio_root(folder)
    progress, known = Progress("recordings", len(manifest.utterances)), {}
    for utterance in manifest.utterances:
        with findings.noting():
            if utterance.audio not in known:
                known[utterance.audio] = None  # of a bad recording one problem is enough
                known[utterance.audio] = audio_info(utterance.audio)
                _check_inside(utterance, root, findings)
            _check_span(utterance, known[utterance.audio], findings)
        progress.advance()
    progress.close()
    findings.count("utterances", len(manifest.utterances))
    findings.count("recordings", len(known))
    if (folder / _STATISTICS).is_file():
        _check_accounts(folder, len(manifest.utterances), findings)


def _check_inside(utterance: Utterance, root: Path, findings: Findings) -> None:
    """Rows cannot name a place outside; a link may still lead there."""
    if not utterance.audio.resolve().is_relative_to(root.resolve()):
        findings.wrong(f"utterance `{utterance.id}`: `{utterance.audio}` is a link out of `{root}`")


def _check_span(utterance: Utterance, info: AudioInfo | None, findings: Findings) -> None:
    if info is not None and utterance.start + utterance.duration > info.duration + SLACK_SECONDS:
        end = utterance.start + utterance.duration
        findings.wrong(f"utterance `{utterance.id}`: expected an end within the {info.duration:.3f} s of "
                       f"`{utterance.audio}`, got {end:.3f} s")


def _check_accounts(folder: Path, rows: int, findings: Findings) -> None:
    """Nothing went missing in curation: what came in was kept or rejected, and the manifest is what was kept."""
    found, file = read_json(folder / _STATISTICS), folder / _STATISTICS
    if {"inputs", "accepted", "rejected"} <= found.keys() and \
            found["inputs"] != found["accepted"] + found["rejected"]:
        findings.damaged(f"`{file}`: {found['inputs']} inputs are not {found['accepted']} accepted and "
                         f"{found['rejected']} rejected")
    if "clips" in found and found["clips"] != rows:
        findings.damaged(f"`{file}`: expected {rows} clips, the rows of the manifest, got {found['clips']}")
    rejected = len(read_jsonl(folder / _REJECTED)) if (folder / _REJECTED).is_file() else 0
    if "rejected" in found and found["rejected"] != rejected:
        findings.damaged(f"`{file}`: expected {rejected} rejected, as `{_REJECTED}` lists, got {found['rejected']}")
