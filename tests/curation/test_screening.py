"""Every reason for which a recording is left out can be reached, and good ones pass."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tiny_corpora import record, sentence, settings, voice

from stages.curation.recordings import Recording
from stages.curation.screening import FILTERS, measure, screen
from stages.text.tables import chars_per_second, clean_text, text_key

RATE = 24_000


def recording(path, text="a sentence of some length", **changes) -> Recording:
    return Recording(path.stem, path, path.name, text, **changes)


def verdict(root, *recordings, **changes) -> list[str]:
    """Return the reason of each recording, `ok` for those that pass."""
    config = settings(root, **changes)
    measurements = {item.id: measure(item, root, config) for item in recordings}
    takes, rejections = screen(tuple(recordings), measurements, config)
    reasons = {rejection.recording.id: rejection.reason for rejection in rejections}
    assert len(takes) + len(rejections) == len(recordings)
    assert all(rejection.detail for rejection in rejections)
    assert all(rejection.is_bad_audio == (rejection.reason not in FILTERS) for rejection in rejections)
    return [reasons.get(item.id, "ok") for item in recordings]


def raw(path, samples, rate=RATE, subtype="FLOAT"):
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def test_a_good_recording_passes(tmp_path):
    assert verdict(tmp_path, recording(record(tmp_path / "a.wav"))) == ["ok"]


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(3 * RATE), "SILENT"),
        (voice() + 0.3, "OFFSET"),
        (np.full(3 * RATE, np.nan), "NON_FINITE"),
        (voice() * 1000, "OUT_OF_RANGE"),
        (voice(seconds=0.5), "TOO_SHORT"),
        (voice(seconds=0.0001), "TOO_SHORT"),
        (voice(seconds=6.0), "TOO_LONG"),
        (np.zeros(0), "NO_SAMPLES"),
    ],
)
def test_samples_that_are_no_speech_are_rejected(tmp_path, samples, reason):
    assert verdict(tmp_path, recording(raw(tmp_path / "a.wav", samples)), max_seconds=5.0) == [reason]


def test_too_long_recordings_are_not_decoded(tmp_path, monkeypatch):
    path = record(tmp_path / "a.wav", seconds=6.0)
    monkeypatch.setattr("stages.curation.screening.read_audio", None)
    assert verdict(tmp_path, recording(path), max_seconds=5.0) == ["TOO_LONG"]


def test_the_rate_floor_is_a_setting(tmp_path):
    path = record(tmp_path / "a.wav", rate=8000)
    assert verdict(tmp_path, recording(path)) == ["LOW_RATE"]
    assert verdict(tmp_path, recording(path), min_rate=8000) == ["ok"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "NO_TRANSCRIPT"), ("", "EMPTY_TEXT"), (" ...!", "EMPTY_TEXT"), ("a\ud800b", "BAD_TEXT"),
        ("no", "TEXT_RATE"), ("word " * 60, "TEXT_RATE"),
    ],
)
def test_texts_that_do_not_belong_are_rejected(tmp_path, text, reason):
    assert verdict(tmp_path, recording(record(tmp_path / "a.wav"), text)) == [reason]


def test_missing_files_and_links_that_leave_the_corpus_are_rejected(tmp_path):
    outside = record(tmp_path / "outside.wav")
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "link.wav").symlink_to(outside)
    items = [recording(root / "link.wav"), recording(root / "none.wav")]
    assert verdict(root, *items) == ["OUTSIDE_ROOT", "MISSING"]
    assert verdict(root, items[0], follow_links=True) == ["ok"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    assert verdict(tmp_path, recording(tmp_path / "a.wav")) == ["NOT_REGULAR"]


def test_the_same_sound_twice_keeps_the_first_whatever_the_container(tmp_path):
    first, other = record(tmp_path / "a.wav", 1), record(tmp_path / "b.wav", 2)
    again = raw(tmp_path / "c.flac", soundfile.read(first, dtype="int16")[0], subtype="PCM_16")
    assert verdict(tmp_path, *map(recording, (first, other, again))) == ["ok", "ok", "DUPLICATE"]


def test_a_cut_is_measured_and_not_its_file(tmp_path):
    path = record(tmp_path / "a.wav", seconds=5.0)
    cut = recording(path, start=1.0, duration=2.0)
    assert measure(cut, tmp_path, settings(tmp_path)).duration == 2.0
    late = recording(path, start=4.0, duration=2.0)
    assert verdict(tmp_path, late) == ["OUT_OF_FILE"]


def test_pieces_to_be_joined_may_be_short(tmp_path):
    short = recording(record(tmp_path / "a.wav", seconds=0.7), "short words")
    assert verdict(tmp_path, short, min_seconds=3.0) == ["TOO_SHORT"]
    assert verdict(tmp_path, short, min_seconds=3.0, join_seconds=(3.0, 5.0)) == ["ok"]


def test_a_text_rate_far_from_all_others_is_rejected(tmp_path):
    path = record(tmp_path / "a.wav")
    config = settings(tmp_path)
    base = measure(recording(path), tmp_path, config)
    items = [replace(recording(path), id=str(i), text=sentence(i)) for i in range(60)]
    items.append(replace(recording(path), id="odd", text="wait a bit"))  # 3.3 a second: absolute limits accept it
    measurements = {item.id: replace(base, id=item.id, content=item.id) for item in items}
    _, rejections = screen(tuple(items), measurements, config)
    assert [(r.recording.id, r.reason) for r in rejections] == [("odd", "TEXT_RATE")]
    _, rejections = screen(tuple(items[20:]), measurements, config)
    assert not rejections, "too few recordings tell no distribution"


def test_text_keys_join_takes_and_part_sentences():
    assert text_key("Don't stop -- NOW!") == text_key("dont stop, now") == "dont stop now"
    assert text_key("one two") != text_key("two one")
    assert text_key("...") != text_key("!")
    assert clean_text(" a\u2028b\x07 c ") == "a b c"
    assert chars_per_second("ab, cd", 2.0) == 2.5
