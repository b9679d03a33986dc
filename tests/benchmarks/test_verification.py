"""The measurement spoils recordings as it says, and counts what a check says of them."""

from __future__ import annotations

import numpy as np
import pytest
from verification import RATE, SPOILT, UNTOUCHED, Judgement, count_loops, measure, to_table

from stages.artifacts.manifest import Utterance
from stages.audio.io import write_audio
from stages.speech.transcriber import Transcript
from stages.synthesis.faults import Fault

SOUND = np.arange(6 * RATE, dtype=np.float32)
OTHER = -np.arange(6 * RATE, dtype=np.float32) - 1


@pytest.mark.parametrize("name, seconds", [("1 s cut out", 5), ("2 s cut out", 4), ("last 2 s missing", 4),
                                           ("2 s said twice", 8), ("2 s of other speech", 8), ("2 s of silence", 8),
                                           ("1 s of the prompt first", 7), ("2 s of the prompt first", 8)])
def test_recordings_are_spoilt_by_as_many_seconds_as_their_name_says(name, seconds):
    at = 5 * RATE // 2
    spoilt = SPOILT[name](SOUND, OTHER, at)
    assert len(spoilt) == seconds * RATE
    kept, foreign = np.unique(spoilt[spoilt > 0]), spoilt[spoilt < 0]
    assert len(foreign) == (seconds - 6) * RATE * ("other" in name or "prompt" in name)
    assert len(kept) == (min(6, seconds) * RATE) - (kept[0] > 0)
    assert np.all(np.diff(kept) > 0) and ("cut" in name) == (np.diff(kept).max() > 1)


class Deaf:
    """Hears nothing in anything."""

    name, version = "deaf", "1"

    def transcribe(self, waveform, sample_rate):
        return Transcript("")


def recordings(folder):
    noise = np.random.default_rng(0)
    rows = []
    for index in range(4):
        sound = 0.1 * noise.standard_normal(5 * RATE).astype(np.float32)
        write_audio(folder / f"{index}.wav", sound, RATE)
        rows.append(Utterance(str(index), folder / f"{index}.wav", 0.0, 5.0, "ann", "x" * 60, "test"))
    return rows


def test_all_kinds_are_judged_and_counted(tmp_path):
    found = measure(recordings(tmp_path), Deaf(), seed=0)
    assert sorted(one.kind for one in found) == sorted([UNTOUCHED] * 4 + list(SPOILT))
    assert all(one.faults for one in found)
    assert [one.kind for one in found if one.without] == ["2 s of silence"]


def test_the_table_counts_recordings_not_faults():
    fault = Fault("skipped", 0.0, 1.0, 1.0, 0.0)
    table = to_table([Judgement(UNTOUCHED, (fault, fault), ()), Judgement(UNTOUCHED, (), (fault,))])
    assert "| untouched | 1 of 2 | 1 | skipped |" in table and "| 1 s cut out | 0 of 0 | 0 |  |" in table


def test_codes_of_speech_said_twice_loop(tmp_path):
    from tiny_tokens import tiny_codec

    untouched, twice = count_loops(tiny_codec("halle"), recordings(tmp_path))
    assert untouched == 0 and twice > 0
