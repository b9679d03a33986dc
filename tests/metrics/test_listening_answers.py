"""Answers to a listening test: bad ones are named, good ones become QMOS and SMOS with intervals that behave."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stages.errors import BadInputsError, UsageError
from stages.metrics.listening_answers import find_answers, mean_opinion, score_listening

BOTH = ["naturalness", "similarity"]
NONE_BAD = lambda total: 0  # noqa: E731
ALL_BAD = lambda total: total  # noqa: E731


def make_key(out, utterances=2, **more):
    """Codes are `r0` (recordings), `a0`, `b0` (systems) and `c0` (a check) of utterance u0."""
    sounds = {f"{mark}{index}": {"id": f"u{index}", "system": system, "check": False, "questions": BOTH}
              for mark, system in {"r": "recordings", "a": "alpha", "b": "beta"}.items() for index in range(utterances)}
    sounds["c0"] = {"id": "u0", "system": "recordings", "check": True, "questions": BOTH}
    key = {"format_version": 1, "test": "t1", "key": "00", "systems": ["recordings", "alpha", "beta"],
           "utterances": utterances, "without_sound": {"recordings": 0, "alpha": 0, "beta": 0}, "sounds": sounds,
           "loudness_lufs": -23.0, "per_listener": None} | more  # fmt: skip
    (out / "listening-key.json").write_text(json.dumps(key), encoding="utf-8")
    return key


def give(out, name, rated=None, file=None, **more):
    """Write what a listener exported. By default recordings get 5 and 5, alpha 4 and 3, beta 2 and 1, the check 1."""
    usual = {"r": (5, 5), "a": (4, 3), "b": (2, 1), "c": (1, 3)}
    codes = json.loads((out / "listening-key.json").read_text(encoding="utf-8"))["sounds"]
    rated = {code: usual[code[0]] for code in codes} if rated is None else rated
    rows = [{"code": code, "naturalness": natural, "similarity": similar, "seconds": 4.0}
            for code, (natural, similar) in rated.items()]
    value = {"format_version": 1, "kind": "halle listening answers", "test": "t1", "listener": name, "session": name,
             "started": "2025-01-01T10:00:00Z", "exported": "2025-01-01T11:00:00Z", "ratings": rows} | more  # fmt: skip
    path = out / "answers" / f"{file or name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def scored(out, allowed=NONE_BAD):
    return score_listening(out, [str(out / "answers")], allowed, seed=0, bootstrap_samples=200)


def test_ratings_become_the_mean_of_every_system_and_question(tmp_path):
    make_key(tmp_path)
    give(tmp_path, "ann")
    give(tmp_path, "bob", {"r0": (4, 4), "a0": (2, 3)})
    found = scored(tmp_path)
    assert (found["listeners"], found["ratings"], found["utterances"]) == (2, 8, 2)
    values = {system: (score["qmos"]["value"], score["smos"]["value"]) for system, score in found["systems"].items()}
    assert values == {"recordings": (pytest.approx(14 / 3), pytest.approx(14 / 3)),
                      "alpha": (pytest.approx(10 / 3), 3.0), "beta": (2.0, 1.0)}
    alpha = found["systems"]["alpha"]["qmos"]
    assert (alpha["ratings"], alpha["listeners"], alpha["utterances"]) == (3, 2, 2)
    low, high = alpha["interval"]
    assert 2.0 <= low < alpha["value"] < high <= 4.0
    assert found["systems"]["beta"]["qmos"]["interval"] is None  # one listener alone says nothing of others
    assert found["loudness_lufs"] == -23.0 and found["without_sound"]["alpha"] == 0


def test_differences_are_of_what_the_same_listener_rated_and_of_the_same_utterance(tmp_path):
    make_key(tmp_path)
    give(tmp_path, "ann")
    give(tmp_path, "bob", {"r0": (1, 1), "a0": (1, 1), "a1": (5, 5)})
    told = {(each["system"], each["against"], each["score"]): each for each in scored(tmp_path)["differences"]}
    assert set(told) == {(system, against, score) for system, against in
                         (("alpha", "recordings"), ("beta", "recordings"), ("beta", "alpha"))
                         for score in ("qmos", "smos")}
    assert told["alpha", "recordings", "qmos"]["value"] == pytest.approx((-1 - 1 + 0) / 3)
    assert told["alpha", "recordings", "qmos"]["ratings"] == 3
    assert told["beta", "alpha", "smos"]["value"] == -2.0


def test_half_finished_answers_count_for_what_they_hold_and_are_told(tmp_path, caplog):
    make_key(tmp_path)
    give(tmp_path, "ann", {"a0": (4, 4)})
    found = scored(tmp_path)
    assert found["unfinished"] == [{"file": "ann.json", "listener": "ann", "rated": 1, "of": 7}]
    assert found["systems"]["alpha"]["qmos"]["value"] == 4.0 and found["systems"]["beta"]["qmos"]["value"] is None
    assert "`ann` rated 1 of 7 sounds" in caplog.text
    make_key(tmp_path, per_listener=1)
    assert scored(tmp_path)["unfinished"] == []


@pytest.mark.parametrize("change, reason", [
    ({"test": "t2"}, "expected answers to the test `t1`, got those to `t2`"),
    ({"kind": "something"}, "no answers to a listening test"),
    ({"format_version": 2}, "expected format_version 1, got `2`"),
    ({"listener": " "}, "expected a listener"),
    ({"ratings": []}, "no rating in it"),
    ({"ratings": "all good"}, "no rating in it"),
    ({"ratings": [{"code": code, "naturalness": 3, "similarity": 3} for code in ("x1", "x2", "a0", "x3", "x4")]},
     "expected codes of this test, got `x1`, `x2`, `x3` and 1 more"),
    ({"ratings": [{"code": ["a0"], "naturalness": 3, "similarity": 3}]}, "expected codes of this test"),
    ({"ratings": [{"code": "a0", "naturalness": 6, "similarity": 3}]}, "got naturalness `6` of `a0`"),
    ({"ratings": [{"code": "a0", "naturalness": 0, "similarity": 3.5}]},
     "got naturalness `0` of `a0`, similarity `3.5` of `a0`"),
    ({"ratings": [{"code": "a0", "naturalness": True, "similarity": "4"}]},
     "got naturalness `True` of `a0`, similarity `4` of `a0`"),
    ({"ratings": [{"code": "a0", "naturalness": 3}]}, "got similarity `None` of `a0`"),
    ({"ratings": [{"code": "a0", "naturalness": 3, "similarity": 3}] * 2}, "`a0` is rated twice"),
])
def test_answers_that_cannot_be_used_are_refused_with_the_reason_or_left_out_and_counted(tmp_path, change, reason):
    make_key(tmp_path)
    give(tmp_path, "ann")
    give(tmp_path, "bad", **change)
    with pytest.raises(BadInputsError) as raised:
        scored(tmp_path)
    assert "got 1: `bad.json`: " in raised.value.message and reason in raised.value.message
    found = scored(tmp_path, ALL_BAD)
    assert found["listeners"] == 1 and found["systems"]["alpha"]["qmos"]["value"] == 4.0
    (excluded,) = found["excluded"]
    assert excluded["file"] == "bad.json" and reason in excluded["reason"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[1, 2]", b"null"])
def test_files_that_are_no_answers_at_all_are_named(tmp_path, content):
    make_key(tmp_path)
    give(tmp_path, "ann").write_bytes(content)
    with pytest.raises(BadInputsError, match=r"got 1: `ann\.json`: it (is not JSON|holds no answers)"):
        scored(tmp_path)


def test_a_listener_who_answers_twice_counts_once_as_begun_first(tmp_path):
    make_key(tmp_path)
    give(tmp_path, "ann", session="one")
    give(tmp_path, "ann", {"a0": (1, 1)}, file="again", session="two", started="2025-01-02T10:00:00Z")
    with pytest.raises(BadInputsError, match="listener `ann` answered twice"):
        scored(tmp_path)
    found = scored(tmp_path, ALL_BAD)
    assert found["listeners"] == 1 and found["systems"]["alpha"]["qmos"]["value"] == 4.0
    assert [(each["file"], each["listener"]) for each in found["excluded"]] == [("again.json", "ann")]


def test_of_several_exports_of_one_session_the_newest_counts(tmp_path):
    make_key(tmp_path)
    give(tmp_path, "ann", {"a0": (1, 1)}, file="early", exported="2025-01-01T10:30:00Z")
    give(tmp_path, "ann", {"a0": (2, 2), "a1": (2, 2)}, file="late")
    give(tmp_path, "ann", {"a0": (1, 1)}, file="middle", exported="2025-01-01T10:45:00Z")
    found = scored(tmp_path)
    assert (found["listeners"], found["ratings"], found["excluded"]) == (1, 2, [])
    assert found["systems"]["alpha"]["qmos"]["value"] == 2.0


def test_who_calls_speech_played_backwards_natural_is_left_out_and_is_no_bad_input(tmp_path):
    make_key(tmp_path)
    give(tmp_path, "ann")
    give(tmp_path, "bot", {"r0": (5, 5), "a0": (5, 5), "c0": (5, 5)})
    found = scored(tmp_path)
    assert found["listeners"] == 1 and found["ratings"] == 6
    assert found["excluded"] == [{"file": "bot.json", "listener": "bot", "reason":
                                  "failed 1 of 1 attention checks: speech played backwards was called natural"}]


def test_without_a_key_or_without_answers_it_is_said_where_they_come_from(tmp_path):
    with pytest.raises(UsageError, match="there is no listening test in"):
        score_listening(tmp_path, [], NONE_BAD)
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(UsageError, match="expected answers to a listening test"):
            find_answers([str(path)])
    make_key(tmp_path)
    file = give(tmp_path, "ann")
    assert find_answers([str(file.parent), str(file)]) == [file]


def test_the_interval_follows_a_slow_bootstrap_over_listeners_and_utterances():
    generator = np.random.default_rng(3)
    ratings = generator.integers(1, 6, (5, 8)).astype(float)
    ratings[0, 3] = ratings[2, :4] = np.nan
    means = []
    for _ in range(4000):
        listeners, utterances = generator.integers(0, 5, 5), generator.integers(0, 8, 8)
        means.append(np.nanmean(ratings[listeners][:, utterances]))
    found = mean_opinion(ratings, seed=1, bootstrap_samples=4000)
    assert found["value"] == pytest.approx(np.nanmean(ratings)) and found["ratings"] == 35
    assert found["interval"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.06)


def test_intervals_hold_the_truth_for_other_listeners_and_texts_and_those_over_ratings_alone_would_not():
    generator = np.random.default_rng(5)
    held, naive = [], []
    for trial in range(60):
        strict, hard = generator.normal(0, 0.5, (12, 1)), generator.normal(0, 0.5, (1, 20))
        ratings = 3.0 + strict + hard + generator.normal(0, 0.5, (12, 20))
        low, high = mean_opinion(ratings, seed=trial, bootstrap_samples=300)["interval"]
        held.append(low <= 3.0 <= high)
        naive.append(abs(ratings.mean() - 3.0) <= 1.96 * ratings.std() / np.sqrt(ratings.size))
    assert np.mean(held) >= 0.85 and np.mean(naive) < 0.7
