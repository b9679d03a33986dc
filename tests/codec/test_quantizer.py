from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from stages.codec.quantizer import (
    Ranks,
    ResidualQuantizer,
    VectorQuantizer,
    kmeans,
    nearest,
    straight_through,
)
from stages.config.models import QuantizerConfig
from stages.errors import UsageError

SMALL = QuantizerConfig(codebook_size=8, kmeans_iterations=10, kmeans_vectors_per_code=32)


def vectors(count: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def latents(batch: int, frames: int, dim: int = 4, seed: int = 0) -> Tensor:
    return vectors(batch * frames, dim, seed).view(batch, frames, dim).transpose(1, 2)


def test_nearest_agrees_with_a_loop_over_all_distances() -> None:
    points, codebook = vectors(50), vectors(8, seed=1)
    slow = [min(range(8), key=lambda j: float((point - codebook[j]).square().sum())) for point in points]
    assert nearest(points, codebook).tolist() == slow


def test_half_precision_latents_get_the_codes_of_their_fp32_values() -> None:
    points, codebook = vectors(200).bfloat16(), vectors(8, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest(points, codebook), nearest(points.float(), codebook))


def test_kmeans_centroids_survive_the_first_update() -> None:
    quantizer = VectorQuantizer(4, SMALL)
    data = vectors(256)
    quantizer.initialise(data)
    centroids = quantizer.codebook.clone()
    few = data[:8]
    quantizer.update(few, quantizer.encode(few))
    # one EMA step of 0.01 with 8 vectors against 256 may move entries a little; upstream replaces them
    assert (quantizer.codebook - centroids).norm() < 0.02 * centroids.norm()
    assert not torch.equal(quantizer.codebook, centroids)


def test_the_sum_starts_as_centroid_times_count() -> None:
    quantizer = VectorQuantizer(4, SMALL)
    quantizer.initialise(vectors(256))
    assert torch.equal(quantizer.ema_sum, quantizer.codebook * quantizer.ema_count.unsqueeze(1))
    assert float(quantizer.ema_count.sum()) == 256


def test_a_revived_code_stays_where_it_was_put() -> None:
    quantizer = VectorQuantizer(4, SMALL)
    quantizer.initialise(vectors(256))
    far = torch.full((4,), 100.0)
    quantizer.codebook[3], quantizer.ema_sum[3], quantizer.ema_count[3] = far, far * 1e-3, 1e-3
    batch = vectors(64, seed=5)
    quantizer.update(batch, quantizer.encode(batch))
    revived = quantizer.codebook[3].clone()
    assert any(torch.equal(revived, vector) for vector in batch), "it moved to a vector of the batch"
    unused = torch.arange(64) % 3  # the next step does not use code 3
    quantizer.update(batch, unused)
    torch.testing.assert_close(quantizer.codebook[3], revived, rtol=1e-4, atol=1e-4)
    assert float(quantizer.ema_count[3]) > SMALL.dead_code_ratio * float(quantizer.ema_count.mean())


def test_a_code_is_dead_relative_to_the_expected_use() -> None:
    """One vector a code and step is all that an 8 Hz stream has: nothing may be dead then."""
    quantizer = VectorQuantizer(4, SMALL)
    quantizer.set_entries(vectors(8) * 3)
    before = quantizer.codebook.clone()
    for _ in range(300):
        quantizer.update(before, torch.arange(8))
    torch.testing.assert_close(quantizer.codebook, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("index", range(4))
def test_every_codebook_sends_a_commitment_gradient_to_the_latents(index: int) -> None:
    quantizer = ResidualQuantizer(4, 4, SMALL)
    quantizer.initialise(vectors(256))
    quantizer.train()
    data = latents(2, 10, seed=3).requires_grad_()
    quantizer(data).commitment[index].backward()
    assert float(data.grad.abs().sum()) > 0


def test_commitment_is_the_distance_from_residual_to_embedding() -> None:
    quantizer = ResidualQuantizer(4, 2, SMALL).eval()
    data = latents(2, 10)
    output = quantizer(data)
    residual = data
    for index in range(2):
        embedded = quantizer.embed_codebook(index, output.codes[:, index])
        torch.testing.assert_close(output.commitment[index], (residual - embedded).square().mean())
        residual = residual - embedded


def test_straight_through_keeps_the_values_exactly_and_passes_the_gradient_once() -> None:
    quantizer = ResidualQuantizer(4, 3, SMALL).eval()
    data = latents(2, 10).requires_grad_()
    output = quantizer(data)
    assert torch.equal(output.quantized, quantizer.embed(output.codes))
    output.quantized.sum().backward()
    assert torch.equal(data.grad, torch.ones_like(data))


def test_straight_through_of_large_latents_loses_no_bit() -> None:
    big, small = torch.tensor([1e6]), torch.tensor([0.1234567])
    assert torch.equal(straight_through(big, small), small)


def test_statistics_are_summed_over_processes() -> None:
    data = latents(4, 32, seed=7)
    together = ResidualQuantizer(4, 2, SMALL)
    together.initialise(vectors(256))
    parts = [ResidualQuantizer(4, 2, SMALL) for _ in range(2)]
    for part in parts:
        part.load_state_dict(together.state_dict())
    together.codebooks[0].ema_count[2] = 1e-6  # dead: revival must agree too
    for part in parts:
        part.codebooks[0].ema_count[2] = 1e-6
    together(data)
    run_as_two_processes(lambda ranks: parts[ranks.rank](data.chunk(2)[ranks.rank], ranks))
    for name, tensor in together.state_dict().items():
        assert torch.equal(parts[0].state_dict()[name], parts[1].state_dict()[name]), f"{name} differs between ranks"
        torch.testing.assert_close(parts[0].state_dict()[name], tensor, msg=f"{name} differs from one process")


def test_processes_that_hold_other_vectors_start_from_the_same_centroids() -> None:
    pair = [VectorQuantizer(4, SMALL) for _ in range(2)]
    run_as_two_processes(lambda ranks: pair[ranks.rank].initialise(vectors(256, seed=ranks.rank), ranks=ranks))
    assert torch.equal(pair[0].codebook, pair[1].codebook)
    assert torch.equal(pair[0].ema_count, pair[1].ema_count)


def run_as_two_processes(work) -> None:
    """Call work(ranks) in two threads whose `sum` meets at a barrier."""
    barrier, slots = threading.Barrier(2, timeout=20), [None, None]

    def add_up(rank: int, tensor: Tensor) -> Tensor:
        slots[rank] = tensor
        barrier.wait()
        total = slots[0] + slots[1]
        barrier.wait()
        return total

    failures = []

    def one(rank: int) -> None:
        try:
            work(Ranks(rank, 2, lambda tensor: add_up(rank, tensor)))
        except Exception as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_eval_mode_moves_nothing() -> None:
    quantizer = ResidualQuantizer(4, 2, SMALL).eval()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(latents(2, 10))
    quantizer.train().encode(latents(2, 10))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


def test_codes_revived_together_become_different_entries() -> None:
    quantizer = VectorQuantizer(4, SMALL)
    batch = vectors(SMALL.codebook_size)
    for _ in range(20):
        quantizer.set_entries(vectors(SMALL.codebook_size, seed=1))
        quantizer.ema_count.copy_(torch.tensor([1.0] + [1e-9] * (SMALL.codebook_size - 1)))
        quantizer.update(batch, torch.zeros(len(batch), dtype=torch.int64))
        assert len(torch.unique(quantizer.codebook, dim=0)) == SMALL.codebook_size


def test_a_resumed_quantizer_revives_the_same_codes() -> None:
    first = ResidualQuantizer(4, 2, SMALL)
    for step in range(5):
        first(latents(2, 10, seed=step))
    second = ResidualQuantizer(4, 2, SMALL)
    second.load_state_dict(first.state_dict())
    torch.rand(7)  # the global generator must not matter
    for quantizer in (first, second):
        quantizer.codebooks[1].ema_count[:4] = 1e-6
        for step in range(5, 8):
            quantizer(latents(2, 10, seed=step))
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_codebooks_are_initialised_in_order_each_on_what_is_left() -> None:
    quantizer = ResidualQuantizer(4, 3, SMALL)
    assert not quantizer.initialised
    data = vectors(512)
    quantizer.initialise(data)
    assert quantizer.initialised
    codes = quantizer.encode(data.T.unsqueeze(0))
    left = [float((data.T - part[0]).square().mean()) for part in quantizer.partial_sums(codes)]
    assert 1.0 > left[0] > left[1] > left[2]
    residual = data
    for salt, codebook in enumerate(quantizer.codebooks):
        alone = VectorQuantizer(4, SMALL, salt)
        alone.initialise(residual)
        assert torch.equal(codebook.codebook, alone.codebook), f"codebook {salt + 1}"
        residual = residual - alone.embed(alone.encode(residual))


def test_kmeans_finds_separate_clusters_whatever_the_block_of_rows(monkeypatch) -> None:
    centres = torch.eye(8) * 50
    data = centres.repeat(20, 1) + 0.1 * vectors(160, 8)
    whole = kmeans(data, 8, 50, torch.Generator().manual_seed(3))
    monkeypatch.setattr("stages.codec.quantizer.ROWS_AT_ONCE", 7)
    parts = kmeans(data, 8, 50, torch.Generator().manual_seed(3))
    torch.testing.assert_close(whole, parts)
    assert int(whole[1].sum()) == 160


def test_kmeans_refuses_fewer_vectors_than_codes() -> None:
    with pytest.raises(UsageError, match="expected 8 vectors, got `5`"):
        VectorQuantizer(4, SMALL).initialise(vectors(5))


def test_a_batch_has_the_codes_of_its_items() -> None:
    quantizer = ResidualQuantizer(4, 3, SMALL).double().eval()
    data = latents(5, 20).double()
    together = quantizer.encode(data)
    assert torch.equal(together, torch.cat([quantizer.encode(item.unsqueeze(0)) for item in data]))
    assert torch.equal(together, quantizer(data).codes)


def test_partial_sums_add_one_codebook_at_a_time() -> None:
    quantizer = ResidualQuantizer(4, 3, SMALL).eval()
    codes = quantizer.encode(latents(2, 6))
    sums = quantizer.partial_sums(codes)
    assert len(sums) == 3
    torch.testing.assert_close(sums[1] - sums[0], quantizer.embed_codebook(1, codes[:, 1]))
    assert torch.equal(sums[1], quantizer.embed(codes[:, :2]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_vectors_that_are_not_finite_leave_the_codebook_as_it_was(bad: float) -> None:
    quantizer = VectorQuantizer(4, SMALL)
    data = vectors(40)
    quantizer.initialise(data)
    quantizer.update(data, quantizer.encode(data))
    before = quantizer.codebook.clone(), quantizer.ema_count.clone(), quantizer.ema_sum.clone()
    data[3, 1] = bad
    quantizer.update(data, quantizer.encode(data))
    torch.testing.assert_close((quantizer.codebook, quantizer.ema_count, quantizer.ema_sum), before)


def test_vectors_that_are_not_finite_revive_nothing() -> None:
    quantizer = VectorQuantizer(4, SMALL)
    data = vectors(40)
    quantizer.initialise(data)
    quantizer.ema_count[3] = 1e-6
    data[:] = torch.nan
    quantizer.update(data, quantizer.encode(data))
    assert quantizer.codebook.isfinite().all()
    assert int(quantizer.num_revived) == 0
