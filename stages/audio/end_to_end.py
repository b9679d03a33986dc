"""Many sounds in one file, one after the other without a gap: fewer files, and any one is found by its first sample."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from stages.audio.base import AudioError
from stages.errors import UsageError


def write_end_to_end(path: Path, waveforms: Iterable[np.ndarray], sample_rate: int) -> list[int]:
    """Write mono sounds [samples] into a 16-bit FLAC file, one in memory at a time; return the samples of each.

    The file is written in place: see `storage.atomic_path`. Samples outside -1..1 are clipped, as `write_audio` does.
    """
    lengths = []
    try:
        with soundfile.SoundFile(path, "w", sample_rate, 1, "PCM_16", format="FLAC") as sound:
            for waveform in waveforms:
                if not np.isfinite(waveform).all():
                    raise AudioError(path, "NON_FINITE", "refused to write samples that are not finite")
                sound.write(np.asarray(waveform, dtype=np.float32))
                lengths.append(len(waveform))
    except soundfile.LibsndfileError as error:
        raise UsageError(f"cannot write `{path}` as FLAC at `{sample_rate}` Hz: {error}") from error
    return lengths
