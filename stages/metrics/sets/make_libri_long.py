"""Rebuild the lists of libri-long-90s and libri-long-180s from the table of LibriSpeech test-clean beside it.

    python make_libri_long.py [--out FOLDER]

It reads nothing but `librispeech-test-clean.tsv`: the lists are the same wherever it runs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / "librispeech-test-clean.tsv"
SAMPLE_RATE = 16_000
SETS = {"libri-long-90s": (60, 90), "libri-long-180s": (120, 180)}  # seconds of one recording
PROMPT_SECONDS = (4, 10)  # the paper's prompts are the first 3 s; the rest is for studies of longer ones


def number(*words: str) -> int:
    """Return a number of 32 bits that depends on the words only."""
    return int(hashlib.sha256(" ".join(words).encode("utf-8")).hexdigest()[:8], 16)


def chapter_of(utterance: str) -> str:
    return utterance.rsplit("-", 1)[0]


def speaker_of(utterance: str) -> str:
    return utterance.split("-", maxsplit=1)[0]


def read_table() -> dict[str, int]:
    """Return the samples of every utterance, chapters and utterances in order."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row["id"]: int(row["samples"]) for row in csv.DictReader(file, delimiter="\t")}


def joined(chapter: list[str], samples: dict[str, int], name: str) -> Iterator[list[str]]:
    """Yield runs of consecutive utterances of a chapter that do not overlap.

    A run ends at a length of its own between the least and the most, so that all lengths occur. Where the next
    utterance would go beyond the most before the least is reached, the run loses its first.
    """
    least, most = (seconds * SAMPLE_RATE for seconds in SETS[name])
    run: list[str] = []
    for utterance in chapter:
        run.append(utterance)
        while sum(samples[one] for one in run) > most:
            run.pop(0)
        enough = least + number(name, run[0]) % (most - least)
        following = next((one for one in chapter if one > utterance), None)
        length = sum(samples[one] for one in run)
        full = following is None or length + samples[following] > most
        if length >= enough or (length >= least and full):
            yield run
            run = []


def choose_prompt(run: list[str], samples: dict[str, int], name: str) -> str:
    """Return an utterance of the speaker from another chapter; where there is none, from the rest of this one."""
    least, most = (seconds * SAMPLE_RATE for seconds in PROMPT_SECONDS)
    fitting = [one for one in samples if speaker_of(one) == speaker_of(run[0]) and least <= samples[one] <= most]
    others = [one for one in fitting if chapter_of(one) != chapter_of(run[0])]
    pool = others or [one for one in fitting if one not in run]
    return pool[number(name, "prompt", run[0]) % len(pool)]


def make_list(name: str) -> list[dict]:
    """Return the rows of a set: its id, what it is joined from, the samples of all, the utterance that prompts."""
    samples = read_table()
    chapters: dict[str, list[str]] = {}
    for utterance in samples:
        chapters.setdefault(chapter_of(utterance), []).append(utterance)
    rows = []
    for chapter in chapters.values():
        for run in joined(chapter, samples, name):
            rows.append({"id": f"{run[0]}-{run[-1].rsplit('-', 1)[1]}", "utterances": run,
                         "samples": sum(samples[one] for one in run), "prompt": choose_prompt(run, samples, name)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write (default: this one)")
    out = parser.parse_args().out
    for name in SETS:
        rows = make_list(name)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
        minutes = sum(row["samples"] for row in rows) / SAMPLE_RATE / 60
        print(f"{name}: {len(rows)} recordings, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
