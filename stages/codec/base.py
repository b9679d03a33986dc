"""What a codec is to everyone else: waveforms to named streams of codes and back.

A *stream* is a group of codebooks at one frame rate. A plain residual-VQ codec has one, `rvq`.
A multi-resolution codec of K blocks transmits `quant1..quantK`; `pre2..pre(K-1)` are targets and
`post1..post(K-1)` inputs of the NAR model (the last block has only its PreQ, stored once as `quantK`).
Language models see codecs through this file only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from stages.errors import UsageError

Role = Literal["transmitted", "target", "input"]
BlockCodes = Literal["both", "pre", "post"]  # what the NAR model reads and predicts of a block: see NARConfig
Streams = dict[str, Tensor]  # name -> codes [batch, codebooks, frames]


@dataclass(frozen=True)
class StreamSpec:
    """A named group of codebooks at one frame rate (Hz). `hop_length` is in samples a frame."""

    name: str
    role: Role
    num_codebooks: int
    frame_rate: float
    hop_length: int
    codebook_size: int

    @property
    def bits_per_second(self) -> float:
        """Bits a second if this stream is transmitted, else 0."""
        if self.role != "transmitted":
            return 0.0
        return self.num_codebooks * self.frame_rate * (self.codebook_size - 1).bit_length()


@dataclass(frozen=True)
class RefinementState:
    """Where a refinement stands: the next level to predict (1-based) and the feature to predict it from.

    `feature` is [batch, latent_dim, frames] at the latent rate. `streams` holds the codes found so far;
    when `level` exceeds `num_levels` it holds every transmitted stream. `fixed` holds the prompt's codes.
    `part` is what the current block has added to the feature so far, when its levels are means
    (`TokenHierarchy.expect`).
    """

    level: int
    feature: Tensor
    streams: Streams
    fixed: Streams
    part: Tensor | None = None


class TokenHierarchy(Protocol):
    """How coarse codes are refined level by level; the frozen codec modules that this takes are inside.

    Levels are numbered 1..num_levels; level num_levels + 1 stands for the complete feature.
    """

    num_levels: int
    latent_dim: int
    codebook_size: int
    frame_rate: float  # of levels and features, Hz
    lowest: StreamSpec  # what the AR model generates (one codebook of `rvq` for a plain codec)

    def start(self, lowest: Tensor, prompt: Streams | None = None, means: Tensor | None = None) -> RefinementState:
        """Begin from the AR's codes [batch, lowest codebooks, lowest frames], prompt frames included.

        `prompt`, when given, holds every stream of the prompt (which starts the sequence); its codes stay as
        they are wherever a refinement would have computed others. `means` [batch, latent_dim, lowest frames], such as
        an expectation over codes, make the feature behind the prompt in place of the entries of `lowest`, as `expect`
        has it.
        """
        ...

    def accept(self, state: RefinementState, codes: Tensor) -> RefinementState:
        """Take the codes [batch, frames] of level `state.level` for the whole sequence."""
        ...

    def expect(self, state: RefinementState, probabilities: Tensor) -> RefinementState:
        """Take probabilities [batch, frames, codebook_size] of the codes of level `state.level` instead of codes.

        The feature grows by the mean of the entries, unquantized where a finished block would be quantized again;
        the streams by the likeliest codes. Frames of the prompt are as `accept` has them.
        """
        ...

    def teacher_feature(self, streams: Streams, level: int) -> Tensor:
        """Return the feature [batch, latent_dim, frames] from which `level` is predicted, out of true codes."""
        ...

    def levels_in(self, streams: Streams) -> int:
        """Return how many of the first levels `streams` hold."""
        ...

    def level_codes(self, streams: Streams, level: int) -> Tensor:
        """Return the true codes [batch, frames] of `level`: what the NAR model must predict."""
        ...

    def level_codebooks(self) -> list[Tensor]:
        """Return the entries [codebook_size, latent_dim] that the codes of each level stand for."""
        ...

    def lowest_codebooks(self) -> list[Tensor]:
        """Return the entries [codebook_size, latent_dim] of each codebook of `lowest`."""
        ...


class Codec(nn.Module, ABC):
    """Encode waveforms [batch, 1, samples] in -1..1 into streams of codes, and decode them."""

    sample_rate: int
    hop_length: int
    latent_dim: int
    streams: tuple[StreamSpec, ...]
    hierarchy: TokenHierarchy

    @property
    @abstractmethod
    def alignment(self) -> int:
        """Samples after which every stream's frames line up; `encode` zero-pads up to a multiple of it."""

    def refine_by(self, block_codes: BlockCodes) -> None:
        """Choose what `hierarchy` reads and predicts of a block from now on; only codecs of several blocks have it."""
        if block_codes != "both":
            raise UsageError(f"expected block_codes `both` for a codec without blocks, got `{block_codes}`",
                             "PreQ and PostQ are parts of a `halle mreq` codec")

    @abstractmethod
    def encode(self, waveform: Tensor) -> Streams:
        """Return codes of every stream for [batch, 1, samples]."""

    def encode_all(self, waveform: Tensor) -> Streams:
        """Return the codes of every codebook, also of those that are in no stream."""
        return self.encode(waveform)

    @abstractmethod
    def decode(self, streams: Streams, num_samples: int | None = None) -> Tensor:
        """Return [batch, 1, samples] from the transmitted streams, cut to `num_samples` when given."""

    @abstractmethod
    def export_config(self) -> dict:
        """Return the JSON-ready architecture from which `load_codec` builds this codec again."""

    @property
    def transmitted(self) -> tuple[StreamSpec, ...]:
        return tuple(spec for spec in self.streams if spec.role == "transmitted")

    @property
    def bits_per_second(self) -> float:
        """Bit rate of the transmitted streams: 3840 for the paper's codecs."""
        return sum(spec.bits_per_second for spec in self.streams)

    def stream(self, name: str) -> StreamSpec:
        """Return the spec of the stream called `name`."""
        return next(spec for spec in self.streams if spec.name == name)


@dataclass(frozen=True)
class TeacherCodes:
    """What a teacher's quantizer says of latents [batch, latent_dim, frames].

    `codes` is [batch, codebooks, frames]; `partial_sums[t - 1]` is h_t of equation 16, the sum of the
    embeddings of the first t codebooks, [batch, latent_dim, frames].
    """

    codes: Tensor
    partial_sums: tuple[Tensor, ...]


class Teacher(Protocol):
    """What `mreq` needs of any residual-VQ codec. `decode_latents` is differentiable."""

    sample_rate: int
    hop_length: int
    latent_dim: int
    num_codebooks: int
    codebook_size: int

    def encode_latents(self, waveform: Tensor) -> Tensor: ...

    def decode_latents(self, latents: Tensor) -> Tensor: ...

    def quantize(self, latents: Tensor) -> TeacherCodes: ...

    def codebook(self, index: int) -> Tensor:
        """Return the entries [codebook_size, latent_dim] of codebook `index` (0-based)."""
        ...


def pad_to_multiple(waveform: Tensor, multiple: int) -> Tensor:
    """Zero-pad [..., samples] at the end to a multiple of `multiple` samples."""
    missing = -waveform.shape[-1] % multiple
    return torch.nn.functional.pad(waveform, (0, missing))


def check_waveform(waveform: Tensor) -> None:
    """Refuse what is not [batch, 1, samples] with at least one sample."""
    if waveform.dim() != 3 or waveform.shape[1] != 1 or waveform.shape[2] == 0:
        raise UsageError(
            f"expected a waveform [batch, 1, samples] of at least one sample, got `{list(waveform.shape)}`",
            hint="give mono audio that is not empty",
        )
