"""Write the utterances that curation chose, and make their manifest rows.

Clips are files of one utterance each or, when there are many, lie end to end in shards: a shard is a FLAC file of about
an hour, beside it a JSON file with the length of every clip. What a file holds depends on the utterances alone, so any
number of workers and processes writes the same bytes, and a killed run goes on with the files that are missing.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soxr

from stages.artifacts import storage
from stages.audio.end_to_end import write_end_to_end
from stages.audio.io import audio_info, read_audio, write_audio
from stages.audio.loudness import normalise_loudness
from stages.audio.recording import ForwardReader
from stages.config.stage_configs import CurateConfig
from stages.curation.screening import Take, local_audio
from stages.curation.segmentation import Assembly, concatenate
from stages.parallel import ordered_map
from stages.progress import Progress

CLIPS, SHARDS = "clips", "shards"
MANY_CLIPS = 5_000  # file systems, copies and backups begin to suffer from more files
SHARD_CLIPS, SHARD_SECONDS = 1_000, 3600.0
_own = threading.local()  # each thread's reader


@dataclass(frozen=True)
class _File:
    """One file to write, below the output folder, and the utterances in it."""

    name: str
    assemblies: Sequence[Assembly]
    in_order: bool


def write_utterances(root: Path | None, assemblies: list[Assembly], config: CurateConfig, out: Path,
                     rank: int = 0, world_size: int = 1, in_order: bool = False) -> list[dict]:
    """Return the manifest's rows, after writing the clips that do not exist yet.

    One of several processes does every `world_size`th of them, from number `rank` on. Where they are `in_order`, one
    recording after the other and parts as they follow in it, long recordings are decoded once and not sought in.
    """
    if config.clips == "reference":
        return [_reference_row(assembly.takes[0], assembly, root) for assembly in assemblies]
    make = _shards if writes_shards(config, len(assemblies)) else _single_files
    files = make(assemblies, in_order)[rank::world_size]
    rows: list[dict] = []
    progress = Progress("writing clips", sum(len(file.assemblies) for file in files))
    try:
        for written in ordered_map(lambda file: _file_rows(file, out, config), files, config.workers):
            rows += written
            progress.advance(len(written))
    finally:
        progress.close()
    return rows


def writes_shards(config: CurateConfig, num_clips: int) -> bool:
    return config.clips == "shards" or (config.clips == "auto" and num_clips > MANY_CLIPS)


def clear_clips(out: Path, keep: bool = False) -> None:
    """Delete the clips in an output folder; with `keep`, only what killed processes left of unfinished ones.

    No other process may be writing there.
    """
    for name in (CLIPS, SHARDS):
        with storage.storage_errors(out / name, "clear"):
            if keep:
                storage.sweep_temporaries(out / name)
            elif (out / name).exists():
                shutil.rmtree(out / name)


def _single_files(assemblies: Sequence[Assembly], in_order: bool) -> list[_File]:
    names = file_names([assembly.id for assembly in assemblies])
    return [_File(f"{CLIPS}/{names[assembly.id]}.flac", (assembly,), in_order) for assembly in assemblies]


def _shards(assemblies: Sequence[Assembly], in_order: bool) -> list[_File]:
    """Divide utterances, in order, into shards of at most SHARD_CLIPS clips and, but for one clip, SHARD_SECONDS."""
    groups: list[list[Assembly]] = []
    seconds = 0.0
    for assembly in assemblies:
        seconds += assembly.duration
        if not groups or len(groups[-1]) == SHARD_CLIPS or seconds > SHARD_SECONDS:
            groups.append([])
            seconds = assembly.duration
        groups[-1].append(assembly)
    return [_File(f"{SHARDS}/{number:05d}.flac", group, in_order) for number, group in enumerate(groups)]


def file_names(ids: list[str]) -> dict[str, str]:
    """Map ids to file names that every file system takes, also one that ignores case."""
    names = {name: quote(name, safe="+", errors="surrogatepass") for name in ids}
    folded = Counter(file.casefold() for file in names.values())
    for name, file in names.items():
        if folded[file.casefold()] > 1 or len(file) > 120:
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
            names[name] = f"{file[:100]}-{digest[:12]}"
    return names


def _file_rows(file: _File, out: Path, config: CurateConfig) -> list[dict]:
    """Write a file if it is missing: a name appears only with a whole file behind it. Return the rows of its clips."""
    path = out / file.name
    lengths = _write_shard(file, path, config) if file.name.startswith(SHARDS) else [_write_clip(file, path, config)]
    starts = accumulate(lengths, initial=0)
    return [_clip_row(assembly, file.name, start, length, config)
            for assembly, start, length in zip(file.assemblies, starts, lengths, strict=False)]


def _write_clip(file: _File, path: Path, config: CurateConfig) -> int:
    """Return the samples of the one clip in a file."""
    if not path.exists():
        write_audio(path, _render(file.assemblies[0], file, config), config.sample_rate)
    return audio_info(path).num_samples


def _write_shard(file: _File, path: Path, config: CurateConfig) -> list[int]:
    """Return the samples of every clip in a shard."""
    told, ids = path.with_suffix(".json"), [assembly.id for assembly in file.assemblies]
    if path.exists() and told.exists() and (known := storage.read_json(told))["ids"] == ids:
        return known["samples"]
    path.unlink(missing_ok=True)
    with storage.atomic_path(path) as temporary:
        waveforms = (_render(assembly, file, config) for assembly in file.assemblies)
        lengths = write_end_to_end(temporary, waveforms, config.sample_rate)
        # before the shard appears, so that none is without
        storage.write_json(told, {"format_version": storage.FORMAT_VERSION, "ids": ids, "samples": lengths})
    return lengths


def _render(assembly: Assembly, file: _File, config: CurateConfig) -> np.ndarray:
    pieces = [_load(take, file.in_order, config) for take in assembly.takes]
    return concatenate(pieces, assembly.pauses, config.sample_rate)


def _clip_row(assembly: Assembly, audio: str, first_sample: int, num_samples: int, config: CurateConfig) -> dict:
    first, rate = assembly.takes[0].recording, config.sample_rate
    row = _common_columns(assembly, audio, round(first_sample / rate, 6), num_samples / rate, rate)
    row["loudness_db"] = config.loudness_db
    if len(assembly.takes) > 1:
        return {**row, "joined": [take.recording.id for take in assembly.takes], "pauses": list(assembly.pauses)}
    # What is curated again still tells where in the first recording it came from, not where in a shard.
    origin = {"source": first.source, "source_start": first.start}
    return {**row, **{name: row.get(name, value) for name, value in origin.items()}}


def _load(take: Take, in_order: bool, config: CurateConfig) -> np.ndarray:
    """Read a take at the corpus's sample rate and loudness; resampling may overshoot what FLAC holds."""
    recording = take.recording
    if in_order and recording.audio is not None:
        waveform = _reader(recording.audio).read(recording.start, recording.start + take.duration)
    else:
        with local_audio(recording) as path:
            waveform = read_audio(path, start=recording.start, duration=recording.duration)
    if take.sample_rate != config.sample_rate:
        waveform = soxr.resample(waveform, take.sample_rate, config.sample_rate)
    if config.loudness_db is not None:
        return normalise_loudness(waveform, config.loudness_db)
    peak = float(abs(waveform).max())
    return waveform * (0.999 / peak) if peak > 1.0 else waveform


def _reader(path: Path) -> ForwardReader:
    """Return this thread's reader of a recording: its clips follow one another."""
    reader = getattr(_own, "reader", None)
    if reader is None or reader.path != path:
        reader = _own.reader = ForwardReader(path)
    return reader


def _reference_row(take: Take, assembly: Assembly, root: Path | None) -> dict:
    assert root is not None and take.recording.audio is not None
    audio = take.recording.audio.relative_to(root).as_posix()
    return _common_columns(assembly, audio, take.recording.start, take.duration, take.sample_rate)


def _common_columns(assembly: Assembly, audio: str, start: float, duration: float, sample_rate: int) -> dict:
    """The manifest's columns; further columns of the source are kept where all joined takes agree."""
    extras = [take.recording.extra for take in assembly.takes]
    agreed = {key: value for key, value in extras[0].items() if all(extra.get(key) == value for extra in extras)}
    columns = {
        "id": assembly.id,
        "audio": audio,
        "start": start,
        "duration": round(duration, 6),
        "speaker": assembly.takes[0].recording.speaker,
        "text": assembly.text,
        "split": assembly.split,
        "sample_rate": sample_rate,
    }
    return {**columns, **{key: value for key, value in agreed.items() if key not in columns}}
