"""The same speech in shorter utterances: sets like train-28s, train-54s and train-90s beside train-180s.

    180 s   [------- a clip -------]      OUT/manifest.jsonl
     28 s   [---1---][---2---][-3--]      OUT/sets/28s/manifest.jsonl: `start` and `duration` in the clips of OUT

The four training sets of Table 2 have 39 to 40 thousand hours each: one corpus in pieces of at most 28, 54, 90 and
180 s, not selections. So here, too, all that is longer is cut, in as few and as long pauses as possible. No audio is
written again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from stages.artifacts import storage
from stages.artifacts.manifest import AUDIO_ROOT_FILE, write_manifest
from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import Recording
from stages.curation.utterances import CutRules, partition
from stages.curation.work import WorkFolder
from stages.speech.transcriber import Word

SETS = "sets"
WordTimes = Callable[[dict], list[Word]]  # of a manifest row: its words, with times in the recording
_PAUSE = 0.15  # seconds without a word that may be cut in
_MARGIN = 0.2  # of a pause that stays with the words before and after it, at most


def write_sets(rows: list[dict], word_times: WordTimes, config: CurateConfig, out: Path) -> dict[str, list[dict]]:
    """Write a manifest for each of `config.sets` below the output folder; return set -> rows, longest first."""
    found = {}
    for seconds in sorted(config.sets, reverse=True):
        folder = out / SETS / set_name(seconds)
        found[set_name(seconds)] = cut_rows(rows, word_times, config.min_seconds, seconds)
        header = out / AUDIO_ROOT_FILE
        root = storage.read_json(header)["audio_root"] if header.is_file() else "../.."
        storage.write_json(folder / AUDIO_ROOT_FILE, {"format_version": storage.FORMAT_VERSION, "audio_root": root})
        write_manifest(folder, found[set_name(seconds)])
    return found


def set_name(seconds: float) -> str:
    return f"{seconds:g}s"


def cut_rows(rows: list[dict], word_times: WordTimes, min_seconds: float, max_seconds: float) -> list[dict]:
    """Return manifest rows of at most `max_seconds`, longer ones cut in pauses; what cannot be cut so is left out."""
    rules = CutRules(min_seconds, max_seconds)
    cut = ([row] if row["duration"] <= max_seconds else _pieces(row, word_times(row), rules) for row in rows)
    return [piece for pieces in cut for piece in pieces]


def _pieces(row: dict, words: Sequence[Word], rules: CutRules) -> list[dict]:
    """Cut one row; a piece has the id of the row and its own number."""
    origin = row.get("source_start", row["start"])
    phrases = _phrases(words)
    if len(phrases) < 2:
        return []
    edges = [(0.0, 0.0), *(_edge(left[-1].end - origin, right[0].start - origin) for left, right in pairwise(phrases)),
             (row["duration"], row["duration"])]
    pauses = [right[0].start - left[-1].end for left, right in pairwise(phrases)]
    begins, ends = [after for _, after in edges[:-1]], [before for before, _ in edges[1:]]
    bounds = [0, *partition(begins, ends, pauses, rules), len(phrases)]
    pieces = []
    for first, last in pairwise(bounds):
        start, duration = round(begins[first], 6), round(ends[last - 1] - begins[first], 6)
        if not rules.min_seconds <= duration <= rules.max_seconds:
            continue
        said = [word.text for phrase in phrases[first:last] for word in phrase]
        moved = {key: round(row[key] + start, 6) for key in ("start", "source_start") if key in row}
        pieces.append({**row, "id": f"{row['id']}-{len(pieces) + 1:02d}", **moved, "duration": duration,
                       "text": " ".join(said), **({"words": len(said)} if "words" in row else {})})
    return pieces


def _phrases(words: Sequence[Word]) -> list[list[Word]]:
    """Return words in groups that only pauses divide."""
    groups: list[list[Word]] = []
    for word in words:
        if groups and word.start - groups[-1][-1].end < _PAUSE:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def _edge(before: float, after: float) -> tuple[float, float]:
    """Return where the piece before a pause ends and the one after it begins."""
    margin = min(_MARGIN, (after - before) / 2)
    return before + margin, after - margin


def times_of(recordings: tuple[Recording, ...], work: WorkFolder) -> WordTimes:
    """Return what finds the words of an utterance again in what step `cut` found."""
    by_id = {recording.id: recording for recording in recordings}

    @lru_cache(maxsize=1)  # rows come recording by recording
    def utterances(name: str) -> list[dict]:
        return work.result("cut", by_id[name])["utterances"]

    def of_row(row: dict) -> list[Word]:
        name, number = row["id"].rsplit("-", 1)
        return [Word(*word) for word in utterances(name)[int(number) - 1]["words"]]

    return of_row
