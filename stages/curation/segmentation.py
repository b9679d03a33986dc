"""What becomes one utterance: a take as it is, or several of one speaker joined with pauses."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from stages.config.stage_configs import CurateConfig
from stages.curation.screening import Rejection, Take
from stages.errors import UsageError
from stages.randomness import derive_seed
from stages.text.tables import text_key

_FADE_SECONDS = 0.005  # at a joint, so that room noise does not click into silence


@dataclass(frozen=True)
class Assembly:
    """An utterance to be written: its takes in order, and the pauses between them (seconds, one fewer)."""

    id: str
    split: str
    takes: tuple[Take, ...]
    pauses: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(take.recording.text or "" for take in self.takes)

    @property
    def duration(self) -> float:
        return sum(take.duration for take in self.takes) + sum(self.pauses)


def assemble(
    takes: list[Take], splits: dict[str, str], config: CurateConfig
) -> tuple[list[Assembly], list[Rejection]]:
    """Return the utterances to write in source order, and the takes that no joined utterance could use."""
    if config.join_seconds is None:
        return [Assembly(take.recording.id, splits[take.recording.id], (take,)) for take in takes], []
    groups: dict[tuple[str, str], list[Take]] = defaultdict(list)
    for take in takes:
        groups[take.recording.speaker, splits[take.recording.id]].append(take)
    assemblies, rejections = [], []
    for (_, split), group in groups.items():
        for assembly in _join(_in_rounds(group), split, config):
            if config.join_seconds[0] <= assembly.duration <= config.join_seconds[1]:
                assemblies.append(assembly)
            else:
                rejections += _not_joined(assembly, config.join_seconds)
    ids = Counter(assembly.id for assembly in assemblies)
    if len(ids) < len(assemblies):
        raise UsageError(f"joining makes two utterances named `{ids.most_common(1)[0][0]}`", "rename that recording")
    order = {take.recording.id: index for index, take in enumerate(takes)}
    return sorted(assemblies, key=lambda assembly: order[assembly.takes[0].recording.id]), rejections


def _in_rounds(takes: list[Take]) -> list[Take]:
    """Order first takes of every sentence before second takes: nobody says a sentence three times in a row."""
    seen: Counter[str] = Counter()
    rounds = []
    for take in takes:
        key = text_key(take.recording.text or "")
        rounds.append(seen[key])
        seen[key] += 1
    order = sorted(range(len(takes)), key=rounds.__getitem__)  # stable: source order within a round
    return [takes[index] for index in order]


def _join(takes: list[Take], split: str, config: CurateConfig) -> list[Assembly]:
    """Cut a speaker's takes into runs: each grows to a target drawn from the range, and never beyond the range."""
    assert config.join_seconds is not None
    least, most = config.join_seconds
    runs: list[Assembly] = []
    chosen: list[Take] = []
    pauses: list[float] = []
    duration = 0.0
    for take in takes:
        if chosen:
            target = least + (most - least) * _unit(config.seed, "target", chosen[0].recording.id)
            pause = _pause(chosen[-1], take, config)
            if duration < target and duration + pause + take.duration <= most:
                chosen.append(take)
                pauses.append(pause)
                duration += pause + take.duration
                continue
            runs.append(_to_assembly(chosen, pauses, split))
        chosen, pauses, duration = [take], [], take.duration
    return [*runs, _to_assembly(chosen, pauses, split)] if chosen else runs


def _to_assembly(takes: list[Take], pauses: list[float], split: str) -> Assembly:
    name = takes[0].recording.id + (f"+{len(takes) - 1}" if len(takes) > 1 else "")
    return Assembly(name, split, tuple(takes), tuple(pauses))


def _pause(left: Take, right: Take, config: CurateConfig) -> float:
    least, most = config.join_pause_seconds
    return round(least + (most - least) * _unit(config.seed, "pause", left.recording.id, right.recording.id), 3)


def _unit(*parts: object) -> float:
    """A number in 0..1 that depends on the parts only."""
    return derive_seed(*parts) / 2**63


def _not_joined(assembly: Assembly, wanted: tuple[float, float]) -> list[Rejection]:
    got = f"{assembly.duration:.2f} s from {len(assembly.takes)} takes"
    detail = f"expected {wanted[0]:g} to {wanted[1]:g} s, got {got}"
    return [Rejection(take.recording, "NOT_JOINED", detail) for take in assembly.takes]


def concatenate(pieces: list[np.ndarray], pauses: tuple[float, ...], sample_rate: int) -> np.ndarray:
    """Join waveforms [samples] with silences between them (seconds), fading each out and in at the joints."""
    parts: list[np.ndarray] = []
    for index, piece in enumerate(pieces):
        if index:
            parts.append(np.zeros(round(pauses[index - 1] * sample_rate), np.float32))
        parts.append(_fade(piece, sample_rate, at_start=index > 0, at_end=index < len(pieces) - 1))
    return np.concatenate(parts)


def _fade(waveform: np.ndarray, sample_rate: int, at_start: bool, at_end: bool) -> np.ndarray:
    length = min(round(_FADE_SECONDS * sample_rate), len(waveform))
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    faded = waveform.copy()
    if at_start:
        faded[:length] *= ramp
    if at_end:
        faded[len(faded) - length :] *= ramp[::-1]
    return faded
