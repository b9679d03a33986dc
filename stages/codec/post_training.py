"""What `mreq` decides before it trains: which student, which weights, from how many blocks a crop is decoded."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from stages.codec.dropout import depth_shares
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.quantizer import Ranks, ResidualQuantizer
from stages.codec.registry import PlainCodec, load_codec
from stages.config.stage_configs import MReQConfig
from stages.errors import UsageError

log = logging.getLogger("halle.mreq")


class Clips(Protocol):
    """Where crops of waveforms come from; `stages.data` has them."""

    crop_samples: int

    def batches(self, step: int, num_crops: int) -> Iterator[Tensor]:
        """Yield [items, 1, crop_samples] until there were `num_crops`."""
        ...


def going_on(config: MReQConfig) -> tuple[MReQConfig, MultiResolutionCodec]:
    """Return the codec after --init, and the settings with its blocks."""
    codec = load_codec(config.init)
    if not isinstance(codec, MultiResolutionCodec):
        raise UsageError(f"expected a codec that `halle mreq` made after --init, got `{config.init}`, which is plain",
                         "give a plain codec as --teacher")
    if config.rates or config.alphas:
        raise UsageError("expected no --rates and no --alphas beside --init: the blocks are those of its codec",
                         "leave them out, or start from a teacher")
    if (config.init_autoencoder, config.init_codebooks) != ("teacher", "teacher"):
        raise UsageError("expected no init_autoencoder and no init_codebooks beside --init: both are its codec's",
                         "leave them out, or start from a teacher")
    return config.model_copy(update={"mrvq": codec.config.mrvq}), codec


def with_finer_first_block(config: MReQConfig) -> MReQConfig:
    """Return the settings whose first block has `first_block_codebooks` in its PreQ and PostQ."""
    if config.first_block_codebooks is None:
        return config
    first, *others = config.mrvq.blocks
    finer = first.model_copy(update={"pre": config.first_block_codebooks, "post": config.first_block_codebooks})
    return config.model_copy(update={"mrvq": config.mrvq.model_copy(update={"blocks": (finer, *others)})})


def student_of(config: MReQConfig, source: PlainCodec | MultiResolutionCodec) -> MultiResolutionCodec:
    """Return the codec to train: a plain one's successor (section 4.2), or what goes on from a multi-resolution one.

    Quantizers that have another number of codebooks there are left to be started.
    """
    if not isinstance(source, MultiResolutionCodec):
        return MultiResolutionCodec.from_teacher(source, config.mrvq, config.init_codebooks, config.init_autoencoder)
    student = MultiResolutionCodec(source.config.model_copy(update={"mrvq": config.mrvq}),
                                   copy.deepcopy(source.autoencoder))
    for ours, theirs in zip(student.mrvq.blocks, source.mrvq.blocks, strict=True):
        for name, part in theirs.named_children():
            own = getattr(ours, name)
            if not isinstance(part, ResidualQuantizer) or part.num_codebooks == own.num_codebooks:
                own.load_state_dict(part.state_dict())
    return student.requires_grad_(True)


def check_bit_rate(student: MultiResolutionCodec, source: PlainCodec | MultiResolutionCodec) -> dict[str, float]:
    """Return the bit rates of both, from the streams; warn when they differ, which the paper's blocks do not."""
    ours, theirs = student.bits_per_second, source.bits_per_second
    if ours != student.config.bits_per_second:
        raise AssertionError(f"streams carry {ours} bit/s, the blocks say {student.config.bits_per_second}")
    log.info("bit rate %g bit/s, teacher %g; lowest %g Hz", ours, theirs, student.streams[0].frame_rate)
    if ours != theirs:
        log.warning("the student's bit rate %g bit/s differs from the teacher's %g bit/s", ours, theirs)
    return {"bits_per_second": ours, "teacher_bits_per_second": theirs}


@torch.no_grad()
def start_codebooks(student: MultiResolutionCodec, clips: Clips, config: MReQConfig, device: torch.device,
                    ranks: Ranks) -> None:  # fmt: skip
    """Start from k-means the codebooks that have no entries yet (or all of a teacher's that shall not be kept).

    The lowest block needs as many vectors as any, at its own rate.
    """
    how = "teacher" if config.init else config.init_codebooks
    if how == "teacher" and all(found.initialised for found in student.mrvq.quantizers().values()):
        return
    quantizer = student.config.quantizer
    frames = quantizer.kmeans_vectors_per_code * quantizer.codebook_size * config.mrvq.blocks[0].stride
    num_clips = -(-frames * student.hop_length // clips.crop_samples)
    parts = [student.encode_latents(part.to(device)) for part in clips.batches(0, num_clips)]
    student.mrvq.initialise(torch.cat(parts), how, config.seed, ranks)
    log.info("codebooks of %d blocks start from %d crops", config.mrvq.num_blocks, num_clips)


def fld_weights(config: MReQConfig) -> tuple[float, ...]:
    """Return the weight of every pair of equation 14."""
    return _each(config.losses.fld, len(config.mrvq.fld_pairs), "losses.fld", "student-teacher pair")


def hsr_weights(config: MReQConfig) -> tuple[float, ...]:
    """Return the weight of every block of equation 17 but the last, whose term is zero."""
    return _each(config.losses.hsr, config.mrvq.num_blocks - 1, "losses.hsr", "block but the last")


def _each(weights: tuple[float, ...] | float, number: int, key: str, what: str) -> tuple[float, ...]:
    found = weights if isinstance(weights, tuple) else (weights,) * number
    if len(found) != number:
        raise UsageError(f"expected one weight for each {what} ({number}) in `{key}`, got `{len(found)}`",
                         f"give one number for all, or {number}")  # fmt: skip
    return found


def block_shares(config: MReQConfig) -> tuple[float, ...]:
    """Return how many of the crops are decoded from the first 1, 2, .. all blocks: shares that sum up to 1."""
    return depth_shares(config.block_dropout, config.mrvq.num_blocks, "block_dropout", "blocks")
