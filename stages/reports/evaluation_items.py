"""The utterances that the page of an evaluation plays: the worst and the best, all systems side by side."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from stages.audio.io import audio_info, encode_audio, read_audio
from stages.metrics.sounds import RECORDINGS, SCORED
from stages.reports.evaluation_plots import value_of
from stages.reports.evaluation_tables import PAPER_COLUMNS, error_rate
from stages.reports.page import Words, article, cards, heading, paragraph, player, titled, words
from stages.reports.word_alignment import marked_words

WORST, BEST = 8, 4  # utterances that are shown, of small sets fewer in this ratio; all are in items.jsonl
EMBEDDED_BYTES = 10 * 2**20  # of sound in the page: with its base64 about 14 MB, which can still be mailed
_RATES = (8000, 11025, 12000, 16000, 22050, 24000)  # Hz; higher ones are brought down to the last
_COMPRESSION = 0.7  # of libsndfile's MP3: 39 kbit/s of speech at 24 kHz, 67 at its default
_BYTES_A_SECOND = 5000
_TOLD = [name for name in PAPER_COLUMNS if name != "duration_distance"]  # of one utterance: its seconds tell it
_KIND = re.compile(r" \(.*\)")
_ORIGIN = "Outputs are synthetic; recordings and prompts are the test set's own."
_LEGEND = (Words("same", "The text as it was heard:"), Words("lost", "not heard"),
           Words("added", "", "heard in addition"), Words("changed", "written", "heard instead"),
           Words("elided", "words as written"))


@dataclass(frozen=True)
class Shown:
    """A row of items.jsonl that is played, and why it was chosen."""

    row: dict
    why: str


def worst_items(scores: dict, rows: Sequence[dict], most: int = WORST) -> list[Shown]:
    """Return the utterances with the worst faults, of each system in turn: without an output is worse than any rate."""
    metric, ranked = error_rate(scores), []
    for system in _systems(scores):
        found = [(_fault(entry, metric), row) for row in _judged(rows) if (entry := row["systems"].get(system))]
        found.sort(key=lambda each: each[0], reverse=True)
        ranked.append([Shown(row, f"worst of {system}: {_fault_in_words(row['systems'][system], scores)}")
                       for fault, row in found if fault > (False, 0.0)])
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*ranked))
    return _first_of_each([shown for shown in in_turn if shown], most)


def best_items(scores: dict, rows: Sequence[dict], most: int = BEST, but: Sequence[Shown] = ()) -> list[Shown]:
    """Return the utterances of the lowest word error rates on average of all systems, longer ones first; none of
    which an output lacks, and none of `but`."""
    systems, metric, others = _systems(scores), error_rate(scores), {shown.row["id"] for shown in but}
    found = []
    for row in _judged(rows):
        entries = [row["systems"][system] for system in systems if system in row["systems"]]
        rates = [rate for entry in entries if (rate := value_of(entry, metric)) is not None]
        if row["id"] not in others and rates and all(entry["status"] == SCORED for entry in entries):
            found.append((sum(rates) / len(rates), -(row["reference_seconds"] or 0.0), row))
    found.sort(key=lambda each: each[:2])
    return _first_of_each([Shown(row, f"on average of all systems {_value_in_words(scores, metric, rate)}")
                           for rate, _, row in found], most)


def item_articles(scores: dict, rows: Sequence[dict], folder: Path | None = None) -> list[str]:
    """Return the worst and the best utterances to listen to; sounds are read from `folder`, and lie beside the page
    where there are too many of them to be part of it."""
    takes = _takes_of(_judged(rows))
    worst = worst_items(scores, rows, min(WORST, -(-len(takes) * WORST // (WORST + BEST))))
    best = best_items(scores, rows, but=worst)
    worst, best = ([_complete(shown, takes[shown.row["id"]]) for shown in chosen] for chosen in (worst, best))
    embedded = {}
    if folder is not None:
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(worst, best))
        embedded = embed(folder, [list(_sounds(scores, shown.row).values()) for shown in in_turn if shown])
    parts = []
    for title, chosen in (("Worst", worst), ("Best", best)):
        if chosen:
            note = f"{len(chosen)} of {len(takes)} utterances; all are in items.jsonl. {_ORIGIN}"
            parts += [heading(title), paragraph(note, "soft"), words(_LEGEND)]
            parts += [_article(shown.row, shown.why, scores, takes[shown.row["id"]], embedded) for shown in chosen]
    return parts


def refused_items(rows: Sequence[dict]) -> dict[str, str]:
    """Return why each utterance that is in no denominator was refused."""
    return {row["id"]: row["refused"] for row in rows if row["refused"]}


def embed(folder: Path, items: Sequence[Sequence[str]], limit: int = EMBEDDED_BYTES) -> dict[str, bytes]:
    """Return the MP3 of sounds by their paths below `folder`: of all of an item's or none, while `limit` allows."""
    found: dict[str, bytes] = {}
    used = 0
    for paths in items:
        there = [path for path in paths if (folder / path).is_file() and path not in found]
        expected = sum(audio_info(folder / path).duration for path in there) * _BYTES_A_SECOND
        if used + expected > limit:
            continue
        encoded = {path: to_mp3(folder / path) for path in there}
        used += sum(map(len, encoded.values()))
        found |= encoded
    return found


def to_mp3(path: Path, start: float = 0.0, duration: float | None = None) -> bytes:
    """Return a sound, or `duration` seconds of it, as MP3, which every browser plays, at a rate that MP3 knows."""
    rate = audio_info(path).sample_rate
    target = next((known for known in _RATES if known >= rate), _RATES[-1])
    waveform = read_audio(path, start=start, duration=duration)
    if rate != target:
        waveform = soxr.resample(waveform, rate, target).astype(np.float32)
    return encode_audio(waveform, target, ".mp3", path=path, compression=_COMPRESSION)


def _takes_of(rows: Sequence[dict]) -> dict[str, list[dict]]:
    takes: dict[str, list[dict]] = {}
    for row in rows:
        takes.setdefault(row["id"], []).append(row)
    return takes


def _complete(shown: Shown, takes: Sequence[dict]) -> Shown:
    """Return the row with every system in it: of those that have nothing in its take, their first one."""
    systems: dict[str, dict] = {}
    for row in (*takes[:1], shown.row, *takes):
        fresh = row["systems"] if row is shown.row else {name: entry for name, entry in row["systems"].items()
                                                        if name not in systems}
        systems |= {name: entry | {"take": row.get("take", 1)} for name, entry in fresh.items()}
    return Shown(shown.row | {"systems": systems}, shown.why)


def _article(row: dict, why: str, scores: dict, takes: Sequence[dict], embedded: Mapping[str, bytes]) -> str:
    sounds = _sounds(scores, row)
    parts: list[tuple[str, list[str]]] = []
    prompt = [titled("prompt", _player(f"prompt of {row['id']}", sounds["prompt"], embedded))] \
        if "prompt" in sounds else []
    for system, entry in row["systems"].items():
        several = sum(system in take["systems"] for take in takes)
        title = f"{system}, take {entry['take']} of {several}" if several > 1 else system
        drawn = [_player(f"{title}, {row['id']}", sounds[system], embedded)] if system in sounds else []
        parts.append((title, drawn + _said(entry, row["text"], scores)))
    return article(row["id"], [paragraph(why, "soft"), paragraph(row["text"]), *prompt, cards(parts)])


def _said(entry: dict, text: str, scores: dict) -> list[str]:
    """Return the paragraphs on one system's output of one utterance."""
    told = [f"{entry['seconds']:.1f} s"] if entry["seconds"] else []
    told += [_value_in_words(scores, name, value) for name in _TOLD
             if name in scores["metrics"] and (value := value_of(entry, name)) is not None]
    unbroken = [each.replace(" ", "\u00a0") for each in told]
    parts = [paragraph(" \u00b7 ".join(unbroken), "soft")] if told else []
    if entry["reason"]:
        parts.append(paragraph(f"{entry['status']}: {entry['reason']}", "bad"))
    elif not entry["finished"]:
        parts.append(paragraph(f"unfinished: it stopped before the end of the text ({entry['stop_reason']})", "bad"))
    if entry["heard"]:
        marked = marked_words(text, entry["heard"], scores["language"])
        wrong = any(piece.kind not in ("same", "elided") for piece in marked)
        parts.append(words(marked) if wrong else paragraph("heard as it is written"))
    elif entry["heard"] is not None:
        parts.append(paragraph("nothing was heard", "bad"))
    return parts


def _player(label: str, path: str, embedded: Mapping[str, bytes]) -> str:
    return player(label, path, embedded.get(path))


def _sounds(scores: dict, row: dict) -> dict[str, str]:
    """Return the paths of the prompt, the recording and every output of a row that there are."""
    found = {"prompt": row.get("prompt_audio")}
    found |= {system: row["systems"][system]["audio"] for system in scores["systems"] if system in row["systems"]}
    return {label: path for label, path in found.items() if path}


def _systems(scores: dict) -> list[str]:
    return [name for name in scores["systems"] if name != RECORDINGS]


def _judged(rows: Sequence[dict]) -> list[dict]:
    return [row for row in rows if not row["refused"]]


def _first_of_each(chosen: Sequence[Shown], most: int) -> list[Shown]:
    """Return the first of each utterance, whatever its takes, up to `most`."""
    found: dict[str, Shown] = {}
    for shown in chosen:
        found.setdefault(shown.row["id"], shown)
    return list(found.values())[:most]


def _fault(entry: dict, metric: str) -> tuple[bool, float]:
    return entry["status"] != SCORED, value_of(entry, metric) or 0.0


def _fault_in_words(entry: dict, scores: dict) -> str:
    if entry["status"] != SCORED:
        return entry["status"]
    metric = error_rate(scores)
    return _value_in_words(scores, metric, value_of(entry, metric))


def _value_in_words(scores: dict, metric: str, value: float) -> str:
    """Return a value under the short name of its metric, without the recogniser that every table names."""
    described = scores["metrics"][metric]
    unit = f"\u00a0{described['unit']}" if described["unit"] else ""
    return f"{_short_label(scores, metric)} {value:.{described['digits']}f}{unit}"


def _short_label(scores: dict, metric: str) -> str:
    return _KIND.sub("", scores["metrics"][metric]["label"]).split(",")[0]
