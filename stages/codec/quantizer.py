"""Vector quantization whose codebooks follow their vectors by exponential moving averages (EMA).

Differs from `encodec.quantization.core_vq` (encodec 0.1.1) where that one does not train as meant:
k-means centroids and revived codes survive the next EMA step (their count and sum are set with them),
every codebook sends a commitment gradient to the latents (residuals subtract detached embeddings, one
straight-through covers the whole stack), and EMA statistics are summed over processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stages.config.models import QuantizerConfig
from stages.errors import UsageError

# Convolutions and LSTMs in full fp32, as `nearest` is: TF32, which cuDNN takes by default, flips codes that lie near a
# border, and those of a prompt must be those that training would have read. Use as `with exact():`.
exact = partial(torch.backends.cudnn.flags, enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
ROWS_AT_ONCE = 4096  # rows of the distance matrix held in memory: 16 MiB at 1024 codes
SEED_STRIDE = 1_000_003  # keeps the seeds of (update, codebook) pairs apart


def _no_sum(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; `sum` adds a tensor up over all of them."""

    rank: int = 0
    world_size: int = 1
    sum: Callable[[Tensor], Tensor] = _no_sum


def current_ranks() -> Ranks:
    """Return torch.distributed's view of the processes, or a single one when it is not in use."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return Ranks()

    def add_up(tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    return Ranks(distributed.get_rank(), distributed.get_world_size(), add_up)


@dataclass(frozen=True)
class QuantizerOutput:
    """Codes and embeddings of latents [batch, dim, frames].

    `codes` is [batch, codebooks, frames]. `quantized` [batch, dim, frames] has exactly the embeddings' values and
    passes its gradient straight to the latents; `partial_sums` are the same of the first 1, 2, .. all codebooks.
    `commitment` [codebooks] is each codebook's mean squared distance from its input to its (detached) embedding.
    """

    codes: Tensor
    partial_sums: tuple[Tensor, ...]
    commitment: Tensor

    @property
    def quantized(self) -> Tensor:
        return self.partial_sums[-1]


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """Return the values of `quantized`, bit for bit, with the gradient of `latents`."""
    return quantized.detach() + (latents - latents.detach())


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the index [n] of the entry of `codebook` [size, dim] nearest to each of `vectors` [n, dim].

    At least float32 under any autocast: codes made by different runs must agree.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        offsets = codebook.pow(2).sum(dim=1) / -2
        parts = vectors.to(codebook.dtype).split(ROWS_AT_ONCE)
        # one pass over the products instead of two, and `max`, which on a CPU is faster than `argmax`
        return torch.cat([torch.addmm(offsets, part, codebook.T).max(dim=1).indices for part in parts])


def assignment_sums(vectors: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return how many vectors took each code [size] and their sums [size, dim]."""
    counts = torch.bincount(codes, minlength=size).to(vectors.dtype)
    sums = vectors.new_zeros(size, vectors.shape[1]).index_add_(0, codes, vectors)
    return counts, sums


@torch.no_grad()
def kmeans(vectors: Tensor, size: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return centroids [size, dim] and how many vectors [size] each has; stops early once nothing moves.

    A cluster that runs empty restarts from a random vector. `generator` lives on the CPU.
    """
    if len(vectors) < size:
        raise UsageError(
            f"k-means needs at least one vector a code: expected {size} vectors, got `{len(vectors)}`",
            hint="give more audio, or a smaller `codec.quantizer.codebook_size`",
        )
    centroids = vectors[torch.randperm(len(vectors), generator=generator)[:size].to(vectors.device)].clone()
    counts = torch.zeros(size, dtype=vectors.dtype, device=vectors.device)
    previous = None
    for _ in range(iterations):
        codes = nearest(vectors, centroids)
        if previous is not None and torch.equal(codes, previous):
            break
        counts, sums = assignment_sums(vectors, codes, size)
        restart = vectors[torch.randint(len(vectors), (size,), generator=generator).to(vectors.device)]
        means = sums / counts.clamp_min(1).unsqueeze(1)
        centroids = torch.where(counts.unsqueeze(1) > 0, means, restart)
        previous = codes
    return centroids, counts


def _draw(total: int, number: int, generator: torch.Generator) -> Tensor:
    """Draw `number` of `total` indices, none twice if there are enough.

    Of two equal entries rounding would decide which is the nearest, and that differs with the number of processes.
    """
    if total < number:
        return torch.randint(total, (number,), generator=generator)
    return torch.randperm(total, generator=generator)[:number]


def _fresh_statistics(entries: Tensor) -> dict[str, Tensor]:
    """Return the statistics of entries [size, dim] that nothing has moved yet: each stands for one vector."""
    size = len(entries)
    return {
        "ema_count": entries.new_ones(size),
        "ema_sum": entries.clone(),
        "recent_use": entries.new_zeros(size),
        "num_updates": entries.new_zeros((), dtype=torch.int64),
        "num_revived": entries.new_zeros((), dtype=torch.int64),
    }


class VectorQuantizer(nn.Module):
    """One codebook [codebook_size, dim], moved by EMA in training mode. `salt` separates codebooks' randomness."""

    codebook: Tensor
    initialised: Tensor
    ema_count: Tensor
    ema_sum: Tensor
    recent_use: Tensor  # as ema_count, without what k-means and revival count in advance
    num_updates: Tensor
    num_revived: Tensor
    training_only = ("ema_count", "ema_sum", "recent_use", "num_updates", "num_revived")  # no part of an export

    def __init__(self, dim: int, config: QuantizerConfig, salt: int = 0):
        super().__init__()
        self.config = config
        self.salt = salt
        entries = torch.randn(config.codebook_size, dim)
        self.register_buffer("codebook", entries)
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        for name, tensor in _fresh_statistics(entries).items():
            self.register_buffer(name, tensor)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        """Load; what an export leaves out becomes what it is for new entries."""
        entries = state_dict.get(f"{prefix}codebook")
        for name, tensor in _fresh_statistics(entries).items() if entries is not None else ():
            state_dict.setdefault(prefix + name, tensor)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def encode(self, vectors: Tensor) -> Tensor:
        """Return codes [n] of vectors [n, dim]; never moves the codebook."""
        return nearest(vectors, self.codebook)

    def embed(self, codes: Tensor) -> Tensor:
        """Return embeddings [..., dim] of codes [...]."""
        return nn.functional.embedding(codes, self.codebook)

    @torch.no_grad()
    def set_entries(self, entries: Tensor, counts: Tensor | None = None) -> None:
        """Start from `entries` [size, dim]; `counts` [size] is how much use each stands for (1 when not given).

        The sum is entry * count, so that the first EMA step moves an entry instead of replacing it.
        """
        counts = torch.ones_like(self.ema_count) if counts is None else counts.clamp_min(1)
        self.codebook.copy_(entries)
        self.ema_count.copy_(counts)
        self.ema_sum.copy_(self.codebook * self.ema_count.unsqueeze(1))
        self.initialised.fill_(True)

    @torch.no_grad()
    def initialise(self, vectors: Tensor, seed: int = 0, ranks: Ranks | None = None) -> None:
        """Start from the k-means centroids of vectors [n, dim], drawing `kmeans_vectors_per_code` for each code.

        Every rank ends with the first rank's centroids. Raises UsageError when there are fewer vectors than codes.
        """
        ranks = ranks or current_ranks()
        generator = torch.Generator().manual_seed(seed * SEED_STRIDE + self.salt)
        vectors = vectors.to(self.codebook.dtype)
        wanted = self.config.kmeans_vectors_per_code * self.config.codebook_size
        if len(vectors) > wanted:
            vectors = vectors[torch.randperm(len(vectors), generator=generator)[:wanted].to(vectors.device)]
        found = kmeans(vectors, self.config.codebook_size, self.config.kmeans_iterations, generator)
        share = 1.0 if ranks.rank == 0 else 0.0
        centroids, counts = (ranks.sum(tensor * share) for tensor in found)
        self.set_entries(centroids, counts)

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, ranks: Ranks | None = None) -> None:
        """Move the codebook by one EMA step towards vectors [n, dim] with codes [n] of all ranks; revive dead codes.

        Vectors that are not finite move nothing: the loop skips their step, and the codebook must outlive it.
        """
        ranks = ranks or current_ranks()
        vectors = vectors.to(self.codebook.dtype)
        counts, sums = assignment_sums(vectors, codes, self.config.codebook_size)
        packed = ranks.sum(torch.cat([counts.unsqueeze(1), sums], dim=1))
        finite = packed.isfinite().all()
        packed = torch.where(finite, packed, 0)
        weight = finite.to(packed.dtype) * (1 - self.config.decay)
        self.ema_count.lerp_(packed[:, 0], weight)
        self.ema_sum.lerp_(packed[:, 1:], weight)
        self.recent_use.lerp_(packed[:, 0], weight)
        self.codebook.copy_(self.ema_sum / self._smoothed_count().unsqueeze(1))
        self._revive_dead_codes(vectors, finite, ranks)
        self.num_updates += 1

    def _smoothed_count(self) -> Tensor:
        """Laplace smoothing, as upstream: no division by a count that has died away."""
        total, size, epsilon = self.ema_count.sum(), self.config.codebook_size, self.config.epsilon
        return (self.ema_count + epsilon) * total / (total + size * epsilon)

    def _revive_dead_codes(self, vectors: Tensor, finite: Tensor, ranks: Ranks) -> None:
        """Move codes used less than `dead_code_ratio` of the expected use to random vectors of this step.

        The threshold is relative: an 8 Hz stream brings about one vector a code and step, a 48 Hz one six times more.
        A revived code gets the expected count, so it has about ln(ratio) / ln(decay) steps to find users. Vectors that
        are not `finite`, of any rank, revive none.
        """
        expected = self.ema_count.mean()
        dead = (self.ema_count < self.config.dead_code_ratio * expected) & finite
        self.num_revived += dead.sum()
        if not dead.any():
            return
        candidates = self._draw_vectors(vectors, ranks)
        self.codebook.copy_(torch.where(dead.unsqueeze(1), candidates, self.codebook))
        self.ema_count.copy_(torch.where(dead, expected, self.ema_count))
        self.ema_sum.copy_(torch.where(dead.unsqueeze(1), candidates * expected, self.ema_sum))

    def _draw_vectors(self, vectors: Tensor, ranks: Ranks) -> Tensor:
        """Return one random vector a code [size, dim] of all ranks' vectors, the same on every rank.

        The generator is seeded by the saved update counter, so a resumed run draws what the first would have.
        """
        per_rank = torch.zeros(ranks.world_size, dtype=torch.int64, device=vectors.device)
        per_rank[ranks.rank] = len(vectors)
        per_rank = ranks.sum(per_rank)
        first = int(per_rank[: ranks.rank].sum())
        generator = torch.Generator().manual_seed(int(self.num_updates) * SEED_STRIDE + self.salt)
        drawn = _draw(int(per_rank.sum()), self.config.codebook_size, generator)
        local = drawn.to(vectors.device) - first
        mine = (local >= 0) & (local < len(vectors))
        return ranks.sum(vectors[local.clamp(0, len(vectors) - 1)] * mine.unsqueeze(1))


class ResidualQuantizer(nn.Module):
    """A stack of codebooks, each quantizing what the ones before left over (equations 1 to 3)."""

    def __init__(self, dim: int, num_codebooks: int, config: QuantizerConfig, salt: int = 0):
        super().__init__()
        self.dim = dim
        self.num_codebooks = num_codebooks
        self.codebook_size = config.codebook_size
        self.codebooks = nn.ModuleList(VectorQuantizer(dim, config, salt + index) for index in range(num_codebooks))

    @property
    def initialised(self) -> bool:
        """Whether every codebook has left its random start."""
        return all(bool(codebook.initialised) for codebook in self.codebooks)

    def forward(self, latents: Tensor, ranks: Ranks | None = None) -> QuantizerOutput:
        """Quantize latents [batch, dim, frames]; in training mode every codebook takes one EMA step."""
        rows = self._rows(latents)
        residual, total = rows, torch.zeros_like(rows)
        codes, sums, commitment = [], [], []
        for codebook in self.codebooks:
            found = codebook.encode(residual.detach())
            embedded = codebook.embed(found)
            commitment.append(nn.functional.mse_loss(residual, embedded))
            if self.training:
                codebook.update(residual.detach(), found, ranks)
            residual, total = residual - embedded, total + embedded
            codes.append(found)
            sums.append(total)
        latents = latents.to(rows.dtype)
        passed = tuple(straight_through(latents, _columns(each, len(latents))) for each in sums)
        return QuantizerOutput(_stack_codes(codes, len(latents)), passed, torch.stack(commitment))

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Return codes [batch, codebooks, frames] of latents [batch, dim, frames]; never moves a codebook."""
        residual, codes = self._rows(latents), []
        for codebook in self.codebooks:
            codes.append(codebook.encode(residual))
            residual = residual - codebook.embed(codes[-1])
        return _stack_codes(codes, len(latents))

    def embed(self, codes: Tensor) -> Tensor:
        """Return the summed embeddings [batch, dim, frames] of codes [batch, n, frames] of the first n codebooks."""
        return self.partial_sums(codes)[-1]

    def partial_sums(self, codes: Tensor) -> tuple[Tensor, ...]:
        """Return the sums after 1, 2, .. n codebooks, each [batch, dim, frames] (h_t of equation 16)."""
        sums: list[Tensor] = []
        for index in range(codes.shape[1]):
            embedded = self.embed_codebook(index, codes[:, index])
            sums.append(sums[-1] + embedded if sums else embedded)
        return tuple(sums)

    def codebook(self, index: int) -> Tensor:
        """Return the entries [codebook_size, dim] of codebook `index` (0-based)."""
        return self.codebooks[index].codebook

    def embed_codebook(self, index: int, codes: Tensor) -> Tensor:
        """Return embeddings [batch, dim, frames] of codes [batch, frames] of codebook `index` (0-based)."""
        return self.codebooks[index].embed(codes).transpose(1, 2)

    @torch.no_grad()
    def initialise(self, vectors: Tensor, seed: int = 0, ranks: Ranks | None = None) -> None:
        """Start every codebook, in order, from k-means on what the ones before leave of vectors [n, dim]."""
        residual = vectors.to(self.codebooks[0].codebook.dtype)
        for codebook in self.codebooks:
            codebook.initialise(residual, seed, ranks)
            residual = residual - codebook.embed(codebook.encode(residual))

    def _rows(self, latents: Tensor) -> Tensor:
        """[batch, dim, frames] -> [batch * frames, dim], in the codebooks' own precision."""
        return latents.transpose(1, 2).reshape(-1, self.dim).to(self.codebooks[0].codebook.dtype)


def _columns(rows: Tensor, batch: int) -> Tensor:
    """[batch * frames, dim] -> [batch, dim, frames]."""
    return rows.view(batch, -1, rows.shape[1]).transpose(1, 2)


def _stack_codes(codes: list[Tensor], batch: int) -> Tensor:
    """Codes [batch * frames] of each codebook -> [batch, codebooks, frames]."""
    return torch.stack([rows.view(batch, -1) for rows in codes], dim=1)
