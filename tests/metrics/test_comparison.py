from __future__ import annotations

import numpy as np
import pytest

from stages.config.stage_configs import EvalConfig
from stages.metrics.comparison import compare_systems, score_classes, score_system
from stages.metrics.duration import DurationDistance
from stages.metrics.intelligibility import CorpusWER

CONFIG = EvalConfig(bootstrap_samples=200)
WER = [CorpusWER()]


def entry(wrong, words=10, **more):
    measured = {"value": 100 * wrong / words, "reason": "", "substitutions": wrong, "insertions": 0, "deletions": 0,
                "words": words}
    return {"status": "scored", "reason": "", "finished": True, "seconds": 5.0, "metrics": {"wer": measured}} | more


def row(text, systems, take=1, **more):
    return {"id": text, "take": take, "speaker": "ann", "refused": "", "reference_seconds": 5.0,
            "systems": systems} | more  # fmt: skip


def test_the_takes_of_a_text_are_outputs_of_one_text():
    rows = [row(f"u{text}", {"mine": entry(take)}, take) for text in range(4) for take in (1, 2, 3)]
    score = score_system(WER, rows, "mine", CONFIG)["scores"]["wer"]
    assert (score["denominator"], score["total"], score["texts"], score["takes"]) == (12, 12, 4, 3)
    assert score["value"] == pytest.approx(20.0) and score["interval"] == pytest.approx((20.0, 20.0)), "texts are alike"
    assert score["seed_interval"][0] < 20.0 < score["seed_interval"][1]


def test_what_is_in_the_rows_of_the_first_take_only_is_counted_once():
    rows = [row(f"u{text}", {"mine": entry(1)} | ({"recordings": entry(0)} if take == 1 else {}), take)
            for text in range(4) for take in (1, 2)]
    score = score_system(WER, rows, "recordings", CONFIG)["scores"]["wer"]
    assert (score["denominator"], score["texts"], score["takes"], score["seed_interval"]) == (4, 4, 1, None)


def test_every_pair_of_systems_is_compared_and_each_with_the_recordings():
    rows = [row(f"u{text}", {"recordings": entry(0), "a": entry(1), "b": entry(3), "c": entry(2)}) for text in range(3)]
    found = [(each["system"], each["against"], round(each["value"])) for each in
             compare_systems(WER, rows, ["a", "b", "c"], CONFIG)]
    assert found == [("a", "recordings", 10), ("b", "recordings", 30), ("c", "recordings", 20), ("b", "a", 20),
                     ("c", "a", 10), ("c", "b", -10)]


def test_one_take_is_compared_with_every_take_so_that_texts_weigh_alike_on_both_sides():
    """`theirs` says each text once and errs by its length; `ours` lacks a take of the long text and is as good."""
    rows = [row("short", {"ours": entry(0, 10), "theirs": entry(0, 10)}),
            row("short", {"ours": entry(0, 10)}, take=2),
            row("long", {"ours": entry(50, 100), "theirs": entry(50, 100)}),
            row("long", {"ours": entry(0) | {"metrics": {"wer": {"value": None, "reason": "lost"}}}}, take=2)]
    (found,) = [each for each in compare_systems(WER, rows, ["theirs", "ours"], CONFIG) if each["against"] == "theirs"]
    assert (found["pairs"], found["texts"], found["value"]) == (3, 2, 0.0)


def test_a_difference_with_takes_is_that_of_whole_texts():
    """The reference resamples by hand: texts with all takes of both systems, rates of the corpus."""
    rng = np.random.default_rng(0)
    rows, table = [], []
    for text in range(15):
        words = int(rng.integers(5, 40))
        takes = rng.integers(0, 5, (3, 2))
        table.append((takes, words))
        rows += [row(f"u{text}", {"a": entry(int(a), words), "b": entry(int(b), words)}, take)
                 for take, (a, b) in enumerate(takes, 1)]
    config = EvalConfig(bootstrap_samples=3000)
    (found,) = [each for each in compare_systems(WER, rows, ["a", "b"], config) if each["against"] == "a"]
    differences = []
    for draw in np.random.default_rng(1).integers(0, 15, (3000, 15)):
        words = sum(3 * table[text][1] for text in draw)
        wrong = sum(table[text][0].sum(axis=0) for text in draw)
        differences.append(100 * (wrong[1] - wrong[0]) / words)
    assert found["interval"] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.3)
    assert (found["pairs"], found["texts"]) == (45, 15)


def test_refused_rows_and_systems_that_were_not_asked_are_in_nothing():
    rows = [row("a", {"mine": entry(1)}), row("b", {}, refused="empty"), row("c", {"other": entry(5)})]
    told = score_system(WER, rows, "mine", CONFIG)
    assert told["counts"]["scored"] == 1 and told["scores"]["wer"]["total"] == 1
    assert compare_systems(WER, rows, ["mine", "other"], CONFIG) == []


def test_classes_hold_the_scores_of_their_rows_alone_with_their_own_denominators():
    rows = [row(f"s{index}", {"recordings": entry(0), "mine": entry(1)}) for index in range(3)]
    long = {"recordings": entry(0), "mine": entry(4)}
    rows += [row(f"l{index}", long, reference_seconds=100.0) for index in range(2)]
    lost = entry(10, status="missing", reason="no file", seconds=None)
    rows.append(row("x", {"mine": lost}, reference_seconds=None))
    classes = score_classes([*WER, DurationDistance()], rows, ["recordings", "mine"], CONFIG)
    assert list(classes) == ["4-10", "90-180", "unknown"]
    told = {(name, system): (scores["wer"]["value"], scores["wer"]["denominator"])
            for name, systems in classes.items() for system, scores in systems.items()}
    assert told == {("4-10", "recordings"): (0.0, 3), ("4-10", "mine"): (10.0, 3), ("90-180", "recordings"): (0.0, 2),
                    ("90-180", "mine"): (40.0, 2), ("unknown", "mine"): (100.0, 1)}
    assert "duration_distance" not in classes["4-10"]["recordings"]
    assert classes["4-10"]["mine"]["duration_distance"]["reasons"] == {"done before this metric was asked for": 3}


# What pocketsphinx got wrong of demo-90s read by two flite voices: substitutions, insertions, deletions, words
RMS = ((17, 4, 1, 248), (29, 2, 7, 303), (16, 2, 1, 247), (17, 6, 3, 271), (5, 2, 0, 83), (15, 2, 1, 109),
       (5, 1, 0, 40), (11, 2, 1, 79))
SLT = ((38, 3, 5, 248), (60, 7, 4, 303), (29, 2, 3, 247), (44, 3, 7, 271), (8, 2, 2, 83), (15, 3, 1, 109),
       (6, 1, 0, 40), (29, 4, 4, 79))


def of_voices(texts, **voices):
    columns = CorpusWER.columns
    rows = []
    for text in texts:
        counts = {name: dict(zip(columns, voice[text % 8], strict=True)) for name, voice in voices.items()}
        heard = {name: entry(0) | {"metrics": {"wer": {"value": 0.0, "reason": "", **each}}}
                 for name, each in counts.items()}
        rows.append(row(f"u{text}", heard))
    return {(each["system"], each["against"]): each for each in compare_systems(WER, rows, list(voices), CONFIG)}


def width(found):
    return found["interval"][1] - found["interval"][0]


def test_two_voices_are_told_apart_whichever_comes_first_and_one_from_itself_is_not():
    found = of_voices(range(8), rms=RMS, slt=SLT, again=SLT)
    slower = found["slt", "rms"]
    assert slower["value"] == pytest.approx(100 * (sum(sum(each[:3]) for each in SLT) - 150) / 1380)
    assert 0 < slower["interval"][0] < slower["value"] < slower["interval"][1]
    assert (found["again", "slt"]["value"], found["again", "slt"]["interval"]) == (0.0, (0.0, 0.0))
    turned = of_voices(range(8), slt=SLT, rms=RMS)["rms", "slt"]
    assert turned["value"] == -slower["value"]
    assert turned["interval"] == pytest.approx([-end for end in reversed(slower["interval"])])


def test_the_interval_of_two_voices_is_narrower_in_pairs_and_with_more_texts():
    alone = [score_system(WER, [row(f"u{text}", {"one": entry(0) | {"metrics": {"wer": {
        "value": 0.0, "reason": "", **dict(zip(CorpusWER.columns, counts, strict=True))}}}})
        for text, counts in enumerate(voice)], "one", CONFIG)["scores"]["wer"] for voice in (RMS, SLT)]
    eight, many = (of_voices(range(number), rms=RMS, slt=SLT)["slt", "rms"] for number in (8, 32))
    assert width(eight) < np.hypot(*map(width, alone)), "texts are hard for both voices"
    assert width(many) == pytest.approx(width(eight) / 2, rel=0.25)
