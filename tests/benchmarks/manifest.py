"""What a manifest of millions of rows costs to open and read, and clips in shards beside single files.

    opening    with the index, after a copy (times differ, bytes are hashed), and the first time (every row is checked);
               beside it, parsing everything
    rows       one at random, a training step's crops from all rows
    clips      a crop at random out of FLAC shards of an hour, and out of files of one clip each

    python tests/benchmarks/manifest.py [--rows 4000000] [--out FOLDER]

Every figure is of a process of its own: wall and CPU seconds, and the peak of the memory that is its own, without
the pages of files that it maps, which belong to all.
These are measurements, not tests: nothing here can fail.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil

from stages.artifacts.manifest import FILE_NAME, INDEX_FILE, read_manifest, write_manifest
from stages.audio.end_to_end import write_end_to_end
from stages.audio.io import read_audio, write_audio

WORDS = "the of and to in that is was he for it with as his on be at by had not are but from or have an they".split()
RATE, CROP_SECONDS, CLIP_SECONDS = 24_000, 1.0, 36.0  # mean duration of section 6's corpus: 40k hours in 4M clips
RANDOM_ROWS, CROPS = 20_000, 300


def made_up_rows(count: int) -> Iterator[dict]:
    """Rows as `halle curate` writes them: about 22 clips a recording, 2 speakers each, 90 words a clip."""
    texts = [" ".join(np.random.default_rng(number).choice(WORDS, 90)) for number in range(100)]
    for number in range(count):
        recording, part = divmod(number, 22)
        yield {"id": f"episode-{recording:06d}-{part:04d}", "audio": f"shards/{number // 100:05d}.flac",
               "start": number % 100 * 36.0, "duration": 3.0 + number * 7919 % 66_000 / 1000,
               "speaker": f"episode-{recording:06d}-{'AB'[part % 2]}", "text": texts[number % 100],
               "split": "validation" if recording % 50 == 0 else "train", "sample_rate": RATE,
               "source": f"episodes/episode-{recording:06d}.mp3", "source_start": part * 40.0, "language": "en"}


# ---- figures, each in a process of its own


def open_manifest(folder: Path) -> dict:
    with Meter() as meter:
        manifest = read_manifest(folder)
    return meter.figures | {"rows": len(manifest.utterances), "hours": round(manifest.hours)}


def parse_everything(folder: Path) -> dict:
    with Meter() as meter:
        rows = [json.loads(line) for line in (folder / FILE_NAME).open(encoding="utf-8")]
    return meter.figures | {"rows": len(rows)}


def read_random_rows(folder: Path) -> dict:
    utterances = read_manifest(folder).utterances
    numbers = np.random.default_rng(0).integers(len(utterances), size=RANDOM_ROWS)
    with Meter() as meter:
        for number in numbers:
            utterances[number]
    return meter.figures | {"us_a_row": round(1e6 * meter.figures["cpu"] / RANDOM_ROWS, 1)}


def read_all_rows(folder: Path) -> dict:
    utterances = read_manifest(folder).utterances
    with Meter() as meter:
        rows = sum(1 for _ in utterances)
    return meter.figures | {"us_a_row": round(1e6 * meter.figures["cpu"] / rows, 1)}


def plan_crops(folder: Path) -> dict:
    from stages.data.waveforms import training_and_validation_crops

    manifest = read_manifest(folder)
    with Meter() as meter:
        crops, _ = training_and_validation_crops(manifest, RATE, RATE, seed=0, max_bad="1%")
    return meter.figures | {"utterances": len(crops)}


def read_crops(folder: Path) -> dict:
    """Read seconds at random out of all the audio in a folder, which was written just now and so is in memory."""
    generator, files = np.random.default_rng(0), sorted(folder.glob("*.flac"))
    seconds = {file: CLIP_SECONDS * 100 if len(files) == 1 else CLIP_SECONDS for file in files}
    chosen = [files[number] for number in generator.integers(len(files), size=CROPS)]
    starts = [generator.uniform(0, seconds[file] - CROP_SECONDS) for file in chosen]
    with Meter() as meter:
        for file, start in zip(chosen, starts, strict=True):
            read_audio(file, start=start, duration=CROP_SECONDS)
    return meter.figures | {"ms_a_crop": round(1e3 * meter.figures["cpu"] / CROPS, 2)}


FIGURES: dict[str, Callable[[Path], dict]] = {function.__name__: function for function in (
    open_manifest, parse_everything, read_random_rows, read_all_rows, plan_crops, read_crops)}


class Meter:
    """Wall and CPU seconds of what happens inside, and the most megabytes of its own that the process held more."""

    def __enter__(self) -> Meter:
        self.figures: dict[str, float] = {}
        self._before = self._most = own_memory()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._done.set()
        self._watch.join()
        most = max(self._most, own_memory()) - self._before
        self.figures = {"wall": round(wall, 2), "cpu": round(cpu, 2), "peak_mb": round(most / 2**20)}

    def _look(self) -> None:
        while not self._done.wait(0.1):
            self._most = max(self._most, own_memory())


def own_memory() -> int:
    memory = psutil.Process().memory_info()
    return memory.rss - getattr(memory, "shared", 0)  # only Linux tells mapped files apart


def measure(name: str, folder: Path) -> dict:
    command = [sys.executable, __file__, "--figure", name, "--out", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout)


# ---- the table


def main() -> None:
    arguments = parse_arguments()
    folder = Path(arguments.out or tempfile.mkdtemp())
    if arguments.figure:
        print(json.dumps(FIGURES[arguments.figure](folder)))
        return
    measure_manifest(folder, arguments.rows, arguments.without_parsing)
    measure_clips(folder)


def measure_manifest(folder: Path, rows: int, without_parsing: bool) -> None:
    with Meter() as meter:
        write_manifest(folder, made_up_rows(rows))
    sizes = [round((folder / name).stat().st_size / 2**20) for name in (FILE_NAME, INDEX_FILE)]
    tell(f"written and checked: {sizes[0]} MB, index {sizes[1]} MB", meter.figures)
    tell("opened", measure("open_manifest", folder))
    os.utime(folder / INDEX_FILE)
    tell("opened after a copy", measure("open_manifest", folder))
    tell(f"{RANDOM_ROWS} rows at random", measure("read_random_rows", folder))
    tell("crops planned", measure("plan_crops", folder))
    tell("all rows, one after the other", measure("read_all_rows", folder))
    (folder / INDEX_FILE).unlink()
    tell("opened the first time", measure("open_manifest", folder))
    if not without_parsing:
        tell("everything parsed into memory", measure("parse_everything", folder))


def measure_clips(folder: Path) -> None:
    """An hour of noise in 100 clips: in one file, and in one file each."""
    generator = np.random.default_rng(0)
    noise = 0.1 * generator.standard_normal((100, round(CLIP_SECONDS * RATE)), dtype=np.float32)
    for name in ("shards", "clips"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_end_to_end(folder / "shards" / "00000.flac", noise, RATE)
    for number, clip in enumerate(noise):
        write_audio(folder / "clips" / f"{number}.flac", clip, RATE)
    tell(f"{CROPS} crops out of a shard", measure("read_crops", folder / "shards"))
    tell(f"{CROPS} crops out of clips", measure("read_crops", folder / "clips"))


def tell(what: str, figures: dict) -> None:
    print(f"{what:45s}", "  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="4000000 is the size of section 6's corpus")
    parser.add_argument("--out", help="a folder for the manifest and the clips; by default a temporary one")
    parser.add_argument("--without-parsing", action="store_true", help="not everything at once: it takes 2 KB a row")
    parser.add_argument("--figure", choices=FIGURES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
