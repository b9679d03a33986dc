"""Write the utterances that curation chose, and make their manifest rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soxr

from stages.artifacts import storage
from stages.audio.io import audio_info, read_audio, write_audio
from stages.audio.loudness import normalise_loudness
from stages.config.stage_configs import CurateConfig
from stages.curation.screening import Take, local_audio
from stages.curation.segmentation import Assembly, concatenate
from stages.parallel import ordered_map
from stages.progress import Progress

CLIPS = "clips"


def write_utterances(root: Path | None, assemblies: list[Assembly], config: CurateConfig, out: Path,
                     rank: int = 0, world_size: int = 1) -> list[dict]:
    """Return the manifest's rows, after writing the clips that do not exist yet.

    One of several processes does every `world_size`th of them, from number `rank` on.
    """
    if config.clips == "reference":
        return [_reference_row(assembly.takes[0], assembly, root) for assembly in assemblies]
    names = file_names([assembly.id for assembly in assemblies])
    assemblies = assemblies[rank::world_size]
    (out / CLIPS).mkdir(exist_ok=True)
    storage.sweep_temporaries(out / CLIPS)
    rows = []
    progress = Progress("writing clips", len(assemblies))
    try:
        for row in ordered_map(lambda item: _clip_row(item, out, names[item.id], config), assemblies, config.workers):
            rows.append(row)
            progress.advance()
    finally:
        progress.close()
    return rows


def file_names(ids: list[str]) -> dict[str, str]:
    """Map ids to file names that every file system takes, also one that ignores case."""
    names = {name: quote(name, safe="+") for name in ids}
    folded = Counter(file.casefold() for file in names.values())
    for name, file in names.items():
        if folded[file.casefold()] > 1 or len(file) > 120:
            names[name] = f"{file[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return names


def _clip_row(assembly: Assembly, out: Path, name: str, config: CurateConfig) -> dict:
    path = out / CLIPS / f"{name}.flac"
    if not path.exists():  # a name appears only with a whole file behind it
        pieces = [_load(take, config) for take in assembly.takes]
        write_audio(path, concatenate(pieces, assembly.pauses, config.sample_rate), config.sample_rate)
    first = assembly.takes[0].recording
    row = _common_columns(assembly, f"{CLIPS}/{name}.flac", 0.0, audio_info(path).duration, config.sample_rate)
    row["loudness_db"] = config.loudness_db
    if len(assembly.takes) > 1:
        return {**row, "joined": [take.recording.id for take in assembly.takes], "pauses": list(assembly.pauses)}
    # A cut of a cut still tells where in the first recording it came from.
    earlier = first.extra.get("source_start", 0.0) if "source" in first.extra else 0.0
    return {**row, "source": row.get("source", first.source), "source_start": earlier + first.start}


def _load(take: Take, config: CurateConfig) -> np.ndarray:
    """Read a take at the corpus's sample rate and loudness; resampling may overshoot what FLAC holds."""
    with local_audio(take.recording) as path:
        waveform = read_audio(path, start=take.recording.start, duration=take.recording.duration)
    if take.sample_rate != config.sample_rate:
        waveform = soxr.resample(waveform, take.sample_rate, config.sample_rate)
    if config.loudness_db is not None:
        return normalise_loudness(waveform, config.loudness_db)
    peak = float(abs(waveform).max())
    return waveform * (0.999 / peak) if peak > 1.0 else waveform


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
