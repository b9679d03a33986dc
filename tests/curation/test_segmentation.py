"""Joined utterances keep to one speaker, one split, the range, and every take is used once or rejected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tiny_corpora import settings

from stages.curation.recordings import Recording
from stages.curation.screening import Take
from stages.curation.segmentation import assemble, concatenate

takes = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["train", "test"]), st.floats(0.3, 6.0)), min_size=1, max_size=40
)


def build(rows) -> tuple[list[Take], dict[str, str]]:
    made = [
        Take(Recording(f"r{i:03d}", Path("x"), "x", f"text {i}", speaker), seconds, 24_000)
        for i, (speaker, _, seconds) in enumerate(rows)
    ]
    return made, {f"r{i:03d}": split for i, (_, split, _) in enumerate(rows)}


@given(rows=takes, seed=st.integers(0, 9))
def test_joining_keeps_to_its_rules(rows, seed):
    made, splits = build(rows)
    config = settings("x", join_seconds=(4.0, 9.0), seed=seed)
    assemblies, rejections = assemble(made, splits, config)
    used = [take.recording.id for assembly in assemblies for take in assembly.takes]
    left = [rejection.recording.id for rejection in rejections]
    assert sorted(used + left) == [take.recording.id for take in made]
    for assembly in assemblies:
        assert 4.0 <= assembly.duration <= 9.0
        assert len({take.recording.speaker for take in assembly.takes}) == 1
        assert {splits[take.recording.id] for take in assembly.takes} == {assembly.split}
        ids = [take.recording.id for take in assembly.takes]
        assert ids == sorted(ids)
        assert len(assembly.pauses) == len(ids) - 1 and all(0.2 <= pause <= 0.6 for pause in assembly.pauses)
    assert assemble(made, splits, config) == (assemblies, rejections)
    assert len({assembly.id for assembly in assemblies}) == len(assemblies)


def test_without_joining_every_take_is_an_utterance():
    made, splits = build([("a", "train", 2.0), ("b", "test", 1.0)])
    assemblies, rejections = assemble(made, splits, settings("x"))
    assert [(a.id, a.split, a.text) for a in assemblies] == [("r000", "train", "text 0"), ("r001", "test", "text 1")]
    assert not rejections


def test_takes_of_one_sentence_do_not_follow_each_other():
    texts = ["one", "One.", "ONE!", "two", "two", "two", "three", "three", "three"]
    made = [Take(Recording(f"r{i}", Path("x"), "x", text, "a"), 2.0, 24_000) for i, text in enumerate(texts)]
    config = settings("x", join_seconds=(6.0, 7.5))
    assemblies, _ = assemble(made, {f"r{i}": "train" for i in range(9)}, config)
    assert [assembly.text for assembly in assemblies] == ["one two three", "One. two three", "ONE! two three"]


def test_the_seed_changes_pauses_and_lengths():
    made, splits = build([("a", "train", 2.0)] * 30)
    first, second = (assemble(made, splits, settings("x", join_seconds=(4.0, 20.0), seed=s))[0] for s in (0, 1))
    assert [a.pauses for a in first] != [a.pauses for a in second]
    assert len({len(a.takes) for a in first}) > 1


def test_concatenation_puts_silence_between_and_fades_only_the_joints():
    joined = concatenate([np.ones(1000, np.float32), np.ones(500, np.float32)], (0.25,), 1000)
    assert joined.dtype == np.float32 and len(joined) == 1750
    assert joined[0] == 1 and joined[-1] == 1
    assert joined[999] == 0 and joined[1250] == 0 and not joined[1000:1250].any()
    assert joined[994] == 1 and joined[1255] == 1
