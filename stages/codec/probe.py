"""Is a low-rate block ignored? What a multi-resolution codec loses when a block is left out or held constant.

Blocks at low rates are prone to be ignored (section 4.2): the later ones can carry everything by themselves, and then
the language model that writes the first block's codes decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from stages.audio.stft import mel_distance
from stages.codec.base import Streams, StreamSpec, Teacher, pad_to_multiple
from stages.codec.mrvq import MRVQ, MultiResolutionCodec
from stages.codec.quantizer import Ranks
from stages.config.stage_configs import IgnoredBlockConfig
from stages.errors import DivergedError

log = logging.getLogger("halle.mreq")

FIRST_AVERAGED = "probe.block_1_averaged.mel_ratio"
EXPLAINED = "probe.first_block_explains"
CONSTANT_PERPLEXITY = 1.05  # codes this predictable carry nothing
PATIENCE = 2  # validations in a row


@torch.no_grad()
def probe_blocks(codec: MultiResolutionCodec, teacher: Teacher | None, batches: Iterable[Tensor]) -> dict[str, float]:
    """Return what each block is worth, over batches of waveforms [items, 1, samples] (of any length each).

        probe.only_first_S.mel            mel distance of what the decoder makes of h_S (equation 15)
        probe.block_K_averaged.mel_ratio  the factor by which it grows with c~_K replaced by its average over time
        probe.first_block_explains        share of the time-variance of the teacher's h_1 (equation 16) that c~_1 has,
                                          with a teacher

    Variances are of each utterance, added up over channels and utterances.
    """
    distances, samples = torch.zeros(2 * len(codec.mrvq.blocks)), 0
    unexplained = taught = torch.zeros(())
    for waveforms in batches:
        parts = block_contributions(codec.mrvq, codec.encode_all(waveforms))
        latents = [*_only_first(parts), *_one_averaged(parts)]
        distances += torch.stack([_distance(codec, each, waveforms) for each in latents]).cpu() * waveforms.numel()
        samples += waveforms.numel()
        if teacher is None:
            continue
        first = teacher.quantize(teacher.encode_latents(pad_to_multiple(waveforms, codec.alignment))).partial_sums[0]
        unexplained, taught = unexplained + _spread(first - parts[0]).cpu(), taught + _spread(first).cpu()
    only_first, averaged = (distances / samples).chunk(2)
    return {
        **{f"probe.only_first_{s}.mel": value for s, value in enumerate(only_first.tolist(), start=1)},
        **{f"probe.block_{k}_averaged.mel_ratio": value
           for k, value in enumerate((averaged / only_first[-1]).tolist(), start=1)},
        **({} if teacher is None else {EXPLAINED: float(1 - unexplained / taught)}),
    }


def block_contributions(mrvq: MRVQ, codes: Streams) -> list[Tensor]:
    """Return c~_1 .. c~_K, each [batch, dim, frames], of the codes that `encode_all` gives."""
    *inner, last = mrvq.blocks
    parts = [block.post.embed(codes[f"post{k}"]) for k, block in enumerate(inner, start=1)]
    return [*parts, last.pre.embed(codes[f"quant{len(mrvq.blocks)}"])]


def _only_first(parts: list[Tensor]) -> list[Tensor]:
    """h_1 .. h_K of equation 15."""
    return list(torch.stack(parts).cumsum(dim=0))


def _one_averaged(parts: list[Tensor]) -> list[Tensor]:
    whole = torch.stack(parts).sum(dim=0)
    return [whole - part + part.mean(dim=-1, keepdim=True) for part in parts]


def _distance(codec: MultiResolutionCodec, latents: Tensor, waveforms: Tensor) -> Tensor:
    estimate = codec.decode_latents(latents)[..., : waveforms.shape[-1]]
    return mel_distance(estimate, waveforms, codec.sample_rate).mean()


def _spread(latents: Tensor) -> Tensor:
    """Sum of the squared distances of latents [batch, dim, frames] from their average over time."""
    return (latents - latents.mean(dim=-1, keepdim=True)).square().sum()


def in_words(measures: Mapping[str, float]) -> str:
    """Return the probe in a line, for a log."""
    only = [f"{value:.3g}" for name, value in measures.items() if name.startswith("probe.only_first_")]
    ratios = [f"{value:.3g}" for name, value in measures.items() if name.endswith("_averaged.mel_ratio")]
    explained = (f"; the first explains {measures[EXPLAINED]:.1%} of the teacher's first codebook"
                 if EXPLAINED in measures else "")
    return (f"mel distance with the first 1, 2, .. blocks only {', '.join(only)}; with block 1, 2, .. averaged over "
            f"time x {', '.join(ratios)}{explained}")


class IgnoredBlockWatch(nn.Module):
    """Stops a run whose first block is ignored at `PATIENCE` validations in a row; a resumed run goes on counting."""

    in_a_row: Tensor

    def __init__(self, config: IgnoredBlockConfig):
        super().__init__()
        self.config = config
        self.register_buffer("in_a_row", torch.zeros((), dtype=torch.int64))

    def look(self, measures: Mapping[str, float], lowest: StreamSpec, step: int, ranks: Ranks) -> None:
        """Judge the measures of a validation. Raises DivergedError; all processes come to the same end."""
        perplexity = max(measures[f"perplexity.{lowest.name}.{index + 1}"] for index in range(lowest.num_codebooks))
        own = torch.tensor([measures[FIRST_AVERAGED] - 1, perplexity], device=self.in_a_row.device)
        rise, perplexity = (ranks.sum(own) / ranks.world_size).tolist()
        ignored = rise < self.config.least_mel_rise or perplexity < CONSTANT_PERPLEXITY
        if not ignored or step < self.config.from_step:
            self.in_a_row.zero_()
            return
        self.in_a_row += 1
        what = (f"the {lowest.frame_rate:g} Hz block is ignored: expected the mel distance to rise by at least "
                f"{self.config.least_mel_rise:.1%} with it held constant, got `{rise:.1%}` (perplexity of its codes: "
                f"`{perplexity:.3g}` of {lowest.codebook_size})")  # fmt: skip
        if self.config.stop and self.in_a_row >= PATIENCE:
            raise DivergedError(what, "start from a teacher that is trained longer, or raise `losses.fld` and "
                                "`losses.hsr`; `-O ignored_block.stop=false` goes on anyway")
        log.warning("step %d: %s", step, what)
