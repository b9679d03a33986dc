"""The page of a curation: what was kept and what was not, how long utterances are, how fast it went, some to hear."""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages.artifacts.manifest import FILE_NAME, audio_root
from stages.artifacts.storage import read_json, write_text
from stages.audio.io import AudioError
from stages.randomness import derive_seed
from stages.reports import plots
from stages.reports.evaluation_items import to_mp3
from stages.reports.page import article, facts, figures, heading, page, paragraph, player, plot_figure, table

REPORT = "report.html"
_HEARD = 5  # clips
_MOST_SECONDS = 60.0  # of each, to keep the page small
_SHOWN_DETAIL = 90  # characters


@dataclass
class _Clips:
    """What a manifest's rows say, without keeping them: [utterances] by split, and the clips to hear."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    words: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    heard: list[dict] = field(default_factory=list)


def write_curation_report(folder: Path, steps: dict[str, dict] | None = None) -> Path:
    """Write report.html into a curated folder, out of the files there; `steps` tells the speed of each step."""
    write_text(folder / REPORT, curation_page(folder, steps or {}))
    return folder / REPORT


def curation_page(folder: Path, steps: dict[str, dict]) -> str:
    found, clips = read_json(folder / "statistics.json"), _read_clips(folder)
    parts = [
        facts(_about(found)),
        heading("Sets"), *_sets(found),
        heading("Kept and left out"), _reasons(folder, found),
        heading("Durations and words"), figures(_plots(clips)),
        *_steps(steps),
        heading("Listen"), paragraph("Chosen at random, with what was heard or read in them.", "soft"),
        *(_sound(folder, row) for row in clips.heard),
    ]
    return page(f"halle curate: {folder.resolve().name}", parts)


def _about(found: dict) -> dict[str, str]:
    longest = found.get("longest")
    told = {"source": f"{found.get('recordings', found['inputs'])} recordings, layout {found['layout']}"}
    if "input_seconds" in found:
        told["kept"] = (f"{found['kept_seconds'] / 3600:.2f} of {found['input_seconds'] / 3600:.2f} h "
                        f"({_percent(found['kept_seconds'], found['input_seconds'])})")
    told["utterances"] = (f"{found['clips']:,}, {found['hours']:.2f} h, {found['words']:,} words, "
                          f"{len(found['speakers']):,} speakers")
    told["seconds"] = f"{found['mean_seconds']:.2f} ± {found['sd_seconds']:.2f} on average"
    if longest:
        told["longest"] = f"{longest['seconds']:.2f} s, {longest['id']}"
    rates = found.get("sample_rates", {})
    if rates:
        told["sample rates"] = ", ".join(f"{count:,} recordings of {rate} Hz" for rate, count in rates.items())
    if found.get("warnings"):
        told["odd, but kept"] = ", ".join(f"{count:,} {name}" for name, count in found["warnings"].items())
    return told


def _sets(found: dict) -> list[str]:
    """Return the paper's Table 2 of this corpus."""
    rows = [(row["name"], f"{row['clips']:,}", f"{row['mean_seconds']:.2f} ± {row['sd_seconds']:.2f}",
             f"{row['hours']:.2f}", f"{row['words']:,}",
             f"{row['max_audio_tokens']:,}{'†' if row['audio_rate'] == 8 else ''}", f"{row['max_text_tokens']:,}",
             f"{row['max_tokens']:,}") for row in found.get("table", [])]
    header = ("split", "clips", "seconds", "hours", "words", "most audio tokens", "text tokens", "sum")
    note = "As Table 2 of the paper. Audio tokens are frames, of 48 Hz or, with a dagger, of 8 Hz."
    return [table("Every set and split", header, rows, numbers=range(1, 8), note=note)] if rows else []


def _reasons(folder: Path, found: dict) -> str:
    """Return a table of the reasons, those that cost most first."""
    seconds, total = found.get("dropped_seconds", {}), found.get("input_seconds")
    examples: dict[str, str] = {}
    for row in _rows(folder / "rejected.jsonl"):
        examples.setdefault(row["reason"], f"{row['id']}: {row['detail']}"[:_SHOWN_DETAIL])
    names = sorted(found["reasons"], key=lambda name: (-seconds.get(name, 0.0), -found["reasons"][name], name))
    kept = found.get("kept_seconds")
    rows = [("kept", f"{found['clips']:,}", _seconds(kept), _percent(kept, total), "")]
    rows += [(name, f"{found['reasons'][name]:,}", _seconds(seconds.get(name)), _percent(seconds.get(name), total),
              examples.get(name, "")) for name in names]
    return table("What became of the input", ("reason", "stretches", "seconds", "share", "the first"), rows,
                 numbers=range(1, 4), note="All of it is in rejected.jsonl.")


def _plots(clips: _Clips) -> list[str]:
    """Return Fig. 4 of the paper for every split: how durations are distributed, and words."""
    drawn = []
    for split in sorted(clips.seconds, key=lambda name: (name != "train", name)):
        for what, values in (("duration, s", clips.seconds[split]), ("words", clips.words[split])):
            caption = f"{split}: {what.split(',')[0]} of {len(values):,} utterances, mean {np.mean(values):.1f}."
            edges = plots.histogram_edges(values)
            drawn.append(plot_figure(plots.histogram(caption, what, values, 1, (), edges), caption))
    return drawn


def _steps(steps: dict[str, dict]) -> list[str]:
    if not steps:
        return []
    rows = [(name, f"{step['done']:,}", f"{step['dropped']:,}", f"{step['hours']:.2f}",
             f"{step['hours_per_hour']:,.1f}" if step["hours_per_hour"] else "–") for name, step in steps.items()]
    return [heading("Steps"), table("Per recording, one process", (
        "step", "recordings", "left out", "hours", "hours of audio an hour"), rows, numbers=range(1, 5))]


def _sound(folder: Path, row: dict) -> str:
    where = f"{row.get('source', row['audio'])}, from {row.get('source_start', row['start']):.1f} s"
    told = {"speaker": row.get("speaker", "–"), "source": where, "license": row.get("license", "–")}
    seconds = min(row["duration"], _MOST_SECONDS)
    cut = f" (the first {seconds:.0f})" if seconds < row["duration"] else ""
    try:
        mp3 = to_mp3(audio_root(folder) / row["audio"], row["start"], seconds)
        sound = player(row["id"], row["audio"], mp3)
    except AudioError as error:  # recordings that a manifest only refers to may be gone
        sound = paragraph(f"{error}", "bad")
    return article(f"{row['id']}, {row['duration']:.1f} s{cut}", [sound, paragraph(row["text"]), facts(told)])


# ---- reading


def _read_clips(folder: Path) -> _Clips:
    """Go through the manifest once; memory holds two numbers an utterance."""
    clips = _Clips()
    chosen: list[tuple[int, str, dict]] = []
    for row in _rows(folder / FILE_NAME):
        clips.seconds[row["split"]].append(row["duration"])
        clips.words[row["split"]].append(row["words"] if "words" in row else len(row["text"].split()))
        heapq.heappush(chosen, (-derive_seed("listen", row["id"]), row["id"], row))
        if len(chosen) > _HEARD:
            heapq.heappop(chosen)
    clips.heard = [row for _, _, row in sorted(chosen, reverse=True)]
    return clips


def _rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:,.1f}"


def _percent(part: float | None, whole: float | None) -> str:
    return "–" if part is None or not whole else f"{100 * part / whole:.1f} %"
