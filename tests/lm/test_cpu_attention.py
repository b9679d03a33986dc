import pytest
import torch
import torch.nn.functional as F

from stages.lm import cpu_attention


def inputs(queries: int, keys: int, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((3, queries, 2, 8), (3, keys, 2, 8), (3, keys, 2, 8))
    return [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for shape in shapes]


def mask_of(kind: str, queries: int, keys: int) -> torch.Tensor | None:
    if kind == "padding":
        return (torch.arange(keys) < torch.tensor([[5], [keys], [1]]))[:, None, None]
    if kind == "shared":
        return (torch.arange(keys) != 2)[None, None, None]
    if kind == "queries":
        return (torch.arange(keys) <= torch.arange(queries).unsqueeze(1) + 3)[None, None]
    return None


@pytest.mark.parametrize("block_scores", [16, 2**19])
@pytest.mark.parametrize(
    ("kind", "queries", "keys", "causal"),
    [("none", 7, 11, False), ("padding", 7, 11, False), ("shared", 7, 11, False), ("queries", 7, 11, False),
     ("none", 9, 9, True)],
)  # fmt: skip
def test_it_is_torchs_attention_with_its_gradients(monkeypatch, kind, queries, keys, causal, block_scores):
    monkeypatch.setattr(cpu_attention, "BLOCK_SCORES", block_scores)
    mask, parts = mask_of(kind, queries, keys), inputs(queries, keys)
    expected = F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=causal)
    found = cpu_attention.attend(*parts, mask, causal)
    assert torch.allclose(found, expected)
    gradient = torch.randn_like(expected)
    for ours, theirs in zip(torch.autograd.grad(found, parts, gradient), torch.autograd.grad(expected, parts, gradient),
                            strict=True):  # fmt: skip
        assert torch.allclose(ours, theirs)


def test_in_bfloat16_it_is_as_near_to_exact_attention_as_torchs():
    exact = inputs(60, 60)
    near = [part.detach().bfloat16().requires_grad_() for part in exact]
    gradient = torch.randn(3, 2, 60, 8, dtype=torch.float64)

    def gradients(attention, parts):
        mixed = attention(*parts)
        return [mixed, *torch.autograd.grad(mixed, parts, gradient.to(mixed.dtype))]

    expected = gradients(F.scaled_dot_product_attention, exact)
    theirs = gradients(F.scaled_dot_product_attention, near)
    ours = gradients(lambda *parts: cpu_attention.attend(*parts, None, False), near)
    for own, other, right in zip(ours, theirs, expected, strict=True):
        assert (own - right).norm() < 2 * (other - right).norm()


@pytest.mark.parametrize(
    ("dtype", "amx", "chosen"),
    [(torch.bfloat16, False, True), (torch.bfloat16, True, False), (torch.float32, False, False)],
)
def test_it_is_for_bfloat16_on_processors_where_torchs_own_is_slow(monkeypatch, dtype, amx, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": amx})
    cpu_attention.has_amx.cache_clear()
    try:
        assert cpu_attention.is_for(torch.zeros(1, 1, 2, 4, dtype=dtype)) is chosen
    finally:
        cpu_attention.has_amx.cache_clear()
