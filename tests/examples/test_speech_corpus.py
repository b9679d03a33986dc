"""The speech that ships for the demo is what its README says."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from stages.audio.io import audio_info, read_audio

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
ROWS = [json.loads(line) for line in (SPEECH / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
SENTENCES = (SPEECH / "sentences.txt").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture(scope="module")
def make_speech() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_speech", SPEECH / "make_speech.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_ten_minutes_or_more_of_four_voices_in_fifteen_megabytes() -> None:
    assert sum(row["duration"] for row in ROWS) >= 600
    assert Counter(row["speaker"] for row in ROWS) == dict.fromkeys(("rms", "slt", "awb", "kal16"), len(SENTENCES))
    assert sum(file.stat().st_size for file in SPEECH.rglob("*") if file.is_file()) < 15e6


def test_every_voice_reads_every_sentence_in_3_to_20_seconds() -> None:
    for voice in ("rms", "slt", "awb", "kal16"):
        assert [row["text"] for row in ROWS if row["speaker"] == voice] == SENTENCES
    assert all(3.0 <= row["duration"] <= 20.0 for row in ROWS)
    assert sum(row["duration"] > 15.0 for row in ROWS) >= 8
    assert {row["license"] for row in ROWS} == {"CC0-1.0"}


def test_files_and_metadata_agree() -> None:
    listed = [row["file_name"] for row in ROWS]
    assert sorted(listed) == sorted(file.relative_to(SPEECH).as_posix() for file in SPEECH.glob("audio/*"))
    for row in ROWS:
        info = audio_info(SPEECH / row["file_name"])
        assert info.sample_rate == 16_000 and info.channels == 1
        assert info.duration == pytest.approx(row["duration"], abs=1e-3)


@pytest.mark.parametrize("row", ROWS[::37], ids=lambda row: row["file_name"])
def test_readings_are_equally_loud_and_do_not_clip(row: dict) -> None:
    waveform = read_audio(SPEECH / row["file_name"])
    assert 0.075 < np.sqrt(np.mean(waveform**2)) < 0.085
    assert np.abs(waveform).max() < 0.95


def test_prompt_and_script_are_not_among_the_sentences() -> None:
    known = {sentence for text in SENTENCES for sentence in _sentences(text)}
    for name in ("prompt.txt", "script.txt"):
        assert not known & set(_sentences((SPEECH / name).read_text(encoding="utf-8")))
    assert audio_info(SPEECH / "prompt.ogg").duration >= 4.0
    assert 50 <= len((SPEECH / "script.txt").read_text(encoding="utf-8").split()) <= 70


def _sentences(text: str) -> list[str]:
    return [part.strip().lower() for part in re.split(r"[.?!]", text) if part.strip()]


def test_ogg_pages_get_one_serial_number_and_a_valid_checksum(make_speech: ModuleType, tmp_path: Path) -> None:
    waveform = np.sin(np.arange(16_000) / 20).astype(np.float32) / 4
    soundfile.write(tmp_path / "a.ogg", waveform, 16_000, format="OGG", subtype="OPUS")
    original = (tmp_path / "a.ogg").read_bytes()
    page = bytearray(original[: 27 + original[26] + sum(original[27 : 27 + original[26]])])
    checksum, page[22:26] = bytes(page[22:26]), bytes(4)
    assert make_speech.ogg_checksum(page).to_bytes(4, "little") == checksum  # what libogg wrote
    fixed = make_speech.with_fixed_serial(original)
    assert fixed[14:18] == bytes(4) and len(fixed) == len(original)
    (tmp_path / "b.ogg").write_bytes(fixed)
    np.testing.assert_array_equal(read_audio(tmp_path / "b.ogg"), read_audio(tmp_path / "a.ogg"))


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_a_reading_can_be_made_again(make_speech: ModuleType, tmp_path: Path) -> None:
    row = ROWS[0]
    assert make_speech.write_reading(row["text"], row["speaker"], tmp_path / "a.ogg") == pytest.approx(row["duration"])
    make_speech.write_reading(row["text"], row["speaker"], tmp_path / "b.ogg")
    assert (tmp_path / "a.ogg").read_bytes() == (tmp_path / "b.ogg").read_bytes()
