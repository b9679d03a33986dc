"""All takes of a sentence are on one side, whatever the seed, the order and the speakers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_corpora import settings

from stages.curation.recordings import Recording
from stages.curation.screening import Take
from stages.curation.splits import assign_splits, hash_splits, texts_in_several_splits
from stages.errors import UsageError
from stages.text.tables import text_key


def take(index: int, text: str, speaker: str = "a", split: str | None = None) -> Take:
    return Take(Recording(f"r{index}", Path("x.wav"), "x.wav", text, speaker, split), 3.0, 24_000)


def takes_of(texts: list[str], **changes) -> list[Take]:
    return [take(index, text, **changes) for index, text in enumerate(texts)]


texts = st.lists(st.sampled_from(["One.", "one", "ONE!", "two", "Two?", "three", "four", "five"]), min_size=1)


@given(texts=texts, seed=st.integers(0, 99))
def test_all_takes_of_a_sentence_are_on_one_side(texts, seed):
    takes = takes_of(texts)
    splits, rejections = assign_splits(takes, settings("x", seed=seed, validation_share=0.3, test_share=0.3))
    assert not rejections and set(splits) == {item.recording.id for item in takes}
    assert texts_in_several_splits(takes, splits) == 0


@given(texts=texts, named=st.lists(st.sampled_from([None, "train", "test"]), min_size=60, max_size=60))
def test_splits_of_the_source_are_kept_and_other_takes_follow(texts, named):
    takes = [take(i, text, split=named[i % 60]) for i, text in enumerate(texts)]
    splits, _ = assign_splits(takes, settings("x"))
    sides = {}
    for item in takes:
        if item.recording.split:
            assert splits[item.recording.id] == item.recording.split
            sides.setdefault(text_key(item.recording.text), set()).add(item.recording.split)
    for item in takes:
        allowed = sides.get(text_key(item.recording.text))
        assert allowed is None or splits[item.recording.id] in allowed


def test_a_place_depends_on_seed_and_sentence_only():
    many = {f"sentence {index}" for index in range(400)}
    few = {f"sentence {index}" for index in range(200)}
    whole, part = hash_splits(many, 0, 0.1, 0.2), hash_splits(few, 0, 0.1, 0.2)
    assert all(whole[text] == part[text] for text in few)
    assert whole != hash_splits(many, 1, 0.1, 0.2)
    counts = [list(whole.values()).count(name) for name in ("train", "validation", "test")]
    assert abs(counts[0] - 280) < 30 and abs(counts[1] - 40) < 20 and abs(counts[2] - 80) < 25


@pytest.mark.parametrize("seed", range(5))
def test_a_small_corpus_still_gets_every_split_that_was_asked_for(seed):
    splits = hash_splits({f"sentence {index}" for index in range(12)}, seed, 1e-9, 1e-9)
    assert set(splits.values()) == {"train", "validation", "test"}
    assert set(hash_splits({"a", "b"}, seed, 1e-9, 1e-9).values()) == {"train"}
    assert "test" not in hash_splits({f"sentence {index}" for index in range(12)}, seed, 1e-9, 0.0).values()


def test_held_out_speakers_are_the_test_split_and_their_sentences_are_nobody_elses():
    takes = [take(0, "One.", "a"), take(1, "one", "b"), take(2, "two", "a"), take(3, "three", "b")]
    splits, rejections = assign_splits(takes, settings("x", holdout_speakers=("b",), test_share=0.5))
    assert splits == {"r1": "test", "r3": "test", "r2": "train"}
    assert [(r.recording.id, r.reason) for r in rejections] == [("r0", "HELD_OUT_TEXT")]


def test_an_unknown_held_out_speaker_is_refused():
    with pytest.raises(UsageError, match="held-out speaker `c`"):
        assign_splits(takes_of(["one"]), settings("x", holdout_speakers=("c",)))


@pytest.mark.parametrize("seed", range(5))
def test_shares_that_leave_nothing_for_training_are_no_accident(seed):
    splits = hash_splits({f"sentence {index}" for index in range(12)}, seed, 0.02, 0.95)
    assert len(splits) == 12 and "test" in splits.values()
