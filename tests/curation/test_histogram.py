"""Durations are shaped to a histogram, keeping as many utterances as that allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from takes import take

from stages.artifacts import storage
from stages.config.stage_configs import CurateConfig
from stages.curation.histogram import TABLE_2, bin_quotas, load_histogram, shape_durations
from stages.errors import UsageError


@pytest.mark.parametrize("name", TABLE_2)
def test_a_set_of_table_2_has_its_range_mean_and_deviation(name):
    longest, mean, deviation = TABLE_2[name]
    found = load_histogram(name)
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    assert (found.edges[0], found.edges[-1]) == (3.0, longest) and found.shares.sum() == pytest.approx(1)
    average = (found.shares * middles).sum()
    assert average == pytest.approx(mean, abs=0.01 * mean)
    assert (found.shares * (middles - average) ** 2).sum() ** 0.5 == pytest.approx(deviation, abs=0.01 * deviation)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 20)), min_size=1, max_size=8), st.floats(0.5, 1.0))
def test_quotas_are_the_most_that_leave_the_wanted_share_in_common(bins, fit):
    counts = np.array([count for count, _ in bins])
    shares = np.array([share for _, share in bins]) / sum(share for _, share in bins)

    def in_common(size):
        return np.minimum(counts, size * shares).sum() / size

    sizes = [size for size in range(1, 2 * counts.sum() + 2) if in_common(size) >= fit - 1e-9]
    if not sizes:
        with pytest.raises(UsageError, match="no utterance"):
            bin_quotas(counts, shares, fit + 1e-6)
        return
    expected = np.minimum(counts, np.floor(max(sizes) * shares + 1e-6))
    assert (np.abs(bin_quotas(counts, shares, fit) - expected) <= 1).all()  # sizes between two whole ones


def test_what_is_kept_follows_the_histogram_and_does_not_depend_on_the_order(tmp_path):
    storage.write_json(tmp_path / "h.json", {"edges": [3, 10, 20, 90], "shares": [1, 2, 1]})
    seconds = np.random.default_rng(0).uniform(3, 22, 600)
    takes = [take(f"r-{index:04d}", seconds=float(length)) for index, length in enumerate(seconds)]
    config = CurateConfig(duration_histogram=str(tmp_path / "h.json"), histogram_fit=1.0)
    kept, rejections = shape_durations(takes, config)
    counts = np.histogram([one.duration for one in kept], [3, 10, 20, 90])[0]
    longest = np.count_nonzero(seconds >= 20)
    assert (abs(counts - np.array([longest, 2 * longest, longest])) <= 1).all()
    assert len(kept) + len(rejections) == 600 and {rejection.reason for rejection in rejections} == {"HISTOGRAM"}
    again, _ = shape_durations(takes[::-1], config)
    assert {one.recording.id for one in again} == {one.recording.id for one in kept}
    assert len(shape_durations(takes, config.model_copy(update={"histogram_fit": 0.8}))[0]) > len(kept)


def test_durations_outside_of_the_histogram_are_left_out(tmp_path):
    storage.write_json(tmp_path / "h.json", {"edges": [3, 10], "shares": [1]})
    takes = [take(f"r-000{index}", seconds=seconds) for index, seconds in enumerate((2, 3, 10, 11), start=1)]
    kept, rejections = shape_durations(takes, CurateConfig(duration_histogram=str(tmp_path / "h.json")))
    assert [one.recording.id for one in kept] == ["r-0002", "r-0003"]
    assert rejections[0].detail == "2.00 s, expected 3 to 10 s"


def test_without_a_histogram_all_is_kept():
    takes = [take("r-0001"), take("r-0002")]
    assert shape_durations(takes, CurateConfig()) == (takes, [])


@pytest.mark.parametrize("content", [
    {"edges": [3, 2], "shares": [1]}, {"edges": [1, 2], "shares": [-1]}, {"edges": [1]},
    {"edges": [1, 2], "shares": [0]}, {"edges": [1, 2, 3], "shares": [1]},
])
def test_a_file_that_is_no_histogram_is_refused(tmp_path, content):
    storage.write_json(tmp_path / "h.json", content)
    with pytest.raises(UsageError, match=r"rising `edges` and one fewer `shares`"):
        load_histogram(str(tmp_path / "h.json"))


def test_an_unknown_histogram_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match=r"`train-28s`.*`train-180s` or a file, got `train-30s`"):
        load_histogram("train-30s")


def test_a_histogram_that_the_corpus_cannot_follow_is_refused():
    with pytest.raises(UsageError, match=r"29 of 30 bins of duration_histogram have no utterance"):
        shape_durations([take("r-0001", seconds=5)] * 3, CurateConfig(duration_histogram="train-90s"))
