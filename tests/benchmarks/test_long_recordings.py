"""Recordings are put together as they are said to be, and the truth beside them is that of their sound."""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
import pytest
from curation import read_truth
from long_recordings import (
    CLIPS_A_TURN,
    EDGE_SECONDS,
    OVERLAP,
    PAUSE_SECONDS,
    RATE,
    Clip,
    Placed,
    TimedWord,
    arrange,
    level,
    mix,
    overlap_share,
    plain,
    true_turns,
    write,
)

from stages.audio.io import read_audio
from stages.speech.spans import Turn


def clips(speaker, count, random):
    made = []
    for index in range(count):
        seconds = float(random.uniform(1.5, 4.0))
        words = (TimedWord("one", EDGE_SECONDS, seconds / 2), TimedWord("two", seconds / 2, seconds - EDGE_SECONDS))
        waveform = np.full(round(seconds * RATE), 0.1, np.float32)
        made.append(Clip(speaker, f"{index}", waveform, words))
    return made


def placed(seed=0, speakers=3, count=40):
    random = np.random.default_rng(seed)
    return arrange({name: clips(name, count, random) for name in "abcd"[:speakers]}, random)


@pytest.mark.parametrize("seed", range(5))
def test_turns_pauses_and_overlap_are_as_asked_for(seed):
    found = placed(seed)
    turns = [list(turn) for _, turn in groupby(found, key=lambda one: one.clip.speaker)]
    assert all(CLIPS_A_TURN[0] <= len(turn) <= CLIPS_A_TURN[1] for turn in turns[:-3])  # the last have what is left
    gaps = [after.start - before.end for before, after in pairwise(found)]
    assert all(PAUSE_SECONDS[0] - 1e-3 <= gap <= PAUSE_SECONDS[1] for gap in gaps if gap > 0)
    for turn in turns:
        assert all(after.start > before.end for before, after in pairwise(turn))
    assert overlap_share(true_turns(found)) == pytest.approx(OVERLAP, abs=0.012)


def test_every_clip_is_said_once_in_its_speakers_order():
    found = placed()
    for name in "abc":
        assert [one.clip.text for one in found if one.clip.speaker == name] == [str(index) for index in range(40)]


def test_the_same_seed_gives_the_same_recording():
    assert [(one.clip.text, one.start) for one in placed(3)] == [(one.clip.text, one.start) for one in placed(3)]
    assert [one.start for one in placed(3)] != [one.start for one in placed(4)]


def test_words_of_a_speaker_close_together_are_one_turn():
    words = (TimedWord("a", 0.1, 0.5), TimedWord("b", 0.7, 1.0), TimedWord("c", 1.5, 2.0))
    one = Placed(Clip("ann", "a b c", np.zeros(RATE * 2, np.float32), words), 10.0)
    assert [(turn.start, turn.end) for turn in true_turns([one])] == [pytest.approx((10.1, 11.0)),
                                                                       pytest.approx((11.5, 12.0))]


def test_speech_that_overlaps_is_added_to_a_quiet_room():
    random = np.random.default_rng(0)
    clip = clips("ann", 1, random)[0]
    sound = mix([Placed(clip, 1.0), Placed(clip, 1.5)], random)
    assert sound[: RATE // 2].std() == pytest.approx(10 ** (-65 / 20), rel=0.1)
    assert sound[round(1.2 * RATE)] == pytest.approx(0.1, abs=0.01)
    assert sound[round(1.8 * RATE)] == pytest.approx(0.2, abs=0.01)


def test_clips_of_a_speaker_are_made_louder_together():
    random = np.random.default_rng(0)
    soft = Clip("ann", "", np.full(RATE, 0.01, np.float32), ())
    louder = level([*clips("ann", 1, random), soft], -26.0)
    power = np.mean(np.concatenate([clip.waveform for clip in louder]) ** 2)
    assert 10 * np.log10(power) == pytest.approx(-26.0, abs=0.01)
    assert louder[0].waveform[0] == pytest.approx(10 * louder[1].waveform[0])


def test_texts_become_plain_words():
    assert plain("Author of the danger-trail, Steels, don't!") == "author of the danger trail steels don't"


def test_the_truth_that_is_read_is_the_one_that_was_written(tmp_path):
    found = placed(count=4)
    sound = mix(found, np.random.default_rng(0))
    write(tmp_path, "an4-00", found, sound)
    truth = read_truth(tmp_path / "truth", "an4-00")
    assert truth.kind == "an4" and truth.num_speakers == 3
    assert truth.seconds == len(read_audio(tmp_path / "audio" / "an4-00.flac")) / RATE
    assert [turn.speaker for turn in truth.turns] == [turn.speaker for turn in true_turns(found)]
    assert truth.turns[0].start == pytest.approx(true_turns(found)[0].start, abs=1e-3)
    assert [word for word, _ in truth.words] == ["one", "two"] * 12
    clip = read_audio(tmp_path / "truth" / "clips" / "an4-00-003.flac")
    assert len(clip) == len(found[3].clip.waveform)
    ctm = (tmp_path / "truth" / "an4-00.ctm").read_text(encoding="utf-8").splitlines()
    starts = [float(line.split()[2]) for line in ctm]
    assert len(ctm) == 24 and starts == sorted(starts)
    assert isinstance(truth.turns[0], Turn)
