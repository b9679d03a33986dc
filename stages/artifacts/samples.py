"""Audio that a trainer gives to listen to, in the run folder: `samples/step-00000500/clip-1/original.flac`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLES = "samples"


@dataclass(frozen=True)
class Sample:
    """One sound: float32 `waveform` [samples] at `sample_rate` Hz. What has the same `group` is heard side by side.

    `group` and `name` become the names of a folder and a file. `caption` says more, such as the words. What is
    `synthetic` says so in the metadata of its file; recordings are not.
    """

    group: str
    name: str
    waveform: np.ndarray
    sample_rate: int
    caption: str = ""
    synthetic: bool = True


def samples_folder(run_dir: Path, step: int) -> Path:
    return run_dir / SAMPLES / f"step-{step:08d}"


def list_samples(run_dir: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of every validation whose samples are kept, oldest first."""
    folders = [folder for folder in (run_dir / SAMPLES).glob("step-*") if re.fullmatch(r"step-\d+", folder.name)]
    return sorted((int(folder.name.removeprefix("step-")), folder) for folder in folders)
