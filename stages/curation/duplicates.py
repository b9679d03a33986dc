"""What is in a corpus twice: intros, advertisements, and episodes published again. The first copy is kept.

The first in the order of recordings and time, that is, so that one source always gives one result. Two signs tell a
copy, each on its own: it says the same words as another recording, or it is the same sound.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from stages.audio import fingerprint as sound_print
from stages.audio.recording import open_recording
from stages.config.stage_configs import CurateConfig
from stages.curation.marks import Marks, Rules, find_copies
from stages.curation.recordings import Recording
from stages.curation.screening import Take
from stages.curation.steps import Results, Step
from stages.text.tables import spoken_words

SoundMarks = Callable[[Take], tuple[np.ndarray, np.ndarray]]  # keys and frames of an utterance's sound

_PHRASE = 6  # words that seldom come together twice by chance
_SAME_WORDS, _FEWEST_PHRASES = 0.5, 3  # of an utterance's phrases; three are eight words
_SAME_SOUND, _FEWEST_PEAKS = 0.15, 5  # of an utterance's marks: of a true copy's, some 40 % are found again
_APART = 8  # frames (0.13 s) that marks of one copy may differ in their distances
_BLOCK_SECONDS = 60.0
_MIXER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 over the golden ratio


# ---- by words


def same_words(takes: Sequence[Take]) -> dict[str, str]:
    """Return id -> why of utterances of which an earlier recording says half and more, phrase by phrase."""
    marks = Marks()
    for owner, take in enumerate(takes):
        keys = phrase_keys(spoken_words(take.recording.text or ""))
        marks.add(owner, keys, np.arange(len(keys)))
    source = _sources(takes)

    def group(owner: np.ndarray, earlier: np.ndarray, distance: np.ndarray) -> np.ndarray:
        return np.where(source[earlier] == source[owner], -1, source[earlier])[None]  # who repeats himself may

    copies = find_copies(marks, Rules(_SAME_WORDS, _FEWEST_PHRASES, group))
    return {takes[owner].recording.id: f"{100 * share:.0f} % of its phrases are in `{takes[first].recording.source}`"
            for owner, (first, share) in copies.items()}


def phrase_keys(words: Sequence[str]) -> np.ndarray:
    """Return a key (uint32) for every six words in a row."""
    if len(words) < _PHRASE:
        return np.zeros(0, np.uint32)
    hashes = np.array([_word_hash(word) for word in words], dtype=np.uint64)
    total = np.zeros(len(words) - _PHRASE + 1, np.uint64)
    for index in range(_PHRASE):
        total = total * _MIXER + hashes[index : index + len(total)]
    return (sound_print.mix(total) >> np.uint64(32)).astype(np.uint32)


@lru_cache(maxsize=1 << 17)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _sources(takes: Sequence[Take]) -> np.ndarray:
    """Return the number of every utterance's recording, int64 [takes]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(take.recording.source, len(numbers)) for take in takes], dtype=np.int64)


# ---- by sound


def same_sound(takes: Sequence[Take], sound_marks: SoundMarks) -> dict[str, str]:
    """Return id -> why of utterances that are the sound of an earlier one, in any recording, for the most part."""
    marks = Marks()
    for owner, take in enumerate(takes):
        marks.add(owner, *sound_marks(take))
    source = _sources(takes)

    def group(owner: np.ndarray, earlier: np.ndarray, distance: np.ndarray) -> np.ndarray:
        shifts = np.array([[0], [_APART // 2]])  # or a border between groups could halve the votes
        return (source[earlier] << 32) + ((distance + shifts) // _APART + (1 << 31))

    copies = find_copies(marks, Rules(_SAME_SOUND, _FEWEST_PEAKS, group))
    return {takes[owner].recording.id: f"the same sound as `{takes[first].recording.id}`"
            for owner, (first, _) in copies.items()}


def run(recording: Recording, inputs: Results, config: CurateConfig) -> dict:
    """Return the marks of a recording's sound as base64 of little-endian keys (uint32) and frames (int32)."""
    assert recording.audio is not None
    if not _is_wanted(config):
        return {"keys": "", "frames": ""}
    keys, frames = [np.zeros(0, np.uint32)], [np.zeros(0, np.int32)]
    for start, block in open_recording(recording.audio).blocks(_BLOCK_SECONDS, sound_print.SAMPLE_RATE):
        key, frame = sound_print.fingerprint(block)
        keys.append(key)
        frames.append(frame + np.int32(round(start / sound_print.FRAME_SECONDS)))
    return {"keys": _to_text(np.concatenate(keys)), "frames": _to_text(np.concatenate(frames))}


def read_marks(found: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and frames out of the result of `run`."""
    return _to_array(found["keys"], "<u4"), _to_array(found["frames"], "<i4")


def marks_between(marks: tuple[np.ndarray, np.ndarray], start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the marks from `start` to `end` seconds; their frames rise."""
    keys, frames = marks
    first, last = np.searchsorted(frames, [start / sound_print.FRAME_SECONDS, end / sound_print.FRAME_SECONDS])
    return keys[first:last], frames[first:last]


def _to_text(values: np.ndarray) -> str:
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def _to_array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def settings(config: CurateConfig) -> dict:
    return {"version": 1, "wanted": _is_wanted(config)}


def _is_wanted(config: CurateConfig) -> bool:
    return config.duplicates in ("both", "sound")


FINGERPRINT = Step("fingerprint", needs=("check",), settings=settings, run=run)
