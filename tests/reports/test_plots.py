"""Plots draw values where they are, of any number of systems and utterances."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stages.reports import plots
from stages.reports.axes import linear_axis, log_axis
from stages.reports.evaluation_plots import durations, errors_by_duration, looks
from stages.reports.plots import Layer, Line


def dots(svg):
    return np.array([pair.split() for pair in re.findall(r"M([-0-9.]+ [-0-9.]+)h0", svg)], dtype=float)


def drawn_line(svg):
    (path,) = re.findall(r'class="line" stroke-dasharray="[^"]*" d="M([^"]*)"', svg)
    return np.array([pair.split() for pair in path.split("L")], dtype=float)


def band(svg):
    (path,) = re.findall(r'class="band" d="M([^"]*)z"', svg)
    return np.array([pair.split() for pair in path.split("L")], dtype=float)


def test_points_lie_in_proportion_and_higher_values_higher_up():
    found = dots(plots.plot("t", "x", "y", [Layer(1, np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]))]))
    steps = np.diff(found, axis=0)
    assert steps[1, 0] == pytest.approx(2 * steps[0, 0], abs=0.2) and steps[0, 0] > 0
    assert steps[1, 1] == pytest.approx(2 * steps[0, 1], abs=0.2) and steps[0, 1] < 0


def test_on_a_logarithmic_axis_equal_ratios_are_equally_far_apart():
    points = np.array([[2.0, 1.0], [20.0, 1.0], [200.0, 1.0]])
    x = dots(plots.plot("t", "x", "y", [Layer(1, points)], log_x=True))[:, 0]
    assert x[2] - x[1] == pytest.approx(x[1] - x[0], abs=0.2)


def test_values_above_the_axis_are_arrowheads_and_no_dots():
    svg = plots.plot("t", "x", "y", [Layer(1, np.array([[1.0, 10.0], [2.0, 900.0]]))], y_most=50.0)
    assert len(dots(svg)) == 1 and len(re.findall("l3-5l3 5z", svg)) == 1


def test_a_band_lies_around_its_line_where_there_are_intervals():
    x = np.array([1.0, 2.0, 3.0])
    line = Line(x, np.array([5.0, 6.0, 7.0]), np.array([4.0, 5.0, np.nan]), np.array([6.0, 8.0, np.nan]))
    svg = plots.plot("t", "x", "y", [Layer(1, line=line)])
    through, around = drawn_line(svg), band(svg)
    assert len(through) == 3 and len(around) == 4, "the last value has no interval"
    upper, lower = around[:2], around[:1:-1]
    assert (upper[:, 1] < through[:2, 1]).all() and (through[:2, 1] < lower[:, 1]).all()
    np.testing.assert_allclose(upper[:, 0], through[:2, 0])


def test_many_systems_have_looks_that_differ_in_more_than_colour():
    names = [f"s{index}" for index in range(9)]
    given = looks({"systems": dict.fromkeys([*names, "recordings"])})
    assert given["recordings"] == 0 and sorted(given.values()) == list(range(10))
    swatches = [plots.swatch(look) for look in given.values()]
    assert len(set(swatches)) == 10
    colourless = [re.sub("look-[0-9]", "", swatch) for swatch in swatches]
    assert len(set(colourless)) == 7, "seven shapes before any comes again"


def test_histograms_hold_the_shares_of_utterances():
    edges = np.array([0.0, 10.0, 20.0])
    svg = plots.histogram("t", "x", [1.0, 2.0, 3.0, 15.0], 1, [5.0, 15.0], edges)
    (bars,) = re.findall('class="bars look-1" d="([^"]*)"', svg)
    (outline,) = re.findall('class="line look-0" d="([^"]*)"', svg)
    bottom = float(re.match(r"M\S+ (\S+?)H", bars).group(1))
    heights = [[bottom - float(top) for top in re.findall(r"V([-0-9.]+)H", path)] for path in (bars, outline)]
    assert heights[0][0] == pytest.approx(3 * heights[0][1], abs=0.3), "75 and 25 %"
    assert heights[0][0] == pytest.approx(bottom * 75 / (75 * 1.08), abs=0.3), "the axis ends a little above 75 %"
    assert heights[1][0] == pytest.approx(heights[1][1], abs=0.1)
    assert heights[0][0] == pytest.approx(1.5 * heights[1][0], abs=0.3), "both on one scale"


@pytest.mark.parametrize("seconds", [[3.0], [0.4, 0.5], list(np.linspace(2, 181, 500))])
def test_bins_hold_every_duration(seconds):
    edges = plots.histogram_edges(seconds, [1.0])
    assert np.histogram(seconds, edges)[0].sum() == len(seconds)
    assert 2 <= len(edges) <= 40 and np.allclose(np.diff(edges), edges[1])


def test_an_envelope_holds_every_peak():
    waveform = np.zeros(10_000, np.float32)
    waveform[[17, 9_999]] = 0.5, -0.75
    shape = plots.envelope(waveform, 100)
    assert shape.shape == (100, 2) and shape[0].tolist() == [0.0, 0.5] and shape[-1].tolist() == [-0.75, 0.0]
    assert plots.envelope(waveform[:3], 100).shape == (3, 2)


def test_waveforms_of_one_plot_share_their_time():
    shape = np.array([[-1.0, 1.0], [-0.5, 0.5]])
    svg = plots.waveform_svg("w", [(1, (0.0, 2.0), shape), (2, (2.0, 5.0), shape)], 10.0)
    first, second = re.findall('d="M([^"]*)z"', svg)
    places = [[float(pair.split()[0]) for pair in path.split("L")] for path in (first, second)]
    assert (min(places[0]), max(places[0])) == (0.0, 180.0) and (min(places[1]), max(places[1])) == (180.0, 450.0)


def test_axes_put_round_numbers_where_they_belong():
    axis = linear_axis(0.0, 95.0, 190.0, 5)
    assert axis.ticks == (0.0, 20.0, 40.0, 60.0, 80.0) and axis.at(np.array([40.0])) == 80.0
    assert log_axis(2.0, 90.0, 100.0).ticks == (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


# from scores and rows


def entry(rate, seconds):
    return {"seconds": seconds, "metrics": {"wer": {"value": rate}}}


def evaluated(count):
    rows = [{"id": str(index), "refused": "", "reference_seconds": 5.0 + index,
             "systems": {"recordings": entry(1.0, 5.0 + index), "one": entry(2.0 * index, 6.0)}}
            for index in range(count)]  # fmt: skip
    score = {"value": 5.0, "interval": [4.0, 6.0]}
    classes = {name: {"one": {"wer": score}, "recordings": {"wer": score}} for name in ("4-10", "10-30", "30-60")}
    systems = {name: {"scores": {}} for name in ("recordings", "one")}
    return {"systems": systems, "classes": classes, "metrics": {"wer": {"label": "WER (x), %"}}}, rows


@pytest.mark.parametrize("count", [1, 2, 40])
def test_error_rates_of_all_systems_lie_in_one_plot_with_a_mark_a_class(count):
    scores, rows = evaluated(count)
    (figure,) = errors_by_duration(scores, rows)
    assert figure.count('class="dots"') == 2 and figure.count("<li>") == 2
    classes = {"4-10": 5, "10-30": 10, "30-60": 30}
    there = sum(5 + count > least for least in classes.values())
    assert figure.count('class="mark" transform') == 2 * there


def test_utterances_are_placed_by_their_recordings_durations():
    (figure,) = errors_by_duration(*evaluated(3))
    recordings, one = np.split(dots(figure), 2)
    np.testing.assert_allclose(recordings[:, 0], one[:, 0])
    assert len(set(one[:, 0])) == 3, "all outputs are equally long"


def test_texts_without_a_recording_are_placed_by_their_output_and_refused_ones_nowhere():
    scores, rows = evaluated(3)
    rows[0] |= {"reference_seconds": None, "systems": {"one": entry(3.0, 7.5)}}
    rows[1] |= {"refused": "empty", "systems": {}}
    (figure,) = errors_by_duration(scores, rows)
    assert len(dots(figure)) == 3
    assert len(dots(durations(scores, [rows[0], rows[2]]))) == 1


def test_without_an_error_rate_there_is_no_plot_of_it():
    scores, rows = evaluated(3)
    assert errors_by_duration(scores | {"metrics": {}}, rows) == []
