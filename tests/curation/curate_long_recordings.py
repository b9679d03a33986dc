"""Curate ever longer recordings in one process, and print what memory each took in MiB at most, one a line.

Of steps with models the cheap ones stand in; turns and words are written beside the recordings. The arguments are a
folder to work in, and minutes.
"""

from __future__ import annotations

import resource
import struct
import sys
from pathlib import Path

import numpy as np
import stand_in_steps
from tiny_corpora import settings, voice, write_lines

from stages import curate
from stages.curation import chain
from stages.curation.cutting import CUT
from stages.curation.diarization import DIARIZE
from stages.curation.transcription import TRANSCRIBE

RATE, CHANNELS, LOUD = 96_000, 6, 12.0


def write_long(path: Path, seconds: float) -> None:
    """Seconds of which the first and last `LOUD` ones are heard, and no disk holds the others."""
    sound = np.repeat((voice(0, LOUD, RATE) * 32767).astype("<i2")[:, None], CHANNELS, axis=1).tobytes()
    length = round(seconds * RATE) * CHANNELS * 2
    head = b"RIFF" + struct.pack("<I", length + 36) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, CHANNELS, RATE, RATE * CHANNELS * 2, CHANNELS * 2, 16) + b"data" + struct.pack("<I", length)
    with path.open("wb") as file:
        file.write(head + sound)
        file.seek(len(head) + length - len(sound))
        file.write(sound)


def write_corpus(folder: Path, seconds: float) -> Path:
    """One recording with its turns and words beside it, and a table of parts of it."""
    folder.mkdir(parents=True)
    write_long(folder / "long.wav", seconds)
    words = [f"long 1 {start:.1f} 0.4 word{number}" for number, start in enumerate(np.arange(0.1, seconds - 1, 0.5))]
    write_lines(folder / "long.ctm", *words)
    write_lines(folder / "long.rttm", f"SPEAKER long 1 0 {seconds} <NA> <NA> host <NA> <NA>")
    parts = [{"file_name": "long.wav", "id": f"part{start:.0f}", "start": start, "duration": 10.0,
              "text": f"the words that are said in the part from second {start:.0f} on"} for start in (1, seconds - 11)]
    write_lines(folder / "metadata.jsonl", *parts, {"file_name": "long.wav", "text": "all the words that are said"})
    return folder


if __name__ == "__main__":
    chain.STEPS = (*stand_in_steps.STEPS[:3], DIARIZE, TRANSCRIBE, CUT)
    root = Path(sys.argv[1])
    for minutes in map(float, sys.argv[2:]):
        source = write_corpus(root / f"{minutes}", 60 * minutes)
        for layout, expected in (("recordings", 4 * minutes), ("audiofolder", 2)):
            told = curate.run(settings(source, root / f"{minutes}-{layout}", layout=layout, workers=1, device="cpu",
                                       max_seconds=20.0, duplicates="none", diarizer="none", transcriber="none"))
            assert told["clips"] >= expected / 2, told
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, flush=True)
