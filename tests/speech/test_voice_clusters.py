"""Voices out of vectors of which everything is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from stages.speech import voice_clusters
from stages.speech.voice_clusters import ClusterSettings, Moments, Windows, find_voices, follow, second_voices

SECONDS, HOP, STEP = 1.6, 0.4, 0.1
DIM = 64


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def voices(count, seed=0):
    """Centres whose cosines are about 0.5, as those of real voices."""
    random = np.random.default_rng(seed)
    return unit(np.sqrt(0.5) * unit(np.ones(DIM)) + np.sqrt(0.5) * unit(random.standard_normal((count, DIM))))


def heard(talking, centres, noise=0.5, seed=0, pauses=()):
    """Windows of a recording in which `talking` [voices, moments] are heard, 0 or 1; windows mix what they hold."""
    random = np.random.default_rng(seed)
    is_speech = talking.any(axis=0)
    is_speech[list(pauses)] = False
    size, hop = round(SECONDS / STEP), round(HOP / STEP)
    starts = range(0, talking.shape[1] - size + 1, hop)
    vectors, speech = [], []
    for start in starts:
        inside = talking[:, start : start + size] * is_speech[start : start + size]
        mixed = unit(inside.sum(axis=1) @ centres + 1e-9)
        vectors.append(unit(mixed + noise * unit(random.standard_normal(DIM))))
        speech.append(is_speech[start : start + size].mean())
    return Windows(np.array(vectors), np.array(speech), SECONDS, HOP), Moments(is_speech, STEP)


def turns(*lengths, count):
    """Voices in turn, 0, 1, ..., so many moments each: [voices, moments]."""
    talking = np.zeros((count, sum(lengths)))
    begin = 0
    for index, length in enumerate(lengths):
        talking[index % count, begin : begin + length] = 1
        begin += length
    return talking


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_there_are_as_many_voices_as_talk(count):
    windows, _ = heard(turns(*[80] * 2 * count, count=count), voices(count))
    found = find_voices(windows)
    assert found.shape == (count, DIM)
    assert np.sort((found @ voices(count).T).max(axis=0)) == pytest.approx(1.0, abs=0.06)


def test_a_voice_of_less_than_three_seconds_is_none_of_its_own():
    talking = turns(100, 25, 100, count=3)
    talking[0] += talking[2]
    windows, _ = heard(talking[:2], voices(2))
    assert len(find_voices(windows)) == 1
    assert len(find_voices(windows, ClusterSettings(least_seconds=0.4, similarity=0.7))) > 1


def test_windows_with_little_speech_do_not_make_voices():
    windows, _ = heard(turns(200, count=1), voices(1))
    windows.vectors[::3] = voices(1, seed=5)
    windows.speech[::3] = 0.5
    assert len(find_voices(windows)) == 1
    windows.speech[:] = 0.5  # there is nothing better
    assert len(find_voices(windows)) == 2


def test_no_more_windows_are_clustered_than_fit_into_memory(monkeypatch):
    windows, _ = heard(turns(*[100] * 12, count=2), voices(2))
    sizes = []
    cluster = voice_clusters._cluster
    monkeypatch.setattr(voice_clusters, "_cluster", lambda *given: sizes.append(len(given[0])) or cluster(*given))
    assert len(find_voices(windows, ClusterSettings(most_windows=40))) == len(find_voices(windows)) == 2
    assert sizes[0] == 40 < sizes[1]


def test_the_path_follows_the_voices():
    talking = turns(80, 80, 80, 80, count=2)
    windows, moments = heard(talking, voices(2))
    path, centres = follow(windows, voices(2), moments)
    changes = np.flatnonzero(np.diff(path)) + 1
    assert len(changes) == 3 and (np.abs(changes - [80, 160, 240]) <= 3).all()
    assert np.linalg.norm(centres, axis=1) == pytest.approx(1.0)


def test_changes_are_drawn_into_pauses():
    """The pauses lie beside the changes, as when the first word of a turn is taken for the end of the one before."""
    pauses = [*range(72, 76), *range(152, 156), *range(232, 236)]
    windows, moments = heard(turns(80, 80, 80, 80, count=2), voices(2), pauses=pauses)

    def changes(**costs):
        path, _ = follow(windows, voices(2), moments, ClusterSettings(**costs))
        return np.flatnonzero(np.diff(path)) + 1

    assert set(changes()) <= set(pauses)
    assert not set(changes(pause_change_cost=0.2)) & set(pauses)


def test_centres_are_sharpened_by_the_windows_that_are_followed():
    windows, moments = heard(turns(100, 100, count=2), voices(2))
    blurred = unit(voices(2) + 0.6 * unit(np.random.default_rng(9).standard_normal((2, DIM))))
    _, centres = follow(windows, blurred, moments)
    assert ((centres * voices(2)).sum(axis=1) > (blurred * voices(2)).sum(axis=1) + 0.05).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_best_path_is_the_best_of_all_paths(seed):
    random = np.random.default_rng(seed)
    score, cost = random.standard_normal((6, 3)), random.uniform(0, 2, 6)

    def worth(path):
        changes = sum(cost[i] for i in range(1, 6) if path[i] != path[i - 1])
        return sum(score[i, label] for i, label in enumerate(path)) - changes

    best = max(product(range(3), repeat=6), key=worth)
    assert tuple(voice_clusters._best_path(score, cost)) == best


def test_both_talk_where_windows_sound_like_both():
    talking = turns(100, 100, count=2)
    talking[1, 90:100] = 1  # a second before the first voice ends
    windows, moments = heard(talking, voices(2), noise=0.2)
    path, centres = follow(windows, voices(2), moments)
    second = second_voices(windows, centres, path, moments)
    both = second >= 0
    assert both[90:100].all() and not both[:60].any() and not both[130:].any()
    assert set(path[both] + second[both]) == {1}


def test_one_talks_at_a_time_where_windows_beside_a_pause_are_clear():
    talking = turns(96, 96, count=2)
    windows, moments = heard(talking, voices(2), noise=0.2, pauses=range(84, 108))
    path, centres = follow(windows, voices(2), moments)
    assert set(path) == {0, 1}
    assert (second_voices(windows, centres, path, moments) == -1).all()


def test_both_may_talk_beside_a_short_pause():
    windows, moments = heard(turns(100, 100, count=2), voices(2), noise=0.2, pauses=range(98, 102))
    path, centres = follow(windows, voices(2), moments)
    both = (second_voices(windows, centres, path, moments) >= 0) & moments.is_speech
    assert both[93:98].all() and both[102:107].all() and not both[:85].any() and not both[115:].any()


def test_one_voice_is_never_two():
    windows, moments = heard(turns(100, count=1), voices(1))
    path, centres = follow(windows, find_voices(windows), moments)
    assert (path == 0).all() and (second_voices(windows, centres, path, moments) == -1).all()
