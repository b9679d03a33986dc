import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.batching import BatchPlan, chunks, rank_slice


def random_lengths(num_items, seed=0):
    return np.random.default_rng(seed).integers(5, 100, (num_items, 2))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(50, 2000), st.integers(0, 5))
def test_every_epoch_holds_each_item_once_and_no_batch_exceeds_the_budget(num_items, budget, seed):
    lengths = random_lengths(num_items, seed)
    plan = BatchPlan(lengths, budget, seed)
    for epoch in range(2):
        batches = [plan.items(epoch * len(plan) + index) for index in range(len(plan))]
        assert sorted(np.concatenate(batches)) == list(range(num_items))
        for items in batches:
            padded = lengths[items].max(axis=0).sum() * len(items)
            assert len(items) == 1 or padded <= budget


def test_a_batch_depends_on_seed_and_number_alone_not_on_what_was_asked_before():
    lengths = random_lengths(60)
    plan, fresh, other = BatchPlan(lengths, 800, 1), BatchPlan(lengths, 800, 1), BatchPlan(lengths, 800, 2)
    in_order = [plan.items(number) for number in range(3 * len(plan))]
    for number in (2 * len(plan) + 1, 3, len(plan)):
        assert np.array_equal(fresh.items(number), in_order[number])
    assert any(not np.array_equal(other.items(n), in_order[n]) for n in range(len(plan)))
    first, second = in_order[: len(plan)], in_order[len(plan) : 2 * len(plan)]
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}


def test_batches_of_similar_lengths_waste_little():
    lengths = random_lengths(3000, 1)
    plan = BatchPlan(lengths, 4000, 0)
    real = padded = 0
    for number in range(len(plan)):
        items = plan.items(number)
        real += lengths[items].sum()
        padded += lengths[items].max(axis=0).sum() * len(items)
    assert real / padded > 0.55  # both parts vary freely here; random batches give about 0.53
    equal = np.stack([np.arange(3000) % 90 + 5] * 2, axis=1)
    plan = BatchPlan(equal, 4000, 0)
    shares = []
    for number in range(len(plan)):
        items = plan.items(number)
        shares.append(equal[items].sum() / (equal[items].max(axis=0).sum() * len(items)))
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_the_slices_of_all_ranks_are_the_global_batch(world_size):
    items = np.array([4, 8, 15, 16, 23])
    slices = [rank_slice(items, rank, world_size) for rank in range(world_size)]
    assert sorted(i for own, counted in slices if counted for i in own) == [4, 8, 15, 16, 23]
    assert all(len(own) for own, _ in slices)
    assert sum(not counted for _, counted in slices) == max(0, world_size - 5)


def test_chunks_keep_the_order_and_the_budget():
    lengths = random_lengths(40)
    parts = list(chunks(lengths, 700))
    assert np.concatenate(parts).tolist() == list(range(40))
    assert all(len(p) == 1 or lengths[p].max(axis=0).sum() * len(p) <= 700 for p in parts)
    assert len(parts) < 40
