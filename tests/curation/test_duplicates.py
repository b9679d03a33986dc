"""Copies of text and of sound are found, and the first is kept."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import soundfile
import soxr
from takes import take, voice

from stages.audio.fingerprint import SAMPLE_RATE, fingerprint
from stages.config.stage_configs import CurateConfig
from stages.curation.duplicates import marks_between, read_marks, run, same_sound, same_words
from stages.curation.marks import Marks, Rules, find_copies
from stages.curation.recordings import Recording

ADVERT = "this episode is brought to you by the makers of very soft chairs for people who sit and talk all day"


def talk(seed: int, count: int = 40) -> str:
    return " ".join(random.Random(seed).choices([f"word{index}" for index in range(500)], k=count))


# ---- words


def test_an_advertisement_is_kept_once_however_it_is_cut():
    takes = [take("one-0001", f"{talk(1)} {ADVERT}"), take("one-0002", ADVERT), take("two-0001", ADVERT.upper() + "!"),
             take("three-0001", f"{ADVERT[8:]} {talk(3, 10)}"), take("four-0001", f"{ADVERT} {talk(4)}")]
    assert set(same_words(takes)) == {"two-0001", "three-0001"}
    assert "`one.wav`" in same_words(takes)["two-0001"]
    assert set(same_words(takes[1:])) == {"two-0001", "three-0001"}
    assert set(same_words(takes[2:4])) == {"three-0001"}


def test_speakers_may_repeat_themselves_and_all_may_say_what_is_short():
    takes = [take("one-0001", ADVERT), take("one-0002", ADVERT), take("one-0003", "see you next week my friends"),
             take("two-0001", "see you next week my friends")]
    assert same_words(takes) == {}


# ---- sound


def coded(waveform: np.ndarray, rate: int) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="MP3", subtype="MPEG_LAYER_III")
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


@pytest.fixture
def found(tmp_path):
    """Two recordings with one advertisement of 8 s in each, the second at another rate, level and codec."""
    advert = voice(0, 8)
    first = np.concatenate([voice(1, 6), advert, voice(2, 6)])
    second = coded(0.4 * np.concatenate([voice(3, 9.7), advert, voice(4, 5)]), 16_000)
    second = soxr.resample(second, 16_000, 22_050)
    marks = {}
    for name, waveform, rate in (("one.wav", first, 16_000), ("two.wav", second, 22_050)):
        soundfile.write(tmp_path / name, waveform, rate)
        marks[name] = read_marks(run(Recording(name, tmp_path / name, name, None), {}, CurateConfig()))
    return lambda take: marks_between(marks[take.recording.source], take.recording.start,
                                      take.recording.start + take.duration)


def test_the_sound_of_an_advertisement_is_recognised_at_another_rate_level_and_codec(found):
    takes = [take("one-0001", seconds=5.5), take("one-0002", start=6, seconds=8), take("two-0001", seconds=9),
             take("two-0002", start=9.6, seconds=8), take("two-0003", start=18, seconds=4.5)]
    assert same_sound(takes, found) == {"two-0002": "the same sound as `one-0002`"}
    assert same_sound(takes[2:], found) == {}


def test_a_copy_that_is_a_small_part_of_an_utterance_stays(found):
    takes = [take("one-0001", start=6, seconds=8), take("two-0001", seconds=11.2)]
    assert same_sound(takes, found) == {}


def test_blocks_do_not_change_what_a_sound_is_recognised_by(tmp_path):
    waveform = voice(5, 70, SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", waveform, SAMPLE_RATE, subtype="FLOAT")
    keys, frames = read_marks(run(Recording("a", tmp_path / "a.wav", "a.wav", None), {}, CurateConfig()))
    whole_keys, whole_frames = fingerprint(waveform)
    in_both = set(zip(keys.tolist(), frames.tolist(), strict=True)) & set(
        zip(whole_keys.tolist(), whole_frames.tolist(), strict=True))
    assert len(in_both) > 0.9 * len(whole_keys)
    assert (np.diff(frames) >= 0).all()


def test_silence_and_clicks_have_no_marks():
    assert len(fingerprint(np.zeros(SAMPLE_RATE, np.float32))[0]) == 0
    assert len(fingerprint(np.zeros(10, np.float32))[0]) == 0


def test_no_fingerprint_is_taken_where_none_is_wanted(tmp_path):
    found = run(Recording("a", tmp_path / "none.wav", "none.wav", None), {}, CurateConfig(duplicates="text"))
    assert len(read_marks(found)[0]) == 0


# ---- the search itself


def anyone(owner: np.ndarray, earlier: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return earlier[None]


def random_keys(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)


def test_the_search_agrees_with_comparing_every_pair():
    keys = [np.concatenate([random_keys(index % 7, 30), random_keys(100 + index, 10 * (index % 5))])
            for index in range(40)]
    marks = Marks()
    for owner, of_owner in enumerate(keys):
        marks.add(owner, of_owner, np.arange(len(of_owner)))
    expected = {}
    for owner, of_owner in enumerate(keys):
        shares = {earlier: np.isin(of_owner, keys[earlier]).mean()
                  for earlier in range(owner) if earlier not in expected}
        best = max(shares, key=shares.get, default=None)
        if best is not None and shares[best] >= 0.5:
            expected[owner] = (best, pytest.approx(shares[best]))
    assert find_copies(marks, Rules(0.5, 3, anyone)) == expected
    assert len(expected) > 20


def test_memory_is_bounded_and_long_copies_are_found_all_the_same():
    marks = Marks(most=2000)
    for owner in range(200):
        marks.add(owner, random_keys(owner % 150, 400), np.arange(400))
    assert marks.sorted().shape[1] <= 2000
    marks = Marks(most=20_000)
    for owner in range(200):
        marks.add(owner, random_keys(owner % 150, 400), np.arange(400))
    assert set(find_copies(marks, Rules(0.5, 5, anyone))) == set(range(150, 200))


def test_votes_for_what_is_left_out_itself_do_not_count():
    shared, rest = random_keys(1, 20), random_keys(2, 18)
    marks = Marks()
    marks.add(0, shared, np.arange(20))
    marks.add(1, np.concatenate([shared, rest]), np.arange(38))  # a copy of 0, by which `rest` is gone too
    marks.add(2, np.concatenate([rest, random_keys(3, 2)]), np.arange(20))
    assert set(find_copies(marks, Rules(0.5, 3, anyone))) == {1}
