"""Multi-resolution residual vector quantization (MRVQ, section 4, Table 1).

    x_0 = latents at 48 Hz                         h = c~_1 + c~_2 + c~_3 + c~_4 -> decoder
     |
    block k:  a = PreQ(x)   b = Quant(E(a~))   c = PostQ(D(b~))      x <- x - c~
              48 Hz         8, 16, 24 Hz       48 Hz
    the last block is its PreQ alone: c = b = a

Only b is transmitted. PreQ and PostQ exist to give the NAR model targets and inputs at the latent rate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.codec.base import BlockCodes, Codec, Streams, StreamSpec, Teacher, check_waveform, pad_to_multiple
from stages.codec.hierarchy import MultiResolutionHierarchy
from stages.codec.quantizer import Ranks, ResidualQuantizer, exact
from stages.codec.resampling import SubDecoder, SubEncoder
from stages.codec.residual import AUTOENCODERS, build_autoencoder
from stages.config.models import BlockConfig, CodecConfig, MRVQConfig, QuantizerConfig
from stages.errors import UsageError

InitCodebooks = Literal["teacher", "kmeans"]
CLIPS_AT_ONCE = 32  # clips that go through a sub-encoder together while codebooks are initialised


@dataclass(frozen=True)
class BlockOutput:
    """One block's results for latents [batch, dim, frames].

    `codes` and `commitments` are keyed `pre`, `quant`, `post` (the last block: `pre`). `quantized` is c~ with the
    straight-through gradient. `pre_target` is a~, detached, and `reconstruction` D(b~): the HSR pair of equation 17.
    """

    codes: dict[str, Tensor]
    commitments: dict[str, Tensor]
    quantized: Tensor
    pre_target: Tensor | None = None
    reconstruction: Tensor | None = None


class LRVQBlock(nn.Module):
    """One low frame-rate block (Definition 2); the last of an MRVQ has a PreQ only."""

    def __init__(self, dim: int, block: BlockConfig, config: MRVQConfig, quantizer: QuantizerConfig, salt: int):
        super().__init__()
        self.is_last = block.quant == 0
        self.pre = ResidualQuantizer(dim, block.pre, quantizer, salt)
        if self.is_last:
            return
        self.sub_encoder = SubEncoder(dim, block.stride, config)
        self.quant = ResidualQuantizer(dim, block.quant, quantizer, salt + block.pre)
        self.sub_decoder = SubDecoder(dim, block.stride, config)
        self.post = ResidualQuantizer(dim, block.post, quantizer, salt + block.pre + block.quant)

    def forward(self, latents: Tensor, ranks: Ranks | None = None) -> BlockOutput:
        pre = self.pre(latents, ranks)
        if self.is_last:
            return BlockOutput({"pre": pre.codes}, {"pre": pre.commitment}, pre.quantized)
        quant = self.quant(self.sub_encoder(pre.quantized), ranks)
        reconstruction = self.sub_decoder(quant.quantized)
        post = self.post(reconstruction, ranks)
        parts = {"pre": pre, "quant": quant, "post": post}
        return BlockOutput(
            codes={name: part.codes for name, part in parts.items()},
            commitments={name: part.commitment for name, part in parts.items()},
            quantized=post.quantized,
            pre_target=pre.quantized.detach(),
            reconstruction=reconstruction,
        )

    @torch.no_grad()
    def lower(self, latents: Tensor) -> Tensor:
        """Return E(a~) [batch, dim, frames / stride], what Quant is given for latents [batch, dim, frames]."""
        return self.sub_encoder(self.pre.embed(self.pre.encode(latents)))

    @torch.no_grad()
    def restore(self, lowered: Tensor) -> Tensor:
        """Return D(b~) [batch, dim, frames], what PostQ is given for E(a~)."""
        return self.sub_decoder(self.quant.embed(self.quant.encode(lowered)))

    @torch.no_grad()
    def resampled(self, latents: Tensor) -> Tensor:
        """Return D(E(x)) [batch, dim, frames] of latents x: what is left of a mean of codes, which is none itself."""
        return self.sub_decoder(self.sub_encoder(latents))

    @torch.no_grad()
    def quant_codes(self, pre_codes: Tensor) -> Tensor:
        """Return b = Quant(E(a~)) [batch, quant, frames / stride] of a [batch, pre, frames]."""
        with exact():
            return self.quant.encode(self.sub_encoder(self.pre.embed(pre_codes)))

    @torch.no_grad()
    def post_codes(self, quant_codes: Tensor) -> Tensor:
        """Return c = PostQ(D(b~)) [batch, post, frames] of b [batch, quant, frames / stride]."""
        with exact():
            return self.post.encode(self.sub_decoder(self.quant.embed(quant_codes)))


@dataclass(frozen=True)
class MRVQOutput:
    """What the losses of post-training need.

    `codes` and `commitments` ([codebooks] each) are named `pre1`, `quant1`, `post1`, .. `preK`. `partial_sums[s - 1]`
    is h_s of equation 15, [batch, dim, frames]; the last one goes to the decoder. `hsr_pairs` are
    (a~_k detached, D_k(b~_k)) of every block but the last, whose term is zero.
    """

    codes: dict[str, Tensor]
    commitments: dict[str, Tensor]
    partial_sums: tuple[Tensor, ...]
    hsr_pairs: tuple[tuple[Tensor, Tensor], ...]

    @property
    def quantized(self) -> Tensor:
        return self.partial_sums[-1]


class MRVQ(nn.Module):
    """The nested residual quantizer of Definition 1 over latents [batch, dim, frames]."""

    def __init__(self, dim: int, config: MRVQConfig, quantizer: QuantizerConfig):
        super().__init__()
        self.dim = dim
        self.config = config
        self.codebook_size = quantizer.codebook_size
        blocks, salt = [], 0
        for block in config.blocks:
            blocks.append(LRVQBlock(dim, block, config, quantizer, salt))
            salt += block.pre + block.quant + block.post
        self.blocks = nn.ModuleList(blocks)

    def quantizers(self) -> dict[str, ResidualQuantizer]:
        """Return every residual quantizer by name: `pre1`, `quant1`, `post1`, .. `preK`."""
        named = {}
        for k, block in enumerate(self.blocks, start=1):
            for part in ("pre",) if block.is_last else ("pre", "quant", "post"):
                named[f"{part}{k}"] = getattr(block, part)
        return named

    def forward(self, latents: Tensor, ranks: Ranks | None = None) -> MRVQOutput:
        """Quantize; in training mode all codebooks take an EMA step. Residuals subtract the detached c~_k."""
        self._check_frames(latents)
        codes, commitments, sums, pairs = {}, {}, [], []
        residual = latents
        for k, block in enumerate(self.blocks, start=1):
            output = block(residual, ranks)
            codes |= {f"{part}{k}": value for part, value in output.codes.items()}
            commitments |= {f"{part}{k}": value for part, value in output.commitments.items()}
            if output.reconstruction is not None:
                pairs.append((output.pre_target, output.reconstruction))
            sums.append(sums[-1] + output.quantized if sums else output.quantized)
            residual = residual - output.quantized.detach()
        return MRVQOutput(codes, commitments, tuple(sums), tuple(pairs))

    @torch.no_grad()
    def encode(self, latents: Tensor) -> dict[str, Tensor]:
        """Return the codes of every quantizer by name; never moves a codebook."""
        self._check_frames(latents)
        codes, residual = {}, latents
        for k, block in enumerate(self.blocks, start=1):
            codes[f"pre{k}"] = block.pre.encode(residual)
            if block.is_last:
                break
            codes[f"quant{k}"] = block.quant_codes(codes[f"pre{k}"])
            codes[f"post{k}"] = block.post_codes(codes[f"quant{k}"])
            residual = residual - block.post.embed(codes[f"post{k}"])
        return codes

    @torch.no_grad()
    def decode(self, transmitted: Streams) -> Tensor:
        """Return h [batch, dim, frames] of equation 10 from `quant1` .. `quantK`; without a `quantk`, from `postk`."""
        total: Tensor | None = None
        for k, block in enumerate(self.blocks, start=1):
            codes = transmitted.get(f"quant{k}")
            if block.is_last:
                part = block.pre.embed(codes)
            else:
                part = block.post.embed(transmitted[f"post{k}"] if codes is None else block.post_codes(codes))
            total = part if total is None else total + part
        return total

    @torch.no_grad()
    def initialise(
        self, latents: Tensor, init_codebooks: InitCodebooks = "teacher", seed: int = 0, ranks: Ranks | None = None
    ) -> None:
        """Start codebooks from k-means on gathered clips of latents [clips, dim, frames], in the order of the blocks.

        A block needs its predecessors' output, and Quant its own PreQ's. With `teacher`, quantizers that have entries
        already (PreQ and PostQ copied from a teacher, or all that another codec had) keep them.
        """
        self._check_frames(latents)

        def start(quantizer: ResidualQuantizer, vectors: Tensor) -> None:
            if init_codebooks == "kmeans" or not quantizer.initialised:
                _initialise_from(quantizer, vectors, seed, ranks)

        residual = latents
        for block in self.blocks:
            start(block.pre, residual)
            if block.is_last:
                return
            encoded = _in_parts(block.lower, residual)
            start(block.quant, encoded)
            decoded = _in_parts(block.restore, encoded)
            start(block.post, decoded)
            residual = residual - block.post.embed(block.post.encode(decoded))

    def copy_codebooks(self, teacher: Teacher) -> None:
        """Start PreQ_k and PostQ_k as the teacher's codebooks: (1) (2, 3) (4, 5) (6, 7, 8) for Table 1 (inferred)."""
        first = 0
        for block, stands_for in zip(self.blocks, self.config.teacher_codebooks, strict=True):
            for quantizer in (block.pre,) if block.is_last else (block.pre, block.post):
                _check_enough_codebooks(teacher, first + quantizer.num_codebooks)
                for index, codebook in enumerate(quantizer.codebooks):
                    codebook.set_entries(teacher.codebook(first + index))
            first += stands_for

    def _check_frames(self, latents: Tensor) -> None:
        multiple = self.config.alignment_frames
        if latents.shape[-1] % multiple:
            raise UsageError(
                f"expected a multiple of {multiple} latent frames, so that all frame rates line up, "
                f"got `{latents.shape[-1]}`",
                hint="pad the waveform to a multiple of the codec's `alignment`",
            )


def _check_enough_codebooks(teacher: Teacher, needed: int) -> None:
    if teacher.num_codebooks < needed:
        raise UsageError(
            f"these blocks need a teacher of {needed} codebooks, got one of `{teacher.num_codebooks}`",
            hint="train the teacher with `codec.num_codebooks` raised, or give blocks of fewer codebooks",
        )


def _initialise_from(quantizer: ResidualQuantizer, clips: Tensor, seed: int, ranks: Ranks | None) -> None:
    quantizer.initialise(clips.transpose(1, 2).reshape(-1, clips.shape[1]), seed, ranks)


def _in_parts(function: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    """Apply `function` to a few clips at a time: the memory of an LSTM over all of them would be large."""
    return torch.cat([function(part) for part in clips.split(CLIPS_AT_ONCE)])


def stream_specs(config: MRVQConfig, codebook_size: int, latent_rate: float, hop_length: int) -> list[StreamSpec]:
    """Return the streams of a multi-resolution codec: transmitted, then targets, then inputs."""

    def spec(name: str, role: str, num_codebooks: int, stride: int) -> StreamSpec:
        return StreamSpec(name, role, num_codebooks, latent_rate / stride, hop_length * stride, codebook_size)

    blocks = list(enumerate(config.blocks, start=1))
    transmitted = [spec(f"quant{k}", "transmitted", block.quant or block.pre, block.stride) for k, block in blocks]
    targets = [spec(f"pre{k}", "target", block.pre, 1) for k, block in blocks[1:-1]]
    inputs = [spec(f"post{k}", "input", block.post, 1) for k, block in blocks[:-1]]
    return transmitted + targets + inputs


class MultiResolutionCodec(Codec):
    """An autoencoder around an MRVQ: `quant1` runs at 8 Hz for Table 1.

    `autoencoder` is anything with a `Teacher`'s latents functions; without one, that of the config.
    """

    def __init__(self, config: CodecConfig, autoencoder: nn.Module | None = None):
        super().__init__()
        if config.mrvq is None:
            raise ValueError("a multi-resolution codec needs `mrvq` in its config")
        self.config = config
        self.autoencoder = build_autoencoder(config) if autoencoder is None else autoencoder
        self.sample_rate = self.autoencoder.sample_rate
        self.hop_length = self.autoencoder.hop_length
        self.latent_dim = self.autoencoder.latent_dim
        self.latent_rate = self.sample_rate / self.hop_length
        self.mrvq = MRVQ(self.latent_dim, config.mrvq, config.quantizer)
        size = config.quantizer.codebook_size
        self.streams = tuple(stream_specs(config.mrvq, size, self.latent_rate, self.hop_length))
        self._block_codes: BlockCodes = "both"

    @classmethod
    def from_teacher(
        cls, teacher: Teacher, mrvq: MRVQConfig, init_codebooks: InitCodebooks = "teacher",
        init_autoencoder: Literal["teacher", "fresh"] = "teacher",
    ) -> MultiResolutionCodec:
        """Return a student: a copy of the teacher's encoder and decoder (or a fresh one) around an MRVQ (section 4.2).

        Call `mrvq.initialise(latents)` before training it. Raises UsageError when the blocks ask for more codebooks
        than the teacher has.
        """
        _check_enough_codebooks(teacher, mrvq.num_teacher_codebooks)
        known = getattr(teacher, "config", None)
        if isinstance(known, CodecConfig):
            config = known.model_copy(update={"mrvq": mrvq})
        else:
            quantizer = QuantizerConfig(codebook_size=teacher.codebook_size)
            config = CodecConfig(quantizer=quantizer, num_codebooks=teacher.num_codebooks, mrvq=mrvq)
        pretrained = copy.deepcopy(getattr(teacher, "autoencoder", teacher)).requires_grad_(True)
        student = cls(config, pretrained if init_autoencoder == "teacher" else None)
        if init_codebooks == "teacher":
            student.mrvq.copy_codebooks(teacher)
        return student

    @property
    def alignment(self) -> int:
        return self.hop_length * self.config.mrvq.alignment_frames

    @property
    def hierarchy(self) -> MultiResolutionHierarchy:
        return MultiResolutionHierarchy(self.mrvq, self.stream("quant1"), self.latent_rate, self._block_codes)

    def refine_by(self, block_codes: BlockCodes) -> None:
        self._block_codes = block_codes

    def encode_latents(self, waveform: Tensor) -> Tensor:
        return self.autoencoder.encode_latents(waveform)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode_latents(latents)

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Streams:
        codes = self.encode_all(waveform)
        return {spec.name: codes[spec.name] for spec in self.streams}

    @torch.no_grad()
    def encode_all(self, waveform: Tensor) -> Streams:
        check_waveform(waveform)
        with exact():
            return self._by_stream(self.mrvq.encode(self.encode_latents(pad_to_multiple(waveform, self.alignment))))

    def quantizers(self) -> dict[str, ResidualQuantizer]:
        """Return every residual quantizer by the name of its stream, and `pre1`, which is in none."""
        return self._by_stream(self.mrvq.quantizers())

    def _by_stream(self, parts: dict[str, Any]) -> dict[str, Any]:
        """What the last block transmits are its PreQ's codes."""
        last = self.config.mrvq.num_blocks
        return {f"quant{last}" if name == f"pre{last}" else name: part for name, part in parts.items()}

    @torch.no_grad()
    def decode(self, streams: Streams, num_samples: int | None = None) -> Tensor:
        return self.decode_latents(self.mrvq.decode(streams))[..., :num_samples]

    def export_config(self) -> dict:
        if self.config.arch != "foreign" and not isinstance(self.autoencoder, AUTOENCODERS):
            raise UsageError(
                f"a codec around `{type(self.autoencoder).__name__}` cannot be described in a file",
                hint="give `halle mreq --teacher` a codec, or package.module:make for one of another project",
            )
        return self.config.described()
