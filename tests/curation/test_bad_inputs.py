"""`halle curate` on recordings that cannot be used: each is dropped with its reason and name, and no other suffers.

Every case is met by both ways of curating, with transcripts (a table lists the recordings) and without (stand-ins for
the models). What single readers say of such files is tested beside them.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import stand_in_steps
from bad_audio import BAD, ODD, Bad, Odd, long_rf64, sound, speech
from tiny_corpora import record, sentence, write_lines

from halle_cli.app import app
from stages.artifacts import storage
from stages.artifacts.manifest import read_manifest
from stages.audio.io import audio_info
from stages.curation import chain
from stages.curation.cutting import CUT
from stages.curation.diarization import DIARIZE
from stages.curation.screening import FILTERS
from stages.curation.transcription import NO_TEXT, REPETITION, TRANSCRIBE
from stages.speech.spans import Turn
from stages.speech.transcriber import Transcript, Word
from stages.text.tables import printable

GOOD = 3
LAYOUTS = ("audiofolder", "recordings")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes files that Windows cannot hold")
by_case = pytest.mark.parametrize("bad", BAD, ids=str)
by_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(autouse=True)
def without_models(monkeypatch):
    monkeypatch.setattr(chain, "STEPS", stand_in_steps.STEPS)


def run(source: Path, out: Path, layout: str, *options: str) -> int:
    """Run `halle curate` in this process; return its exit code."""
    settings = {"min_seconds": 1, "validation_share": 0, "test_share": 0, "workers": 1, "diarizer": "none",
                "transcriber": "none"}
    overrides = [part for name, value in settings.items() for part in ("-O", f"{name}={value}")]
    with pytest.raises(SystemExit) as end:
        app(["curate", str(source), "--out", str(out), "--layout", layout, *overrides, *options])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def halle(capfd) -> Iterator[Callable]:
    """Run `halle curate`; return its exit code and all that it says."""
    logger = logging.getLogger("halle")
    before = logger.handlers, logger.propagate, logger.level

    def command(*arguments: Path | str) -> tuple[int, str]:
        code = run(*arguments)
        said = "".join(capfd.readouterr())
        assert "Traceback" not in said
        assert all(char.isprintable() or char == "\n" for char in said), "nothing steers the terminal"
        return code, said

    yield command
    logger.handlers, logger.propagate, logger.level = before


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for index in range(GOOD):
        record(folder / f"u{index:02d}.wav", index)
    return folder


def corpus(good: Path, folder: Path, *cases: Bad | Odd) -> Path:
    """Return a copy of the good recordings with the files of these cases and a table of all."""
    source = shutil.copytree(good, folder / "src")
    for case in cases:
        (source / case.name).parent.mkdir(parents=True, exist_ok=True)
        case.make(source / case.name)
    return list_all(source, [case.name for case in cases])


def list_all(source: Path, further: list[str]) -> Path:
    names = [f"u{index:02d}.wav" for index in range(GOOD)] + further
    write_lines(source / "metadata.jsonl",
                *({"file_name": name, "text": sentence(index), "speaker": "s"} for index, name in enumerate(names)))
    return source


def result(out: Path) -> dict[str, str]:
    """Map the manifest and the clips to their hashes."""
    files = [out / "manifest.jsonl", *(out / "clips").rglob("*.flac")]
    return {file.relative_to(out).as_posix(): storage.sha256_file(file) for file in files}


def rejected(out: Path) -> list[dict]:
    return storage.read_jsonl(out / "rejected.jsonl")


@pytest.fixture(scope="module")
def untouched(good, tmp_path_factory) -> dict[str, dict[str, str]]:
    """What the good recordings give alone."""
    folder = tmp_path_factory.mktemp("untouched")
    source, found = corpus(good, folder), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "STEPS", stand_in_steps.STEPS)
        for layout in LAYOUTS:
            assert run(source, folder / layout, layout) == 0
            found[layout] = result(folder / layout)
    assert [len(files) for files in found.values()] == [1 + GOOD, 1 + 2 * GOOD]
    return found


def curate_dropping(halle, source: Path, out: Path, layout: str, bad: Bad) -> dict[str, str]:
    """Return what comes of the others. The run ends at --max-bad 0 if the file is damaged, and goes on when allowed."""
    code, said = halle(source, out, layout, "--max-bad", "0")
    if bad.reason in FILTERS:
        assert code == 0, said
    else:
        assert code == 3 and f"1 {bad.reason}" in said and "rejected.jsonl" in said, said
        assert [row["source"] for row in rejected(out)] == [printable(bad.name)]
        code, said = halle(source, out, layout, "--max-bad", "1")
        assert code == 0, said
    (row,) = rejected(out)
    assert (row["source"], row["reason"]) == (printable(bad.name), bad.reason)
    assert bad.told in row["detail"]
    return result(out)


@by_layout
@by_case
def test_a_bad_file_is_dropped_and_no_other(halle, good, untouched, tmp_path, layout, bad):
    source = corpus(good, tmp_path, bad)
    with unblocked(source / bad.name):
        assert curate_dropping(halle, source, tmp_path / "out", layout, bad) == untouched[layout]


@contextmanager
def unblocked(path: Path) -> Iterator[None]:
    """Fail when somebody opens a pipe to read from it, which would then wait for ever."""
    stop, opened = threading.Event(), []

    def watch() -> None:
        while not stop.wait(0.2):
            with suppress(OSError):  # nobody waits for what is written
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                opened.append(path)

    thread = threading.Thread(target=watch, daemon=True)
    if path.is_fifo():
        thread.start()
    yield
    stop.set()
    assert not opened


@by_layout
@pytest.mark.parametrize("odd", ODD, ids=str)
def test_an_odd_file_is_kept(halle, good, untouched, tmp_path, layout, odd):
    out = tmp_path / "out"
    code, said = halle(corpus(good, tmp_path, odd), out, layout, "--max-bad", "0")
    assert (code, rejected(out)) == (0, []), said
    warnings = storage.read_json(out / "statistics.json")["warnings"]
    assert warnings == ({odd.warning: 1} if odd.warning else {}) and said.count("warning:") == len(warnings)
    assert said.count("resampled to") == ("96.wav" in odd.name or "192.flac" in odd.name)
    rows = [row for row in read_manifest(out).utterances if row.extra["source"] == printable(odd.name)]
    assert sum(row.duration for row in rows) == pytest.approx(3.0, abs=0.06), "whole, but for what an MP3 adds"
    infos = [audio_info(row.audio) for row in rows]
    assert {(info.sample_rate, info.channels, info.subtype) for info in infos} == {(24_000, 1, "PCM_16")}
    found = result(out)
    assert {name: found[name] for name in untouched[layout] if name != "manifest.jsonl"}.items() \
        == {name: value for name, value in untouched[layout].items() if name != "manifest.jsonl"}.items()


@by_layout
def test_a_telephone_recording_is_kept_when_asked_for(halle, good, tmp_path, layout):
    (telephone,) = [bad for bad in BAD if bad.reason == "LOW_RATE"]
    code, said = halle(corpus(good, tmp_path, telephone), tmp_path / "out", layout, "--min-rate", "8000")
    assert (code, rejected(tmp_path / "out")) == (0, []), said


def test_hours_are_not_decoded_to_be_thrown_away(halle, good, untouched, tmp_path):
    bad = Bad(20, "hours.wav", long_rf64, "TOO_LONG", "at most 90 s, got 36000.00")
    source = corpus(good, tmp_path, bad)
    assert curate_dropping(halle, source, tmp_path / "out", "audiofolder", bad) == untouched["audiofolder"]


@by_layout
def test_a_file_that_may_not_be_read_is_dropped(halle, good, untouched, tmp_path, layout, monkeypatch):
    bad, opens = Bad(25, "secret.wav", lambda path: path.write_bytes(sound(speech())), "DENIED"), Path.open

    def deny(path: Path, *arguments, **options):
        if path.name == bad.name:
            raise PermissionError(13, "Permission denied")
        return opens(path, *arguments, **options)

    source = corpus(good, tmp_path, bad)
    monkeypatch.setattr(Path, "open", deny)  # a test may run as somebody who may read everything
    assert curate_dropping(halle, source, tmp_path / "out", layout, bad) == untouched[layout]


@by_layout
@pytest.mark.parametrize("change, told", [
    (lambda path: path.unlink(), "vanished"),
    (lambda path: path.write_bytes(path.read_bytes() + bytes(9)), "changed while it was read: it had 144044 bytes"),
])
def test_a_file_that_changes_while_it_is_read_is_dropped(halle, good, untouched, tmp_path, layout, change, told,
                                                         monkeypatch):
    bad, reads = Bad(26, "u99.wav", lambda path: path.write_bytes(sound(speech())), "CHANGED", told), \
        soundfile.SoundFile.read

    def read(file, *arguments, **options):
        if b"u99" in os.fsencode(file.name):
            change(tmp_path / "src" / bad.name)
        return reads(file, *arguments, **options)

    source = corpus(good, tmp_path, bad)
    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    code, said = halle(source, tmp_path / "out", layout, "--max-bad", "1")
    assert code == 0, said
    (row,) = rejected(tmp_path / "out")
    assert (row["source"], row["reason"]) == (bad.name, bad.reason) and bad.told in row["detail"]
    assert result(tmp_path / "out") == untouched[layout]


@pytest.mark.parametrize("name", ["no\0thing.wav", "long" * 99 + ".wav"])
def test_a_table_may_name_what_no_file_is_called(halle, good, untouched, tmp_path, name):
    bad = Bad(22, name, lambda path: None, "NOT_REGULAR", "not a file")
    source = list_all(corpus(good, tmp_path), [name])
    assert curate_dropping(halle, source, tmp_path / "out", "audiofolder", bad) == untouched["audiofolder"]


# ---- what models and people say of recordings


class Recogniser:
    """Hears a word every half second in loud recordings, and in others only `nonsense`."""

    name, version = "loud", "1"

    def __init__(self, nonsense: str):
        self.nonsense = nonsense

    def transcribe(self, waveform: np.ndarray, sample_rate: int) -> Transcript:
        seconds = len(waveform) / sample_rate
        texts = [f"word{index}" for index in range(int(2 * seconds))] if np.abs(waveform).max() > 0.2 \
            else self.nonsense.split()
        words = [Word(text, seconds * index / len(texts), seconds * (index + 0.5) / len(texts))
                 for index, text in enumerate(texts)]
        return Transcript(" ".join(texts), tuple(words))


class Diarizer:
    """Finds one speaker, and in `odd.wav` one who speaks backwards, not at all, before the beginning and twice."""

    name, version = "odd", "1"

    def diarize(self, sound, speech):
        turns = [Turn(0.0, sound.seconds, "A")]
        if sound.path.stem == "odd":
            turns += [Turn(1.0, 0.5, "A"), Turn(2.0, 2.0, "A"), Turn(-3.0, -1.0, "A"), Turn(2.5, 2.9, "A"),
                      Turn(7.0, 8.0, "B")]
        return turns


@pytest.fixture
def real_steps(monkeypatch):
    """The steps themselves, of which models may be replaced."""
    monkeypatch.setattr(chain, "STEPS", (*stand_in_steps.STEPS[:3], DIARIZE, TRANSCRIBE, CUT))
    monkeypatch.setattr("stages.curation.diarization.missing_diarizer", lambda name: "")
    monkeypatch.setattr("stages.curation.diarization._diarizer", lambda name, device: Diarizer())


KEEP_COPIES = ("-O", "duplicates=none", "-O", "diarizer=resemblyzer", "-O", "transcriber=pocketsphinx")


@pytest.mark.parametrize("nonsense, reason", [("", NO_TEXT), ("thank you " * 40, REPETITION)])
def test_recognisers_that_hear_nothing_or_one_phrase_for_ever_are_not_believed(
        halle, good, tmp_path, real_steps, monkeypatch, nonsense, reason):
    monkeypatch.setattr("stages.curation.transcription._transcriber", lambda *_: Recogniser(nonsense))
    assert halle(corpus(good, tmp_path), tmp_path / "alone", "recordings", *KEEP_COPIES)[0] == 0
    soundfile.write(tmp_path / "src" / "faint.wav", speech() / 3, 24_000)
    code, said = halle(tmp_path / "src", tmp_path / "out", "recordings", "--max-bad", "0", *KEEP_COPIES)
    assert code == 0, said
    assert [(row["source"], row["reason"]) for row in rejected(tmp_path / "out")] == [("faint.wav", reason)]
    assert result(tmp_path / "out") == result(tmp_path / "alone") and len(result(tmp_path / "out")) == 1 + GOOD


def test_turns_that_cannot_be_are_dropped_one_by_one(halle, good, tmp_path, real_steps, monkeypatch):
    monkeypatch.setattr("stages.curation.transcription._transcriber", lambda *_: Recogniser(""))
    source, out = corpus(good, tmp_path), tmp_path / "out"
    assert halle(source, tmp_path / "alone", "recordings", *KEEP_COPIES)[0] == 0
    record(source / "odd.wav", 40)
    code, said = halle(source, out, "recordings", "--max-bad", "0", *KEEP_COPIES)
    assert code == 0, said
    bad = [row for row in rejected(out) if row["reason"] == "BAD_SEGMENT"]
    assert len(bad) == 5 and {row["source"] for row in bad} == {"odd.wav"}
    (odd,) = [row for row in read_manifest(out).utterances if row.extra["source"] == "odd.wav"]
    assert odd.duration == pytest.approx(3.0, abs=0.5), "what the good turn holds is kept"
    clips = {name: value for name, value in result(tmp_path / "alone").items() if name != "manifest.jsonl"}
    assert len(clips) == GOOD and clips.items() <= result(out).items()


def test_lines_beside_a_recording_that_cannot_be_read_drop_it(halle, good, tmp_path, real_steps, monkeypatch):
    monkeypatch.setattr("stages.curation.transcription._transcriber", lambda *_: Recogniser(""))
    source, out = corpus(good, tmp_path), tmp_path / "out"
    write_lines(source / "u01.rttm", "SPEAKER u01 1 zero 3.0 <NA> <NA> host <NA> <NA>")
    code, said = halle(source, out, "recordings", "--max-bad", "0", *KEEP_COPIES)
    assert code == 3 and "1 BAD_TRANSCRIPT" in said
    assert halle(source, out, "recordings", "--max-bad", "1", *KEEP_COPIES)[0] == 0
    (row,) = rejected(out)
    assert (row["source"], row["reason"]) == ("u01.wav", "BAD_TRANSCRIPT") and "u01.rttm:1" in row["detail"]


# ---- all at once


OF_THEIR_OWN = {
    20: test_hours_are_not_decoded_to_be_thrown_away,
    25: test_a_file_that_may_not_be_read_is_dropped,
    26: test_a_file_that_changes_while_it_is_read_is_dropped,
    31: test_recognisers_that_hear_nothing_or_one_phrase_for_ever_are_not_believed,
    32: test_turns_that_cannot_be_are_dropped_one_by_one,
}


def test_every_case_of_the_list_of_bad_inputs_is_met():
    assert {case.case for case in (*BAD, *ODD)} | set(OF_THEIR_OWN) == set(range(1, 33))


@by_layout
def test_every_input_is_kept_or_dropped_and_a_second_run_opens_none(halle, good, untouched, tmp_path, layout,
                                                                    monkeypatch):
    source, out = corpus(good, tmp_path, *BAD), tmp_path / "out"
    with unblocked(source / "pipe.wav"):
        code, said = halle(source, out, layout, "--max-bad", "100%")
        assert code == 0, said
        assert result(out) == untouched[layout]
        assert {row["source"]: row["reason"] for row in rejected(out)} == {
            printable(bad.name): bad.reason for bad in BAD}
        statistics = storage.read_json(out / "statistics.json")
        assert statistics["inputs"] == statistics["accepted"] + statistics["rejected"]
        assert statistics["rejected"] == len(BAD) == sum(statistics["reasons"].values()) == len(rejected(out))
        if layout == "recordings":
            assert statistics["recordings"] == GOOD + len(BAD)
            dropped = sum(statistics["dropped_seconds"].values())
            assert statistics["input_seconds"] == pytest.approx(statistics["kept_seconds"] + dropped, abs=0.01)
        else:
            assert statistics["inputs"] == GOOD + len(BAD)
        monkeypatch.setattr(soundfile, "SoundFile", None)
        assert halle(source, out, layout, "--max-bad", "100%")[0] == 0
        assert result(out) == untouched[layout]


@pytest.mark.parametrize("layout, workers", [("audiofolder", 2), ("audiofolder", 8), ("recordings", 2)])
def test_any_number_of_workers_drops_and_keeps_the_same(halle, good, untouched, tmp_path, layout, workers):
    source = corpus(good, tmp_path, *BAD)
    with unblocked(source / "pipe.wav"):
        for out, count in ((tmp_path / "one", 1), (tmp_path / "many", workers)):
            code, said = halle(source, out, layout, "--max-bad", "100%", "-O", f"workers={count}")
            assert code == 0, said
    one, many = ((tmp_path / out / "rejected.jsonl").read_bytes() for out in ("one", "many"))
    assert one == many
    assert result(tmp_path / "many") == untouched[layout]


def test_a_plan_of_bad_files_counts_them(halle, good, tmp_path):
    source = corpus(good, tmp_path, *BAD)
    with unblocked(source / "pipe.wav"):
        code, said = halle(source, tmp_path / "out", "recordings", "--dry-run", "--json")
    assert code == 0 and not (tmp_path / "out").exists()
    assert f'"recordings": {GOOD + len(BAD)}' in said


def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path):
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (here.parent.parent, here.parent, here))),
                   "OMP_NUM_THREADS": "1",
                   # what is freed goes back at once, else old blocks and not the need would be measured
                   "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    finished = subprocess.run([sys.executable, here / "curate_long_recordings.py", tmp_path, "2", "4"],
                              check=False, env=environment, capture_output=True, text=True, encoding="utf-8",
                              timeout=300)
    assert finished.returncode == 0, finished.stderr
    shorter, longer = map(int, finished.stdout.split())
    mono = 120 * 96_000 * 4 / 2**20
    assert longer - shorter < mono / 2, "not even the mean of the channels of the two minutes more is held"
