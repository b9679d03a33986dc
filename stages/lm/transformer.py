"""The transformer that both language models share (Table 13: layer norm, GELU, sinusoidal positions).

Pre-norm blocks with biases. Two optional parts make it the NAR model's: a cross-attention sublayer
that starts as a no-op, and layer norms whose scale and shift depend on the level being predicted.
Padding is never attended to: it is masked, or lies behind every real position of a causal sequence.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.config.models import TransformerConfig
from stages.lm import cpu_attention

POSITION_PERIOD = 10_000.0  # inferred: Audiocraft and Vaswani et al., 2017


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Return the encodings [..., dim] of integer positions [...]: cosines, then sines."""
    exponents = torch.arange(dim // 2, device=positions.device, dtype=torch.float32) / (dim // 2 - 1 or 1)
    phases = positions.unsqueeze(-1).float() / POSITION_PERIOD**exponents
    return torch.cat([phases.cos(), phases.sin()], dim=-1)


def valid_positions(lengths: Tensor, size: int) -> Tensor:
    """Return a mask [batch, size], True where a position lies within its item's length."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


class KeyValueCache:
    """Keys and values of every layer for sequences under construction, at most `capacity` columns long.

    They are one block of memory, which the system gets back as a whole: many small ones would leave gaps.
    """

    def __init__(self, num_layers: int, capacity: int):
        self.num_layers, self.capacity = num_layers, capacity
        self._block: Tensor | None = None  # [layers, 2, batch, heads, capacity, head_dim]

    @torch.no_grad()
    def store(self, layer: int, columns: Tensor, visible: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values [batch, heads, new, head_dim] at `columns` [new]; return the first `visible`."""
        if self._block is None:
            self._block = keys.new_zeros(self.num_layers, 2, *keys.shape[:2], self.capacity, keys.shape[-1])
        all_keys, all_values = self._block[layer, 0], self._block[layer, 1]
        all_keys.index_copy_(2, columns, keys)
        all_values.index_copy_(2, columns, values)
        return all_keys[:, :, :visible], all_values[:, :, :visible]


@dataclass(frozen=True)
class Context:
    """What a pass attends to besides its own input [batch, length, dim].

    `mask` is [batch or 1, 1, queries or 1, keys], True where a query may look. `memory` [batch, length, dim]
    feeds cross-attention; with a batch of one it serves all items. `levels` [batch] counts from 1. With a cache, the
    input lies at `columns` [length] and sees columns 0..visible - 1 (less what `mask` hides).
    """

    causal: bool = False
    mask: Tensor | None = None
    memory: Tensor | None = None
    memory_mask: Tensor | None = None
    levels: Tensor | None = None
    cache: KeyValueCache | None = None
    columns: Tensor | None = None
    visible: int = 0


class LevelNorm(nn.Module):
    """Layer norm; with `num_levels` > 0 its scale and shift also depend on the level (identity at first)."""

    def __init__(self, dim: int, num_levels: int = 0):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.level_embedding = nn.Embedding(num_levels, 2 * dim) if num_levels else None

    def forward(self, x: Tensor, levels: Tensor | None) -> Tensor:
        normed = self.norm(x)
        if self.level_embedding is None:
            return normed
        scale, shift = self.level_embedding(levels - 1).unsqueeze(1).chunk(2, dim=-1)
        return normed * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head attention of queries [batch, length, dim] over a source of the same width."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [batch, heads, length, head_dim] of a source."""
        keys, values = self.key_value(source).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        queries = self._split(self.query(x))
        if x.shape[1] == 1 and x.device.type == "cpu":
            mixed = attend_once(queries, keys, values, mask)
        elif cpu_attention.is_for(queries):
            mixed = cpu_attention.attend(queries, keys, values, mask, causal and mask is None)
        else:
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=causal and mask is None
            )
        return self.output(mixed.transpose(1, 2).flatten(2))


def attend_once(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Do what torch's attention does for one query [batch, heads, 1, head_dim], as matrix-vector products.

    Reading the cache is all the work there is. On a CPU torch's own kernel takes as long in float32 and 2 to 4 times
    as long in bfloat16 (measured with 20 heads of 64 over 300 and 1500 keys). Which factor comes first is worth 1.6 to
    2.2 times in float32, and 1.8 to 3.4 the other way round in bfloat16 (8 to 64 heads of 64, 300 to 4000 keys).
    """
    if query.dtype == torch.float32:
        scores = query @ keys.transpose(-1, -2)
    else:
        scores = (keys @ query.transpose(-1, -2)).transpose(-1, -2).float()
    scores = scores / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    return scores.softmax(-1).to(values.dtype) @ values


class Block(nn.Module):
    """Self-attention, optional cross-attention and feed-forward, each after its norm and around a residual."""

    def __init__(self, config: TransformerConfig, index: int, cross_attention: bool, num_levels: int):
        super().__init__()
        self.index = index
        self.self_norm = LevelNorm(config.dim, num_levels)
        self.self_attention = Attention(config.dim, config.num_heads)
        self.cross_norm = LevelNorm(config.dim, num_levels) if cross_attention else None
        self.cross_attention = Attention(config.dim, config.num_heads) if cross_attention else None
        self.ffn_norm = LevelNorm(config.dim, num_levels)
        self.ffn_in = nn.Linear(config.dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def _attend(self, x: Tensor, context: Context) -> Tensor:
        keys, values = self.self_attention.project(x)
        if context.cache is not None:
            keys, values = context.cache.store(self.index, context.columns, context.visible, keys, values)
        return self.self_attention(x, keys, values, context.mask, context.causal)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self._attend(self.self_norm(x, context.levels), context))
        if self.cross_attention is not None:
            keys, values = (part.expand(len(x), -1, -1, -1) for part in self.cross_attention.project(context.memory))
            query = self.cross_norm(x, context.levels)
            x = x + self.dropout(self.cross_attention(query, keys, values, context.memory_mask))
        hidden = F.gelu(self.ffn_in(self.ffn_norm(x, context.levels)))
        return x + self.dropout(self.ffn_out(hidden))


def apply_block(block: Block, x: Tensor, context: Context) -> Tensor:
    return block(x, context)


class Transformer(nn.Module):
    """A stack of blocks and a final norm: [batch, length, dim] -> [batch, length, dim].

    `train_block` does what `apply_block` does, and is called in its place wherever gradients are wanted:
    `stages.lm.training_speed` sets it.
    """

    def __init__(self, config: TransformerConfig, cross_attention: bool = False, num_levels: int = 0):
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config, index, cross_attention, num_levels) for index in range(config.num_layers)
        )
        self.final_norm = LevelNorm(config.dim, num_levels)
        self.train_block: Callable[[Block, Tensor, Context], Tensor] = apply_block
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights with a spread that falls with depth; cross-attention and levels start as no-ops."""
        for depth, block in enumerate(self.blocks, start=1):
            for linear in (module for module in block.modules() if isinstance(module, nn.Linear)):
                init_linear(linear, depth)
            if block.cross_attention is not None:
                nn.init.zeros_(block.cross_attention.output.weight)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.zeros_(module.weight)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.dropout(x)
        run_block = self.train_block if torch.is_grad_enabled() else apply_block
        for block in self.blocks:
            x = run_block(block, x, context)
        return self.final_norm(x, context.levels)


@torch.no_grad()
def init_linear(linear: nn.Linear, depth: int | None = None) -> None:
    """Truncated normal of spread 1 / sqrt(fan-in), over sqrt(2 depth) in layer `depth` (Audiocraft's rule)."""
    spread = 1 / math.sqrt(linear.in_features * (2 * depth if depth else 1))
    nn.init.trunc_normal_(linear.weight, std=spread, a=-3 * spread, b=3 * spread)
    nn.init.zeros_(linear.bias)


@torch.no_grad()
def init_table(table: nn.Embedding, num_summed: int = 1) -> None:
    """Draw entries so that the sum of `num_summed` tables has unit variance, the scale of the positions."""
    nn.init.normal_(table.weight, std=num_summed**-0.5)


@dataclass(frozen=True)
class InitReport:
    """Names of tensors taken from another model, kept at their start, not wanted, and of another shape."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    mismatched: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        return {name: len(names) for name, names in vars(self).items()}

    def log(self, logger: logging.Logger, source: object) -> None:
        """List every parameter of each kind, so that nothing is left at random unseen."""
        for kind, names in vars(self).items():
            logger.info("from %s, %d %s: %s", source, len(names), kind, ", ".join(fold_names(names)) or "none")


def fold_names(names: Iterable[str]) -> list[str]:
    """Write names that differ in their first number alone as one: `heads.{1,2,3}.bias`."""
    folded: dict[tuple[str, str], list[str]] = {}
    for name in names:
        before, number, after = re.fullmatch(r"(\D*)(\d*)(.*)", name).groups()
        folded.setdefault((before, after), []).append(number)
    return [
        before + (numbers[0] if len(numbers) == 1 else "{" + ",".join(numbers) + "}") + after
        for (before, after), numbers in folded.items()
    ]


@torch.no_grad()
def load_matching(module: nn.Module, state: dict[str, Tensor]) -> InitReport:
    """Copy every tensor of `state` whose name and shape fit into `module` and say what happened to each."""
    own = module.state_dict()
    loaded = [name for name in own if name in state and state[name].shape == own[name].shape]
    mismatched = [name for name in own if name in state and state[name].shape != own[name].shape]
    for name in loaded:
        own[name].copy_(state[name])
    return InitReport(
        loaded=tuple(loaded),
        new=tuple(name for name in own if name not in state),
        unused=tuple(name for name in state if name not in own),
        mismatched=tuple(mismatched),
    )
