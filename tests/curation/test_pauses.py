from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.audio.io import write_audio
from stages.audio.recording import open_recording
from stages.curation.pauses import Cutter, Track, level_seconds, middle, quietest_in, sound_levels
from stages.speech.spans import Span, intersect, union

times = st.integers(0, 40)
spans = st.lists(st.tuples(times, times).map(sorted).map(lambda pair: Span(*pair)), max_size=8)


@given(spans, st.integers(0, 40), st.integers(0, 40))
def test_a_track_tells_what_of_a_set_lies_in_a_stretch_and_what_does_not(some, start, end):
    track, seconds = Track(union(some)), set(range(start, end))
    covered = {second for span in some for second in range(int(span.start), int(span.end))}
    inside = {second for span in track.within(start, end) for second in range(int(span.start), int(span.end))}
    outside = {second for span in track.outside(start, end) for second in range(int(span.start), int(span.end))}
    assert inside == seconds & covered
    assert outside == seconds - covered
    assert track.seconds(start, end) == len(inside)
    if start < end:
        assert track.within(start, end) == intersect([Span(start, end)], union(some))


def test_the_quietest_time_is_found_between_two_sounds():
    levels = np.ones(300)
    levels[118:126] = 0.01
    quietest = quietest_in(levels)
    assert quietest(1.0, 2.0) == pytest.approx(1.22, abs=0.016)
    assert quietest(1.3, 2.0) == pytest.approx(1.65, abs=0.011)  # equally loud throughout: the middle
    assert quietest(1.3, 1.3) == 1.3
    assert quietest(1.21, 2.0) == pytest.approx(1.22, abs=0.016)


def test_levels_of_a_recording_are_those_of_its_samples_read_whole(tmp_path):
    waveform = 0.1 * np.random.default_rng(0).standard_normal(44_100 * 70).astype(np.float32)  # more than one block
    waveform[44_100:46_000] = 0.0
    write_audio(tmp_path / "a.wav", waveform, 44_100)
    levels = sound_levels(open_recording(tmp_path / "a.wav"))
    expected = np.square(waveform.astype(np.float64)).reshape(-1, 441).mean(axis=1)
    assert len(levels) == 7000
    np.testing.assert_allclose(levels, expected, atol=1e-6)


def cutter(*speech: Span) -> Cutter:
    return Cutter(Track(list(speech)), middle, margin=0.2, time_error=0.05)


def test_a_long_pause_leaves_a_margin_on_either_side():
    edge = cutter(Span(0, 1), Span(2, 3)).between(Span(0.5, 1.0), Span(2.0, 2.5))
    assert (edge.end, edge.start, edge.pause) == (1.2, 1.8, 1.0)


def test_words_without_a_pause_are_parted_where_they_meet():
    edge = cutter(Span(0, 3)).between(Span(0.5, 1.0), Span(1.0, 2.5))
    assert (edge.end, edge.start, edge.pause) == (1.0, 1.0, 0.0)


def test_speech_that_no_word_tells_of_lies_on_neither_side():
    """A cough in the middle of a gap: what comes before ends in the first pause, what follows begins in the last."""
    edge = cutter(Span(0, 1), Span(1.5, 2.2), Span(3, 4)).between(Span(0.5, 1.0), Span(3.0, 4.0))
    assert (edge.end, edge.start) == (1.2, 2.8)
    assert (edge.left, edge.right) == (0.5, pytest.approx(0.8))


def test_somebody_else_between_two_words_is_kept_out():
    edge = cutter(Span(0, 1), Span(1.1, 2.0), Span(2.05, 3)).around(Span(0.5, 1.0), Span(1.1, 2.0), Span(2.05, 3.0))
    assert (edge.end, edge.start) == (1.1, 2.0)
    assert edge.left == pytest.approx(0.1)


def test_a_pause_an_hour_into_a_recording_is_found_where_it_is(tmp_path):
    """10 ms at 22050 Hz are no whole samples: the levels of an hour would be 8 s off."""
    rate, quiet = 22_050, 100.0
    waveform = 0.1 * np.random.default_rng(0).standard_normal(rate * 120).astype(np.float32)
    waveform[round((quiet - 0.05) * rate) : round((quiet + 0.05) * rate)] = 0.0
    write_audio(tmp_path / "a.wav", waveform, rate)
    levels = sound_levels(open_recording(tmp_path / "a.wav"))
    assert quietest_in(levels, level_seconds(rate))(quiet - 0.3, quiet + 0.3) == pytest.approx(quiet, abs=0.03)
