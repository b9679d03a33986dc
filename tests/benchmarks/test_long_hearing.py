"""The measurement of long speech gives every recogniser the same speech in four ways."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from long_hearing import CUT, RATE, SENTENCES, STITCHED, WHOLE, Reading, measure, readings, told

from stages.audio.io import write_audio
from stages.speech.transcriber import Transcript, Word

SECOND = np.ones(RATE, np.float32)


def word_of(number):
    """Return a word that no normaliser changes, another one for each number below 100."""
    return f"q{chr(97 + number // 10)}q{chr(97 + number % 10)}q"


class Counter:
    """Hear each stretch of one loudness as a word, if it lasts for 0.4 s; and no more than 35 of them."""

    name, version = "counter", "1"

    def transcribe(self, waveform, sample_rate):
        edges = [0, *(np.flatnonzero(np.diff(waveform)) + 1), len(waveform)]
        words = [Word(word_of(round(float(waveform[first]) * 1000)), first / RATE, end / RATE)
                 for first, end in pairwise(edges) if end - first >= 0.4 * RATE]
        return Transcript(" ".join(word.text for word in words[:35]), tuple(words[:35]))


@pytest.fixture
def reading(monkeypatch):
    monkeypatch.setattr("long_hearing.PAUSE_SECONDS", 0.0)
    clips = [np.concatenate([(5 * clip + second + 1) / 1000 * SECOND for second in range(5)]) for clip in range(12)]
    return Reading(tuple(" ".join(word_of(5 * clip + second + 1) for second in range(5)) for clip in range(12)),
                   tuple(clips))


def test_windows_are_put_together_and_what_a_recogniser_drops_beyond_its_length_is_an_error(reading):
    found = {way: measured[0].value for way, measured in measure(Counter(), [reading]).items()}
    assert found == {SENTENCES: 0.0, WHOLE: pytest.approx(100 * 25 / 60), STITCHED: 0.0, CUT: 50.0}


def test_each_way_is_told_beside_the_sentences(reading):
    lines = list(told(measure(Counter(), [reading, reading])))
    assert lines[0] == f"{SENTENCES}: WER 0.00 % of 120 words"
    assert lines[3] == f"{CUT}: WER 50.00 % of 120 words, +50.00 (+50.00 to +50.00) beside its sentences"


def test_files_are_of_one_voice_long_enough_and_share_no_sentence(tmp_path):
    rows = [{"file_name": f"{voice}{index}.wav", "text": f"{voice} {index}", "speaker": voice}
            for voice in ("ann", "bob") for index in range(7)]  # fmt: skip
    for row in rows:
        write_audio(tmp_path / row["file_name"], SECOND * 0.1, RATE)
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = list(readings(tmp_path, files=3, seconds=3.9))
    assert [reading.texts for reading in found] == [(f"{voice} {first}", f"{voice} {first + 1}", f"{voice} {first + 2}")
                                                    for voice in ("ann", "bob") for first in (0, 3)]
    assert {len(reading.waveform) for reading in found} == {round(3.9 * RATE)}
