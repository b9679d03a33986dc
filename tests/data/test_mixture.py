"""Several token stores as one: weights, differences, and what a run records of them."""

from pathlib import Path

import numpy as np
import pytest
from tiny_tokens import tiny_tokens

from stages.artifacts.token_store import open_store
from stages.data.batching import BatchPlan
from stages.data.mixture import Ingredient, TokenMixture, open_mixture, parse_tokens
from stages.data.tokens import _split, ar_batch, ar_lengths, open_tokens
from stages.errors import UsageError


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    return tiny_tokens(tmp_path_factory.mktemp("old"), "halle", num_utterances=40)[0]


@pytest.mark.parametrize("text, expected", [
    ("runs/tokens", ("runs/tokens", 1.0)),
    ("runs/tokens:0.5", ("runs/tokens", 0.5)),
    ("runs/tokens:3", ("runs/tokens", 3.0)),
    ("C:\\runs\\tokens", ("C:\\runs\\tokens", 1.0)),
    ("C:\\runs\\tokens:.25", ("C:\\runs\\tokens", 0.25)),
    ("C:/runs/tokens", ("C:/runs/tokens", 1.0)),
    ("C:tokens", ("C:tokens", 1.0)),
    ("odd:name/tokens", ("odd:name/tokens", 1.0)),
])
def test_a_weight_stands_after_the_last_colon_and_a_drive_is_none(text, expected):
    assert parse_tokens(text) == expected


def test_a_folder_that_exists_keeps_its_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("take:2").mkdir()
    assert parse_tokens("take:2") == ("take:2", 1.0)
    assert parse_tokens("take:2:3") == ("take:2", 3.0)


@pytest.mark.parametrize("text", ["tokens:0", "tokens:-1", "tokens:half", "tokens:nan", "tokens:"])
def test_a_weight_that_is_no_positive_number_is_refused(text):
    with pytest.raises(UsageError, match=r"expected a weight above 0 after the colon, such as tokens:0\.5"):
        parse_tokens(text)


def test_a_single_store_is_read_as_it_is(halle_tokens):
    store, mixture = open_store(halle_tokens[0]), open_mixture(halle_tokens[0])
    assert len(mixture) == len(store) and mixture.rows == store.rows
    assert mixture.parents() == {"tokens": store.fingerprint}
    assert np.array_equal(mixture.lengths("quant1"), store.lengths("quant1"))
    assert set(mixture.shares()) == {1.0}


def test_a_weight_makes_copies_with_ids_of_their_own_and_the_same_codes(halle_tokens, old):
    mixture = open_mixture((str(halle_tokens[0]), f"{old}:2.5"))
    assert len(mixture) == 12 + 3 * 40
    assert [mixture[index].id for index in (0, 12, 52, 92)] == [
        "utterance-0", "utterance-0", "utterance-0#2", "utterance-0#3"]
    assert np.array_equal(mixture[92].codes["quant1"], open_store(old)[0].codes["quant1"])
    assert mixture.shares()[[0, 12, 52, 92]].tolist() == [1, 1, 1, 0.5]
    for index in (5, 11, 12, 131):
        assert mixture.lengths("text")[index] == len(mixture[index].text_tokens)
    with pytest.raises(IndexError):
        mixture[132]


def heard(data, plan, epochs):
    """Return how often each training utterance of the mixture occurs in so many epochs."""
    numbers = range(epochs * len(plan))
    return np.bincount(np.concatenate([plan.items(number) for number in numbers]), minlength=len(data.train))


@pytest.mark.parametrize("weight", [0.2, 0.5, 1, 3, 1.5])
def test_an_epoch_hears_each_utterance_as_often_as_its_weight_says(halle_tokens, old, weight):
    data = open_tokens((str(halle_tokens[0]), f"{old}:{weight}"), None)
    plan = BatchPlan(ar_lengths(data, data.train), 4000, 0, data.shares)
    counts = heard(data, plan, epochs=10)
    new = data.train < 12
    assert set(counts[new]) == {10}
    assert counts[~new].sum() == pytest.approx(10 * weight * 30, rel=0.05)


def test_what_is_heard_in_part_is_heard_in_turn():
    lengths = np.full((100, 1), 10)
    shares = np.where(np.arange(100) < 60, 0.25, 1.0)
    plan = BatchPlan(lengths, 200, 3, shares)
    epochs = [np.concatenate([plan.items(epoch * len(plan) + i) for i in range(len(plan))]) for epoch in range(8)]
    assert [len(epoch) for epoch in epochs] == [15 + 40] * 8
    for group in (epochs[:4], epochs[4:]):
        counts = np.bincount(np.concatenate(group), minlength=100)
        assert (counts[:60] == 1).all() and (counts[60:] == 4).all()
    first, second = (sorted(item for item in epoch if item < 60) for epoch in (epochs[0], epochs[4]))
    assert first != second


def test_a_batch_of_a_mixture_is_found_without_what_came_before():
    lengths = np.random.default_rng(0).integers(5, 100, (90, 2))
    shares = np.where(np.arange(90) % 3, 0.3, 1.0)
    plan, fresh = BatchPlan(lengths, 800, 1, shares), BatchPlan(lengths, 800, 1, shares)
    in_order = [plan.items(number) for number in range(3 * len(plan))]
    for number in (2 * len(plan) + 1, 3, len(plan)):
        assert np.array_equal(fresh.items(number), in_order[number])
    assert all(len(items) for items in in_order)
    for items in in_order:
        assert len(items) == 1 or lengths[items].max(axis=0).sum() * len(items) <= 800


def test_batches_are_full_of_what_an_epoch_hears_not_of_all_there_is():
    lengths = np.random.default_rng(0).integers(10, 100, (2000, 1))
    plan = BatchPlan(lengths, 600, 0, np.full(2000, 0.05))
    filled = [lengths[plan.items(number)].sum() for number in range(len(plan))]
    assert np.mean(filled) > 0.55 * 600


@pytest.mark.parametrize("shares", [None, np.ones(12)])
def test_a_run_that_began_before_there_were_mixtures_goes_on_with_the_same_batches(shares):
    plan = BatchPlan(np.arange(10, 22)[:, None], 60, 1, shares)
    assert [plan.items(number).tolist() for number in range(10)] == [
        [2, 6, 1], [10], [3, 5, 0], [8, 4, 7], [11, 9], [2, 1, 7], [11], [3, 0, 8], [6, 4, 5], [9, 10]]


def test_validation_begins_with_all_stores_and_holds_no_copies(halle_tokens, old):
    data = open_tokens((f"{halle_tokens[0]}:2", f"{old}:3"), None)
    assert data.validation.tolist()[:6] == [3, 24 + 3, 7, 24 + 7, 11, 24 + 11]
    assert len(data.validation) == 3 + 10
    assert len(data.train) == 2 * 9 + 3 * 30 and data.describe()["train_utterances"] == 9 + 30


def test_a_store_that_validation_hears_nothing_of_is_warned_about(halle_tokens, old, caplog):
    open_tokens((str(halle_tokens[0]), str(old)), None)
    assert "no utterances" not in caplog.text
    whole, lacking = open_store(halle_tokens[0]), open_store(old)
    for shard in lacking._shards:
        shard.rows = [{**row, "split": "train"} for row in shard.rows]
    _, validation = _split(TokenMixture([Ingredient(whole), Ingredient(lacking)]), "quant1")
    assert validation.max() < len(whole) and f"`validation` in `{old}`" in caplog.text


def test_a_mixture_gives_batches_of_its_own_utterances(halle_tokens, old):
    data = open_tokens((str(halle_tokens[0]), str(old)), None)
    items = data.train[[0, -1]]
    batch = ar_batch(data, items)
    for row, utterance in enumerate((open_store(halle_tokens[0])[0], open_store(old)[int(items[1]) - 12])):
        frames = utterance.codes["quant1"]
        assert np.array_equal(batch.codes[row, :, : len(frames)].numpy().T, frames)


def test_every_store_and_weight_is_recorded(halle_tokens, old):
    first, second = open_store(halle_tokens[0]), open_store(old)
    half = open_mixture((str(halle_tokens[0]), f"{old}:0.5")).parents()
    assert half == {"tokens": half["tokens"], "tokens.1": first.fingerprint, "tokens.1.weight": "1",
                    "tokens.2": second.fingerprint, "tokens.2.weight": "0.5"}
    whole = open_mixture((str(halle_tokens[0]), str(old))).parents()
    assert half["tokens"] != whole["tokens"] and half["tokens"] not in (first.fingerprint, second.fingerprint)


def test_stores_that_differ_are_refused_with_every_difference(halle_tokens, valle_tokens, old, tmp_path):
    with pytest.raises(UsageError) as caught:
        open_mixture((str(halle_tokens[0]), str(valle_tokens[0])))
    message = caught.value.message
    assert "codec `" in message and "quant1 2 x 24 Hz of 16" in message and "rvq 3 x 48 Hz of 16" in message
    assert "text tokenizer" not in message
    other = open_store(old)
    other.facts = {**other.facts, "text_tokenizer_fingerprint": "another"}
    with pytest.raises(UsageError, match=r"text tokenizer `[0-9a-f]{12}` in .*, `another` in") as caught:
        TokenMixture([Ingredient(open_store(halle_tokens[0])), Ingredient(other)])
    assert f"halle tokenize --like {halle_tokens[0]}" in caught.value.hint


def test_the_same_store_twice_is_refused(old):
    with pytest.raises(UsageError, match="the same twice") as caught:
        open_mixture((str(old), f"{old}:2"))
    assert "STORE:2" in caught.value.hint


def test_a_store_with_nothing_to_train_on_is_named(halle_tokens, old):
    data = open_store(old)
    for shard in data._shards:
        shard.rows = [{**row, "split": "test"} for row in shard.rows]
    mixture = TokenMixture([Ingredient(open_store(halle_tokens[0])), Ingredient(data)])
    with pytest.raises(UsageError, match=f"split `train` in `{old}`"):
        _split(mixture, "quant1")


def test_loudness_is_known_only_when_all_agree(halle_tokens, old):
    def mixture(first, second):
        stores = open_store(halle_tokens[0]), open_store(old)
        for store, decibels in zip(stores, (first, second), strict=True):
            store.facts = {**store.facts, "loudness_target": decibels}
        return TokenMixture([Ingredient(store) for store in stores])

    assert mixture(-20.0, -20.0).loudness_db == -20.0
    assert mixture(-20.0, -23.0).loudness_db is None
    assert mixture(-20.0, None).loudness_db is None
