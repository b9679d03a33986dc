from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chain import tiny_config

from stages.audio.io import AudioError, write_audio
from stages.audio.recording import open_recording
from stages.config.resolve import resolve
from stages.curation import gate, voice_activity
from stages.curation.gate import GATE, judge, score_pieces, thresholds_of
from stages.curation.recordings import Recording
from stages.curation.voice_activity import VAD
from stages.speech.quality import RATE, THRESHOLDS, Thresholds
from stages.speech.spans import Span

PAPER = Thresholds(2.5, 0.6)


class LoudnessJudge:
    """'Quality' of these tests: ten times the peak, and none of silence."""

    name, version = "loudness", "1"

    def __init__(self):
        self.heard = []

    def estimate(self, waveform, sample_rate):
        self.heard.append(len(waveform) / sample_rate)
        peak = float(np.abs(waveform).max())
        return 10 * peak if peak > 1e-4 else math.nan


def record(tmp_path, pieces, sample_rate=RATE, name="sound.wav"):
    """Write pieces of (seconds, level), and return the file."""
    samples = np.concatenate([np.full(round(seconds * sample_rate), level, np.float32) for seconds, level in pieces])
    write_audio(tmp_path / name, samples, sample_rate)
    return tmp_path / name


def recording_of(file):
    return Recording("sound", file, file.name, None)


def config_of(file, **settings):
    return tiny_config("curate", source=str(file.parent), out=str(file.parent / "out"), **settings)


# ---- the rule


@pytest.mark.parametrize(("scores", "reason"), [
    ([2.6, 2.6], ""),
    ([2.5, 2.5], "LOW_QUALITY"),  # above, not at
    ([2.0, 2.4], "LOW_QUALITY"),
    ([4.0, 2.9], ""),
    ([4.0, 2.8], "UNEVEN_QUALITY"),  # a deviation of 0.6 is not below 0.6
    ([3.0], ""),
    ([3.0, None], ""),
    ([None, None], "SILENT"),
    ([], "SILENT"),
])
def test_what_is_kept_has_a_mean_above_and_a_deviation_below(scores, reason):
    assert judge(scores, PAPER).reason == reason


@given(st.lists(st.floats(1, 5), min_size=1, max_size=20))
def test_the_deviation_is_that_of_the_pieces_themselves(scores):
    verdict, mean = judge(scores, PAPER), sum(scores) / len(scores)
    assert verdict.mean == pytest.approx(mean)
    assert verdict.deviation == pytest.approx(
        math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores)), abs=1e-7)


@given(st.lists(st.floats(1, 5) | st.none(), max_size=20), st.randoms())
def test_neither_order_nor_silence_matters(scores, random):
    shuffled = [*scores, None]
    random.shuffle(shuffled)
    assert judge(shuffled, PAPER).reason == judge(scores, PAPER).reason


def test_the_estimators_thresholds_hold_until_others_are_given(tmp_path):
    given = resolve("curate", "paper", overrides=["gate.mean=3"]).gate
    assert given.estimator == "squim-pesq"
    assert thresholds_of(given) == Thresholds(3.0, 0.6)
    assert thresholds_of(resolve("curate", "mini").gate) == THRESHOLDS["dnsmos"]


# ---- pieces


def test_a_recording_is_scored_by_pieces_of_30_s(tmp_path):
    judge_ = LoudnessJudge()
    file = record(tmp_path, [(30, 0.1), (30, 0.2), (16, 0.3)], 24_000)
    assert score_pieces(open_recording(file), judge_) == pytest.approx([1, 2, 3], abs=0.3)
    assert judge_.heard == pytest.approx([30, 30, 16], abs=0.01)


def test_a_short_rest_is_not_scored_but_a_short_recording_is(tmp_path):
    judge_ = LoudnessJudge()
    assert len(score_pieces(open_recording(record(tmp_path, [(30, 0.1), (14, 0.9)])), judge_)) == 1
    assert len(score_pieces(open_recording(record(tmp_path, [(2, 0.1)])), judge_)) == 1


def test_silent_pieces_have_no_score(tmp_path):
    file = record(tmp_path, [(30, 0.3), (30, 0), (30, 0.3)])
    assert score_pieces(open_recording(file), LoudnessJudge())[1] is None


# ---- the steps


@pytest.fixture()
def loud_is_good(monkeypatch):
    judge_ = LoudnessJudge()
    monkeypatch.setattr(gate, "_estimator", lambda name, weights, device: judge_)
    return judge_


def test_the_gate_says_what_it_found_and_why_it_drops(loud_is_good, tmp_path):
    file = record(tmp_path, [(30, 0.2), (30, 0.3)])
    config = config_of(file, **{"gate.estimator": "squim-pesq"})
    found = GATE.run(recording_of(file), {}, config)
    assert found["pieces"] == pytest.approx([2, 3], abs=0.01)
    assert (found["estimator"], found["version"], found["seconds"], found["piece_seconds"]) == ("loudness", "1", 60, 30)
    assert (found["mean"], found["deviation"]) == pytest.approx((2.5, 0.5), abs=0.01)
    assert (found["kept"], found["reason"]) == (False, "LOW_QUALITY")
    assert "expected a mean score above 2.5, got 2.50" in found["detail"]


def test_without_a_gate_nothing_is_scored(loud_is_good, tmp_path):
    file = record(tmp_path, [(30, 0.2)])
    found = GATE.run(recording_of(file), {}, config_of(file, **{"gate.estimator": "none"}))
    assert found["kept"] and found["reason"] == "" and found["seconds"] == 30 and not loud_is_good.heard
    assert GATE.missing(config_of(file, **{"gate.estimator": "none"})) == ""


def test_samples_that_are_not_finite_drop_the_recording(loud_is_good, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "nan.wav", np.r_[np.full(RATE, 0.3), np.nan], RATE, subtype="FLOAT")
    for step in (GATE, VAD):
        if not step.missing(config_of(tmp_path / "nan.wav")):
            with pytest.raises(AudioError) as raised:
                step.run(recording_of(tmp_path / "nan.wav"), {}, config_of(tmp_path / "nan.wav"))
            assert raised.value.reason == "NON_FINITE"


def test_what_the_gate_depends_on_is_in_its_settings(tmp_path):
    base = GATE.settings(config_of(tmp_path / "x.wav", **{"gate.estimator": "dnsmos"}))
    for change in ({"gate.mean": 2.0}, {"gate.deviation": 0.1}, {"gate.piece_seconds": 20.0},
                   {"gate.estimator": "squim-pesq"}, {"gate.estimator": "none"}):
        changed = config_of(tmp_path / "x.wav", **{"gate.estimator": "dnsmos"} | change)
        assert GATE.settings(changed) != base
    assert GATE.settings(config_of(tmp_path / "x.wav", **{"gate.estimator": "dnsmos", "gate.weights": "w"})) == base


def test_the_gate_names_missing_weights(tmp_path):
    weights = str(tmp_path / "none.pth")
    config = config_of(tmp_path / "x.wav", **{"gate.estimator": "squim-pesq", "gate.weights": weights})
    assert "none.pth" in GATE.missing(config) and "28 MB" in GATE.missing(config)


def test_voice_activity_lists_spans_and_drops_what_has_none(tmp_path, monkeypatch):
    class Detector:
        name, version, spans = "detector", "1", [Span(0.12345, 1.0)]

        def find(self, recording):
            return self.spans

    monkeypatch.setattr(voice_activity, "_detector", lambda settings: Detector())
    file = record(tmp_path, [(2, 0.2)])
    assert VAD.run(recording_of(file), {}, config_of(file)) == {
        "detector": "detector", "version": "1", "seconds": 2.0, "speech": [[0.123, 1.0]]}
    monkeypatch.setattr(Detector, "spans", [])
    assert VAD.run(recording_of(file), {}, config_of(file))["reason"] == "NO_SPEECH"


def test_what_voice_activity_depends_on_is_in_its_settings(tmp_path):
    base = VAD.settings(config_of(tmp_path / "x.wav"))
    assert VAD.settings(config_of(tmp_path / "x.wav", **{"vad.threshold": 0.6})) != base


def test_memory_does_not_grow_with_the_recording(loud_is_good, tmp_path):
    """Twenty minutes are 77 MB of samples at 16 kHz; a piece of 30 s and the file's own blocks are held at a time."""
    import tracemalloc

    peaks = []
    for minutes in (2, 20):
        file = record(tmp_path, [(60 * minutes, 0.3)], name=f"{minutes}.flac")
        tracemalloc.start()
        score_pieces(open_recording(file), loud_is_good)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] and peaks[1] < 40e6
