"""From coarse codes to the complete feature, level by level: VALL-E's hierarchy and HALL-E's.

    level            1            2            ...  num_levels
    plain            codebook 2   codebook 3   ...  codebook 8          of `rvq`
    multi-resolution pre2 [0]     pre2 [1]     pre3 [0] ... quant4 [2]   (Table 1)

A feature is always the sum, in the same order, of the embeddings of codes, whether those were
predicted or read from a token store: true codes give exactly the features of training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.codec.base import BlockCodes, RefinementState, Streams, StreamSpec
from stages.codec.quantizer import ResidualQuantizer

if TYPE_CHECKING:
    from stages.codec.mrvq import MRVQ


def keep_fixed(codes: Tensor, fixed: Tensor | None) -> Tensor:
    """Return codes [batch, n, frames] with the first frames replaced by those of `fixed` [batch, >= n, fewer]."""
    if fixed is None:
        return codes
    frames = fixed.shape[-1]
    return torch.cat([fixed[:, : codes.shape[1]], codes[..., frames:]], dim=-1)


def append_codes(streams: Streams, name: str, codes: Tensor) -> Streams:
    """Return the streams with one more codebook, codes [batch, frames], at the end of stream `name`."""
    found = streams.get(name)
    one = codes.unsqueeze(1)
    return {**streams, name: one if found is None else torch.cat([found, one], dim=1)}


def beginning_with(known: Tensor, feature: Tensor) -> Tensor:
    """Return a feature [batch, dim, frames] with its first frames replaced by the known ones [batch, dim, fewer]."""
    return torch.cat([known, feature[..., known.shape[-1] :]], dim=-1)


def mean_entries(probabilities: Tensor, codebook: Tensor, fixed: Tensor | None) -> Tensor:
    """Return the mean [batch, dim, frames] of entries [size, dim] under probabilities [batch, frames, size].

    The first frames have the entries of `fixed` [batch, fewer frames] instead.
    """
    means = (probabilities @ codebook).transpose(1, 2)
    return means if fixed is None else beginning_with(F.embedding(fixed, codebook).transpose(1, 2), means)


class PlainHierarchy:
    """VALL-E: the AR model gives codebook 1 of `rvq`, level l is codebook l + 1 (equations 4 to 6)."""

    def __init__(self, quantizer: ResidualQuantizer, stream: StreamSpec):
        self._quantizer = quantizer
        self._name = stream.name
        self.num_levels = quantizer.num_codebooks - 1
        self.latent_dim = quantizer.dim
        self.codebook_size = quantizer.codebook_size
        self.frame_rate = stream.frame_rate
        self.lowest = StreamSpec(
            stream.name, stream.role, 1, stream.frame_rate, stream.hop_length, stream.codebook_size
        )

    def start(self, lowest: Tensor, prompt: Streams | None = None, means: Tensor | None = None) -> RefinementState:
        fixed = prompt or {}
        streams = {self._name: keep_fixed(lowest, fixed.get(self._name))}
        feature = self.teacher_feature(streams, 1) if means is None else means
        if means is not None and fixed:
            feature = beginning_with(self.teacher_feature(fixed, 1), feature)
        return RefinementState(1, feature, streams, fixed)

    def accept(self, state: RefinementState, codes: Tensor) -> RefinementState:
        streams = append_codes(state.streams, self._name, codes)
        streams[self._name] = keep_fixed(streams[self._name], state.fixed.get(self._name))
        level = state.level + 1
        return RefinementState(level, self.teacher_feature(streams, level), streams, state.fixed)

    def expect(self, state: RefinementState, probabilities: Tensor) -> RefinementState:
        fixed = self.level_codes(state.fixed, state.level) if state.fixed else None
        means = mean_entries(probabilities, self._quantizer.codebook(state.level), fixed)
        return replace(self.accept(state, probabilities.argmax(-1)), feature=state.feature + means)

    @torch.no_grad()
    def teacher_feature(self, streams: Streams, level: int) -> Tensor:
        return self._quantizer.embed(streams[self._name][:, :level])

    def levels_in(self, streams: Streams) -> int:
        return streams[self._name].shape[1] - 1

    def level_codes(self, streams: Streams, level: int) -> Tensor:
        return streams[self._name][:, level]

    def level_codebooks(self) -> list[Tensor]:
        return [self._quantizer.codebook(level) for level in range(1, self.num_levels + 1)]

    def lowest_codebooks(self) -> list[Tensor]:
        return [self._quantizer.codebook(0)]


class MultiResolutionHierarchy:
    """HALL-E: the AR model gives `quant1`; levels are the PreQ codebooks of blocks 2..K (section 5).

    At the end of each block k < K its transmitted codes are Quant(E(a~)) and its contribution to the feature is
    PostQ(D(b~)), both over the whole sequence. The ablations of Table 10 do with fewer of the codec's modules:

    `block_codes`    predicted    a finished block 2 <= k < K adds    and gives
    both             PreQ         PostQ                               quant = Quant(E(a~)), post = PostQ(D(b~))
    pre              PreQ         PreQ                                quant = Quant(E(a~))
    post             PostQ        PostQ                               no quant: `MRVQ.decode` goes by post

    Block 1 always adds its PostQ: its PreQ is not known when the AR model has written `quant1`.
    """

    def __init__(self, mrvq: MRVQ, lowest: StreamSpec, frame_rate: float, block_codes: BlockCodes = "both"):
        self._mrvq = mrvq
        self._codes = block_codes
        blocks = mrvq.config.blocks
        self.latent_dim = mrvq.dim
        self.codebook_size = mrvq.codebook_size
        self.frame_rate = frame_rate
        self.lowest = lowest
        self._last = len(blocks)
        self._predicted = "post" if block_codes == "post" else "pre"
        # (block, codebook) of each level; blocks count from 1 as in the paper
        self._levels = [(k, index) for k in range(2, self._last + 1) for index in range(self._num_predicted(k))]
        self.num_levels = len(self._levels)

    def _num_predicted(self, block: int) -> int:
        return self._quantizer(self._target(block), block).num_codebooks

    def _target(self, block: int) -> str:
        """The stream that holds what is predicted of `block`: the last block's PreQ is what it transmits."""
        return f"quant{block}" if block == self._last else f"{self._predicted}{block}"

    def _finished(self, block: int) -> str:
        """The stream whose embeddings a block before the last adds to the feature."""
        return f"pre{block}" if self._codes == "pre" and block > 1 else f"post{block}"

    def _quantizer(self, stream: str, block: int) -> ResidualQuantizer:
        own = self._mrvq.blocks[block - 1]
        return own.post if stream.startswith("post") else own.pre

    @torch.no_grad()
    def start(self, lowest: Tensor, prompt: Streams | None = None, means: Tensor | None = None) -> RefinementState:
        fixed = prompt or {}
        streams = self._expand(1, {"quant1": keep_fixed(lowest, fixed.get("quant1"))}, fixed)
        feature = self.teacher_feature(streams, 1) if means is None else self._mrvq.blocks[0].sub_decoder(means)
        if means is not None and fixed:
            feature = beginning_with(self.teacher_feature(fixed, 1), feature)
        return RefinementState(1, feature, streams, fixed)

    def accept(self, state: RefinementState, codes: Tensor) -> RefinementState:
        block, _ = self._levels[state.level - 1]
        name = self._target(block)
        streams = append_codes(state.streams, name, codes)
        streams[name] = keep_fixed(streams[name], state.fixed.get(name))
        if self._finishes(state.level) and block < self._last:
            if self._codes != "post":
                streams = self._requantize(block, streams, state.fixed)
            if self._codes == "both":
                streams = self._expand(block, streams, state.fixed)
        level = state.level + 1
        return RefinementState(level, self.teacher_feature(streams, level), streams, state.fixed)

    def _part(self, state: RefinementState, block: int, codebook: int) -> Tensor:
        """Return what the first codebooks of a block have added: means, or else the entries of their codes."""
        return self._embed(self._target(block), block, state.streams, codebook) if state.part is None else state.part

    def _finishes(self, level: int) -> bool:
        block, codebook = self._levels[level - 1]
        return codebook + 1 == self._num_predicted(block)

    @torch.no_grad()
    def expect(self, state: RefinementState, probabilities: Tensor) -> RefinementState:
        block, codebook = self._levels[state.level - 1]
        entries = self._quantizer(self._target(block), block).codebook(codebook)
        fixed = self.level_codes(state.fixed, state.level) if state.fixed else None
        means = mean_entries(probabilities, entries, fixed)
        part = means if codebook == 0 else self._part(state, block, codebook) + means
        feature, after = state.feature + means, self.accept(state, probabilities.argmax(-1))
        if self._finishes(state.level) and block < self._last and self._codes == "both":
            feature = feature - part + self._mrvq.blocks[block - 1].resampled(part)
            if state.fixed:
                feature = beginning_with(self.teacher_feature(state.fixed, after.level), feature)
        return replace(after, feature=feature, part=part)

    @torch.no_grad()
    def teacher_feature(self, streams: Streams, level: int) -> Tensor:
        complete = level > self.num_levels
        block, codebooks = (self._last, None) if complete else self._levels[level - 1]
        feature = self._embed(self._finished(1), 1, streams)
        for k in range(2, block):
            feature = feature + self._embed(self._finished(k), k, streams)
        if codebooks == 0:
            return feature
        return feature + self._embed(self._target(block), block, streams, codebooks)

    def _embed(self, stream: str, block: int, streams: Streams, codebooks: int | None = None) -> Tensor:
        return self._quantizer(stream, block).embed(streams[stream][:, :codebooks])

    def levels_in(self, streams: Streams) -> int:
        held = [self._target(block) in streams and streams[self._target(block)].shape[1] > codebook
                for block, codebook in self._levels]
        return (*held, False).index(False)

    def level_codes(self, streams: Streams, level: int) -> Tensor:
        block, codebook = self._levels[level - 1]
        return streams[self._target(block)][:, codebook]

    def level_codebooks(self) -> list[Tensor]:
        return [self._quantizer(self._target(block), block).codebook(index) for block, index in self._levels]

    def lowest_codebooks(self) -> list[Tensor]:
        quantizer = self._mrvq.blocks[0].quant
        return [quantizer.codebook(index) for index in range(quantizer.num_codebooks)]

    def _requantize(self, block: int, streams: Streams, fixed: Streams) -> Streams:
        """Add b_k = Quant(E(a~_k)) of equation 12."""
        codes = self._mrvq.blocks[block - 1].quant_codes(streams[f"pre{block}"])
        return {**streams, f"quant{block}": keep_fixed(codes, fixed.get(f"quant{block}"))}

    def _expand(self, block: int, streams: Streams, fixed: Streams) -> Streams:
        """Add c_k = PostQ(D(b~_k)) of equation 13."""
        codes = self._mrvq.blocks[block - 1].post_codes(streams[f"quant{block}"])
        return {**streams, f"post{block}": keep_fixed(codes, fixed.get(f"post{block}"))}
