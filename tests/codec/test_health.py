from __future__ import annotations

import math

import torch
from tiny_codecs import synthetic_speech

from stages.codec.health import code_histogram, recent_usage, revived_codes, training_health, usage
from stages.codec.quantizer import ResidualQuantizer
from stages.config.models import QuantizerConfig

SMALL = QuantizerConfig(codebook_size=8, kmeans_iterations=10, kmeans_vectors_per_code=32)


def vectors(frames: int, seed: int = 0, batch: int = 1, dim: int = 4) -> torch.Tensor:
    return torch.randn(batch, dim, frames, generator=torch.Generator().manual_seed(seed))


def trained(config: QuantizerConfig, steps: int) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(4, 2, config)
    quantizer.initialise(vectors(512)[0].T)
    for step in range(steps):
        quantizer(vectors(64, seed=step))
    return quantizer


def test_usage_of_uniform_and_of_constant_codes() -> None:
    codes = torch.stack([torch.arange(8), torch.zeros(8, dtype=torch.int64)]).unsqueeze(0)
    found = usage(code_histogram(codes, 8))
    torch.testing.assert_close(found.perplexity, torch.tensor([8.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found.share, torch.tensor([1.0, 0.125], dtype=torch.float64))


def test_usage_of_averages_is_that_of_counts() -> None:
    counts = torch.tensor([[3.0, 1.0, 0.0, 4.0]])
    torch.testing.assert_close(usage(counts * 1e-3).perplexity, usage(counts).perplexity)


def test_recent_usage_is_that_of_the_codes_of_the_last_steps() -> None:
    quantizer = trained(SMALL, 100)
    weights = [0.99 ** (99 - step) for step in range(100)]
    again = ResidualQuantizer(4, 2, SMALL)
    again.initialise(vectors(512)[0].T)
    total = sum(weight * code_histogram(again(vectors(64, seed=step)).codes, 8)
                for step, weight in enumerate(weights))  # fmt: skip
    torch.testing.assert_close(recent_usage(quantizer).perplexity, usage(total).perplexity, rtol=1e-4, atol=0)
    assert recent_usage(quantizer).share.tolist() == [1.0, 1.0]


def test_codes_that_are_only_ever_revived_do_not_look_used() -> None:
    quantizer = ResidualQuantizer(4, 1, SMALL)
    codebook, always_the_first = quantizer.codebooks[0], torch.zeros(32, dtype=torch.int64)
    for _ in range(1200):
        codebook.update(vectors(32)[0].T, always_the_first)
    found = recent_usage(quantizer)
    assert (float(found.perplexity[0]), float(found.share[0])) == (1, 1 / 8)
    assert int(codebook.num_revived) >= 14, "the other seven were revived again and again"
    assert float(usage(codebook.ema_count.unsqueeze(0)).perplexity[0]) > 1.5, "which the EMA count takes for use"


def test_a_code_of_long_ago_is_no_longer_in_use() -> None:
    quantizer = ResidualQuantizer(2, 1, QuantizerConfig(codebook_size=2, dead_code_ratio=0.0))
    quantizer.codebooks[0].set_entries(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    left, right = (torch.tensor(way).view(1, 2, 1) for way in ([1.0, 0.0], [0.0, 1.0]))
    quantizer(left)
    shares = []
    for _ in range(150):
        quantizer(right)
        shares.append(float(recent_usage(quantizer).share[0]))
    assert shares.index(0.5) + 1 == math.ceil(-1 / math.log(0.99)), "1 / (1 - decay) steps later"


def test_revived_codes_are_counted() -> None:
    quantizer = trained(SMALL, 3)
    before = int(quantizer.codebooks[1].num_revived)
    quantizer.codebooks[1].ema_count[[2, 5, 7]] = 1e-6
    quantizer(vectors(64, seed=9))
    counted = revived_codes({"quant1": quantizer})
    assert list(counted) == ["revived.quant1.1", "revived.quant1.2"]
    assert int(counted["revived.quant1.2"]) == before + 3


def test_every_codebook_of_a_hierarchy_has_its_figures_under_its_streams_name(student) -> None:
    student.train()
    student.mrvq(student.encode_latents(synthetic_speech(2, 12_000)))
    found = training_health(student.quantizers())
    parts = {"pre1": 1, "quant1": 6, "post1": 1, "pre2": 2, "quant2": 6, "post2": 2, "pre3": 2, "quant3": 4, "post3": 2,
             "quant4": 3}  # fmt: skip
    books = {f"{name}.{index}" for name, number in parts.items() for index in range(1, number + 1)}
    assert set(found) == {f"{what}.{book}" for what in ("usage", "perplexity", "revived") for book in books}
    for book in books:
        assert 1 <= found[f"perplexity.{book}"] <= 16 and 0 < found[f"usage.{book}"] <= 1, book
