"""Train, validation and test: all takes of a sentence on one side."""

from __future__ import annotations

from collections import defaultdict

from stages.config.stage_configs import CurateConfig
from stages.curation.screening import FILTERS, Rejection, Take
from stages.errors import UsageError
from stages.randomness import derive_seed
from stages.text.tables import text_key

TRAIN, VALIDATION, TEST = "train", "validation", "test"
FEWEST_TEXTS = 10  # below, a corpus is too small to spare a sentence for every split


def assign_splits(takes: list[Take], config: CurateConfig) -> tuple[dict[str, str], list[Rejection]]:
    """Return id -> split, and what may be in none.

    A split that the source names is kept, and other takes of its sentences follow it. Every utterance of a
    held-out speaker is test; other speakers' takes of those sentences are rejected, since they could neither be
    trained on nor tested as an unseen speaker. All other sentences are placed by a hash of (seed, sentence).
    """
    keys = {take.recording.id: text_key(take.recording.text or "") for take in takes}
    held_out = set(config.holdout_speakers)
    _check_speakers(held_out, takes)
    held_texts = {keys[take.recording.id] for take in takes if take.recording.speaker in held_out}
    named: dict[str, str] = {}
    for take in takes:
        if take.recording.split and take.recording.speaker not in held_out:
            named.setdefault(keys[take.recording.id], take.recording.split)
    free = {key for key in keys.values() if key not in named and key not in held_texts}
    hashed = hash_splits(free, config.seed, config.validation_share, 0.0 if held_out else config.test_share)

    splits, rejections = {}, []
    for take in takes:
        recording, key = take.recording, keys[take.recording.id]
        if recording.speaker in held_out:
            splits[recording.id] = TEST
        elif key in held_texts:
            rejections.append(Rejection(recording, "HELD_OUT_TEXT", FILTERS["HELD_OUT_TEXT"]))
        else:
            splits[recording.id] = recording.split or named.get(key) or hashed[key]
    return splits, rejections


def _check_speakers(held_out: set[str], takes: list[Take]) -> None:
    speakers = {take.recording.speaker for take in takes}
    unknown = sorted(held_out - speakers)
    if unknown:
        some = ", ".join(f"`{name}`" for name in sorted(speakers)[:10])
        raise UsageError(f"held-out speaker `{unknown[0]}` has no usable recording", f"speakers are {some}")


def hash_splits(texts: set[str], seed: int, validation_share: float, test_share: float) -> dict[str, str]:
    """Return text -> split; a text's place depends on (seed, text) only, so that a corpus can grow.

    The exception keeps small corpora usable: a split that was asked for and got no text takes the next one.
    """
    places = sorted((derive_seed(seed, "split", text) / 2**63, text) for text in texts)
    splits = {}
    for place, text in places:
        is_validation = place < test_share + validation_share
        splits[text] = TEST if place < test_share else VALIDATION if is_validation else TRAIN
    for share, name in ((test_share, TEST), (validation_share, VALIDATION)):
        if share > 0 and len(texts) >= FEWEST_TEXTS and name not in splits.values():
            splits |= {text: name for _, text in [place for place in places if splits[place[1]] == TRAIN][:1]}
    return splits


def texts_in_several_splits(takes: list[Take], splits: dict[str, str]) -> int:
    """Count sentences on more than one side, which only happens where the source's own splits say so."""
    sides = defaultdict(set)
    for take in takes:
        if take.recording.id in splits:
            sides[text_key(take.recording.text or "")].add(splits[take.recording.id])
    return sum(len(names) > 1 for names in sides.values())
