"""Attention in bfloat16 on a CPU, as matrix products over blocks of queries.

torch's own kernel does its products in float32, but for processors with AMX. These are oneDNN's, in bfloat16, which
processors with instructions for it do several times faster; blocks are small enough to stay in the processor's cache.
Like torch's kernel it keeps no score for the backward pass: they are computed again, by the gradients of Dao et al.,
2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd import Function

BLOCK_SCORES = 2**19  # of all heads: 1 MiB in bfloat16; measured: of 2**18 to 2**22 the fastest at 260 to 1400 keys


def is_for(query: Tensor) -> bool:
    """Say whether this is the faster attention for such queries.

    It is not in float32, nor where operators are fused, nor with AMX, where torch's takes 0.6 to 0.9 of the
    time from 1400 positions on (tests/benchmarks/training.py); and where operators are only counted, with tensors of
    another type, the counts are meant for any device.
    """
    if torch.compiler.is_compiling() or type(query) is not Tensor:
        return False
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and not has_amx()


@cache
def has_amx() -> bool:
    """Say whether the processor has tiles for products in bfloat16, of which torch's own attention makes use."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.7 cannot say
    return bool(capabilities.get("amx_tile"))


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Do what torch's attention does for [batch, heads, length, head_dim]; `causal` needs as many keys as queries.

    `mask` is [batch or 1, 1, queries or 1, keys], True where a query may look; every query has to see a key.
    """
    with torch.autocast("cpu", enabled=False):
        return _Attention.apply(query, keys, values, mask, causal)


def _blocks(query: Tensor, num_keys: int, causal: bool) -> Iterator[tuple[int, slice, slice]]:
    """Yield an item, some of its queries and the keys that they may see."""
    _, heads, length, _ = query.shape
    fit = max(1, BLOCK_SCORES // (heads * num_keys))
    count = math.ceil(length / fit)
    edges = [length * index // count for index in range(count + 1)]
    for item in range(len(query)):
        for start, stop in pairwise(edges):
            yield item, slice(start, stop), slice(0, stop if causal else num_keys)


def _weights(query: Tensor, keys: Tensor, bias: Tensor | None, rows: slice, causal: bool) -> Tensor:
    """Return the shares [heads, rows, keys] of a block."""
    scores = query @ keys.transpose(-1, -2)
    if bias is not None:
        scores += bias
    if causal:
        own = scores[..., rows]  # keys of the block's own places; those before are all seen
        own.masked_fill_(torch.ones(own.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1)


def _bias(mask: Tensor | None, item: int, rows: slice, keys: slice, dtype: torch.dtype) -> Tensor | None:
    """Return what hides keys when it is added to scores: several times faster than to fill them."""
    if mask is None:
        return None
    own = mask[item if len(mask) > 1 else 0]
    own = own[:, rows if own.shape[1] > 1 else slice(None), keys]
    return None if own.all() else torch.zeros(own.shape, dtype=dtype).masked_fill_(~own, -torch.inf)


class _Attention(Function):
    @staticmethod
    def forward(context, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        scaled, keys, values = (query / math.sqrt(query.shape[-1])).contiguous(), keys.contiguous(), values.contiguous()
        mixed = torch.empty_like(scaled)
        for item, rows, seen in _blocks(query, keys.shape[-2], causal):
            bias = _bias(mask, item, rows, seen, scaled.dtype)
            weights = _weights(scaled[item, :, rows], keys[item, :, seen], bias, rows, causal)
            torch.matmul(weights, values[item, :, seen], out=mixed[item, :, rows])
        context.save_for_backward(scaled, keys, values, mixed, mask)
        context.causal = causal
        return mixed

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled, keys, values, mixed, mask = context.saved_tensors
        to_query, to_keys, to_values = torch.empty_like(scaled), torch.zeros_like(keys), torch.zeros_like(values)
        gradient = gradient.contiguous()
        means = (gradient * mixed).sum(-1, keepdim=True)
        for item, rows, seen in _blocks(scaled, keys.shape[-2], context.causal):
            own, own_keys, own_gradient = scaled[item, :, rows], keys[item, :, seen], gradient[item, :, rows]
            bias = _bias(mask, item, rows, seen, scaled.dtype)
            weights = _weights(own, own_keys, bias, rows, context.causal)
            to_values[item, :, seen] += weights.transpose(-1, -2) @ own_gradient
            slopes = (own_gradient @ values[item, :, seen].transpose(-1, -2)).sub_(means[item, :, rows]).mul_(weights)
            to_query[item, :, rows] = slopes @ own_keys
            to_keys[item, :, seen] += slopes.transpose(-1, -2) @ own
        return to_query / math.sqrt(scaled.shape[-1]), to_keys, to_values, None, None
