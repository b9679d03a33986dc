import pytest
import torch
import torch.nn.functional as F

from stages.lm.transformer import KeyValueCache, attend_once


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_one_query_is_torchs(masked, dtype):
    torch.manual_seed(0)
    query = torch.randn(3, 4, 1, 8, dtype=dtype)
    keys, values = torch.randn(2, 3, 4, 20, 8, dtype=dtype)[..., :17, :]
    mask = (torch.arange(17) < torch.tensor([[5], [17], [1]]))[:, None, None] if masked else None
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    found = attend_once(query, keys, values, mask)
    assert torch.allclose(found.float(), expected.float(), atol=1e-6 if dtype == torch.float32 else 2e-2)


def test_a_cache_returns_what_was_stored_and_nothing_behind_it():
    cache = KeyValueCache(num_layers=2, capacity=6)
    stored = torch.randn(2, 1, 2, 5, 3)  # keys and values of 5 columns
    cache.store(1, torch.arange(4), 4, *stored[..., :4, :])
    keys, values = cache.store(1, torch.tensor([4]), 5, *stored[..., 4:, :])
    assert torch.equal(torch.stack([keys, values]), stored)
    keys, _ = cache.store(0, torch.tensor([2]), 6, *stored[..., 4:, :])
    assert keys.shape == (1, 2, 6, 3) and torch.equal(keys[:, :, 2], stored[0, :, :, 4])
