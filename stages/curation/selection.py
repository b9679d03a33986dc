"""From what the steps found to the utterances that are written, and a reason for every second that is not.

Pure functions of the results and the settings, so that every process of a run selects the same.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from stages.config.stage_configs import CurateConfig
from stages.curation.oddities import describe_oddities
from stages.curation.recordings import UNKNOWN_SPEAKER, Recording
from stages.curation.refinement import refine, sounds_of
from stages.curation.screening import FILTERS, Rejection, Take
from stages.curation.segmentation import Assembly
from stages.curation.splits import FEWEST_TEXTS, TEST, assign_splits, hash_splits
from stages.curation.work import WorkFolder
from stages.text.tables import text_key

CLOSE = 1e-3  # seconds a recording that may be lost in rounding


@dataclass(frozen=True)
class Selection:
    """The utterances to write and the stretches that are dropped, both in source order; all seconds are in one."""

    assemblies: list[Assembly]
    rejections: list[Rejection]
    recordings: int
    seconds: float  # of all recordings that could be decoded
    oddities: dict  # of sound recordings, how many there are of each sample rate and warning
    texts_in_several_splits: int = 0


def select(recordings: tuple[Recording, ...], work: WorkFolder, config: CurateConfig) -> Selection:
    """Read what all steps found and choose. Raises `AssertionError` when seconds are lost: that is our bug."""
    checks = [work.result("check", recording) for recording in recordings]
    takes, rejections = _collect(recordings, checks, work, config)
    takes, left_out = refine(takes, sounds_of(recordings, work), config)
    rejections += left_out
    splits, held_out = _assign_splits(takes, config)
    rejections += held_out
    kept = [take for take in takes if take.recording.id in splits]
    assemblies = [Assembly(take.recording.id, splits[take.recording.id], (take,)) for take in kept]
    order = {recording.source: index for index, recording in enumerate(recordings)}
    rejections.sort(key=lambda rejection: (order[rejection.recording.source], rejection.recording.start))
    odd = describe_oddities((found["sample_rate"], found["warnings"]) for found in checks if not found["reason"])
    selection = Selection(assemblies, rejections, len(recordings), sum(found["seconds"] for found in checks), odd)
    _check_accounts(selection)
    return selection


def dropped_seconds(rejections: list[Rejection]) -> dict[str, float]:
    """Return reason -> seconds."""
    found: dict[str, float] = defaultdict(float)
    for rejection in rejections:
        found[rejection.reason] += rejection.recording.duration or 0.0
    return {reason: round(found[reason], 3) for reason in sorted(found)}


def _check_accounts(selection: Selection) -> None:
    kept = sum(assembly.duration for assembly in selection.assemblies)
    dropped = sum(rejection.recording.duration or 0.0 for rejection in selection.rejections)
    if abs(kept + dropped - selection.seconds) > CLOSE * selection.recordings:
        raise AssertionError(f"{selection.seconds:.3f} s in, but {kept:.3f} s kept and {dropped:.3f} s dropped")


def _collect(
    recordings: tuple[Recording, ...], checks: list[dict], work: WorkFolder, config: CurateConfig
) -> tuple[list[Take], list[Rejection]]:
    """Return all utterances that were cut, and what was dropped so far; `checks` is what step `check` found."""
    takes: list[Take] = []
    rejections: list[Rejection] = []
    heard: dict[str, str] = {}
    for recording, checked in zip(recordings, checks, strict=True):
        reason, detail = _refused(recording, checked, heard, work)
        if reason:
            rejections.append(Rejection(replace(recording, duration=checked["seconds"]), reason, detail))
            continue
        cut = work.result("cut", recording)
        rejections += [_dropped(recording, stretch) for stretch in cut["dropped"]]
        takes += _utterances(recording, cut, checked, work, config)
    return takes, rejections


def _refused(recording: Recording, checked: dict, heard: dict[str, str], work: WorkFolder) -> tuple[str, str]:
    """Return (reason, detail) when the whole recording is dropped; `heard` maps contents to first ids."""
    step = work.dropped_by(recording)
    if step is not None:
        return step[1], work.result(step[0], recording).get("detail") or f"step `{step[0]}`"
    first = heard.setdefault(checked["content"], recording.id)
    return ("", "") if first == recording.id else ("DUPLICATE", f"the same samples as `{first}`")


def _dropped(recording: Recording, stretch: dict) -> Rejection:
    start, end, reason = stretch["start"], stretch["end"], stretch["reason"]
    part = replace(recording, start=start, duration=round(end - start, 6))
    return Rejection(part, reason, stretch.get("detail") or FILTERS.get(reason, f"{start:.2f} to {end:.2f} s"))


def _utterances(
    recording: Recording, cut: dict, checked: dict, work: WorkFolder, config: CurateConfig
) -> list[Take]:
    gate = work.result("gate", recording)
    known = {"language": config.language}
    if recording.speaker != UNKNOWN_SPEAKER:
        known["source_speaker"] = recording.speaker
    takes = []
    for number, utterance in enumerate(cut["utterances"], start=1):
        start, end = utterance["start"], utterance["end"]
        extra = {**known, **recording.extra, "quality": _quality(gate, config.gate.piece_seconds, start, end),
                 "words": len(utterance["text"].split())}
        part = replace(
            recording, id=f"{recording.id}-{number:04d}", start=start, duration=round(end - start, 6),
            text=utterance["text"], speaker=f"{recording.id}-{utterance['speaker']}",
            extra={name: value for name, value in extra.items() if value is not None})
        takes.append(Take(part, part.duration or 0.0, checked["sample_rate"]))
    return takes


def _quality(gate: dict, piece_seconds: float, start: float, end: float) -> float | None:
    """Return the mean of the gate's scores of the pieces that an utterance lies in, else that of the recording."""
    pieces = gate["pieces"][int(start // piece_seconds) : int(end // piece_seconds) + 1]
    scores = [score for score in pieces if score is not None]
    return round(sum(scores) / len(scores), 4) if scores else gate["mean"]


# ---- splits


def _assign_splits(takes: list[Take], config: CurateConfig) -> tuple[dict[str, str], list[Rejection]]:
    """Return utterance -> split: whole recordings on one side, since nobody knows who speaks in two of them.

    With few recordings sentences are placed instead. What is said in training and elsewhere is not trained on.
    """
    sources = {take.recording.source for take in takes}
    if len(sources) < FEWEST_TEXTS or config.holdout_speakers or any(take.recording.split for take in takes):
        return assign_splits(takes, config)
    placed = hash_splits(sources, config.seed, config.validation_share, config.test_share)
    splits = {take.recording.id: placed[take.recording.source] for take in takes}
    keys = {take.recording.id: text_key(take.recording.text or "") for take in takes}
    held = {keys[name] for name, split in splits.items() if split == TEST}
    rejections = [Rejection(take.recording, "HELD_OUT_TEXT", "the test split says the same") for take in takes
                  if splits[take.recording.id] != TEST and keys[take.recording.id] in held]
    for rejection in rejections:
        del splits[rejection.recording.id]
    return splits, rejections
