"""Architectures: what a checkpoint must know to be built again.

Defaults are the paper's (HALL-E, ICLR 2025). A value that the paper's text does not give is
marked "inferred" with its source; all of them are settings.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate
from math import lcm
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Immutable settings that refuse unknown keys, and numbers that are none or without end."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SEANetConfig(Settings):
    """Convolutional encoder and decoder. Inferred values are Audiocraft's EnCodec defaults."""

    sample_rate: int = Field(24_000, gt=0)  # section 7.1
    ratios: tuple[int, ...] = (10, 5, 5, 2)  # appendix A.1, decoder order: hop 500, 48 Hz
    latent_dim: int = Field(128, gt=0)  # inferred
    base_filters: int = Field(32, gt=0)  # inferred; doubles at every ratio
    num_residual_layers: int = Field(1, ge=1)  # inferred
    kernel_size: int = 7  # inferred
    last_kernel_size: int = 7  # inferred
    residual_kernel_size: int = 3  # inferred
    dilation_base: int = 2  # inferred; unused with one residual layer
    compress: int = 2  # inferred
    lstm_layers: int = Field(2, ge=0)  # inferred
    causal: bool = True  # inferred: the 24 kHz recipe
    pad_mode: Literal["constant", "reflect"] = "constant"  # inferred
    true_skip: bool = True  # inferred: identity skip
    # ours: without biases and with unit gain a fresh codec follows its input after 100 steps at smoke size; with
    # torch's defaults its output is a hum of biases for 350 and more
    init: Literal["unit-gain", "torch"] = "unit-gain"

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        product = 1
        for ratio in self.ratios:
            product *= ratio
        return product

    @property
    def frame_rate(self) -> float:
        """Frames a second, exact for every rate the paper uses."""
        return float(Fraction(self.sample_rate, self.hop_length))


class SpectralConfig(Settings):
    """Light autoencoder between short-time spectra and latents; all values are ours.

    It trains and runs on a CPU: every layer works at the latent rate. The hop is the paper's, 48 Hz at 24 kHz.
    """

    sample_rate: int = Field(24_000, gt=0)
    hop_length: int = Field(500, gt=0)
    # short windows are learned faster: after 2500 steps on flite speech, mel distance 0.080 with one window of 2000
    # samples a latent, 0.061 with two of 1000, 0.050 with four of 500 (ten of 200 are like four)
    spectra_per_latent: int = Field(4, ge=1, description="spectra that a latent stands for, evenly over its hop")
    window_length: int = Field(500, gt=0, description="samples of the Hann window; a multiple of a spectrum's hop")
    latent_dim: int = Field(128, gt=0)
    channels: int = Field(256, gt=0)
    ffn_dim: int = Field(768, gt=0, description="inner width of a ConvNeXt block")
    kernel_size: int = Field(7, ge=1, description="odd; frames that a block sees")
    encoder_blocks: int = Field(5, ge=1)
    decoder_blocks: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _check_frames(self) -> SpectralConfig:
        if self.hop_length % self.spectra_per_latent:
            raise ValueError(f"spectra_per_latent should divide hop_length {self.hop_length}, "
                             f"got {self.spectra_per_latent}")
        if self.window_length % self.spectrum_hop or self.window_length < 2 * self.spectrum_hop:
            raise ValueError(f"window_length should be a multiple of {self.spectrum_hop} samples, a spectrum's hop, "
                             f"and at least twice that; got {self.window_length}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size should be odd, got {self.kernel_size}")
        return self

    @property
    def spectrum_hop(self) -> int:
        """Samples from one spectrum to the next."""
        return self.hop_length // self.spectra_per_latent

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return float(Fraction(self.sample_rate, self.hop_length))


class QuantizerConfig(Settings):
    """Vector quantization by exponential moving averages, shared by every codebook of a codec."""

    codebook_size: int = Field(1024, ge=2)  # from the bit rate
    decay: float = Field(0.99, gt=0, lt=1)  # inferred
    epsilon: float = Field(1e-5, gt=0)  # inferred
    kmeans_iterations: int = Field(50, ge=1)  # inferred
    kmeans_vectors_per_code: int = Field(8, ge=1)  # ours: enough vectors before k-means
    dead_code_ratio: float = Field(0.1, ge=0, lt=1)  # ours: share of the expected use below which a code is revived


class BlockConfig(Settings):
    """One LRVQ block of Definition 2. The last block has `quant = post = 0`: only its PreQ is used."""

    stride: int = Field(ge=1, description="latent frames a frame of this block: 48 Hz / s_k")
    pre: int = Field(ge=1, description="alpha_k, codebooks of PreQ")
    quant: int = Field(ge=0, description="beta_k, codebooks of Quant")
    post: int = Field(ge=0, description="gamma_k, codebooks of PostQ")


# Table 1: 8, 16, 24 and 48 Hz out of 48 Hz latents.
TABLE_1 = (
    BlockConfig(stride=6, pre=1, quant=6, post=1),
    BlockConfig(stride=3, pre=2, quant=6, post=2),
    BlockConfig(stride=2, pre=2, quant=4, post=2),
    BlockConfig(stride=1, pre=3, quant=0, post=0),
)


class MRVQConfig(Settings):
    """The multi-resolution residual vector quantizer of Definition 1."""

    blocks: tuple[BlockConfig, ...] = TABLE_1
    lstm_layers: int = Field(2, ge=1)  # section 4.1: two bi-LSTM layers
    kernel_per_stride: int = Field(2, ge=1)  # inferred: SEANet's own convention

    @model_validator(mode="after")
    def _check_blocks(self) -> MRVQConfig:
        if len(self.blocks) < 2:
            raise ValueError(f"expected at least two blocks, a low-rate one and that of the latent rate, "
                             f"got {len(self.blocks)}")
        *inner, last = self.blocks
        if any(block.quant == 0 or block.post == 0 for block in inner):
            raise ValueError("every block but the last needs Quant and PostQ codebooks (quant > 0, post > 0)")
        if last.quant or last.post or last.stride != 1:
            raise ValueError("the last block runs at the latent rate with its PreQ alone (stride 1, quant 0, post 0)")
        strides = [block.stride for block in self.blocks]
        if strides != sorted(strides, reverse=True) or len(set(strides)) != len(strides):
            raise ValueError(f"frame rates must rise from block to block, so strides must fall; got {strides}")
        return self

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    @property
    def alignment_frames(self) -> int:
        """Latent frames after which every block's frames line up: 6 for Table 1."""
        return lcm(*(block.stride for block in self.blocks))

    @property
    def teacher_codebooks(self) -> tuple[int, ...]:
        """Codebooks of the teacher that each block stands for: (1, 2, 2, 3) for Table 1.

        Those of its PostQ, of the last block's PreQ, since c_K = a_K. A PostQ of the first block that is finer than
        what its Quant sends stands for no more than that.
        """
        first = self.blocks[0]
        sent = max(1, round(first.quant / first.stride))
        return (min(first.post, sent), *(block.post or block.pre for block in self.blocks[1:]))

    @property
    def fld_pairs(self) -> tuple[tuple[int, int], ...]:
        """Student blocks s, teacher codebooks t so far, of equation 14: (1,1), (2,3), (3,5), (4,8) for Table 1."""
        return tuple(enumerate(accumulate(self.teacher_codebooks), start=1))

    @property
    def num_teacher_codebooks(self) -> int:
        """Codebooks that the teacher must have: 8 for Table 1."""
        return self.fld_pairs[-1][1]

    @property
    def num_levels(self) -> int:
        """Steps of the NAR model: PreQ codebooks of blocks 2..K, 7 for Table 1."""
        return sum(block.pre for block in self.blocks[1:])

    def bits_per_second(self, latent_rate: float, codebook_size: int) -> float:
        """Transmitted bits: only b_1..b_K count (3840 for Table 1 at 48 Hz and 1024 entries)."""
        bits = (codebook_size - 1).bit_length()
        return sum((block.quant or block.pre) * latent_rate / block.stride * bits for block in self.blocks)


class ForeignConfig(Settings):
    """A codec of another project: what plugs it in, and what that must be told to build it again."""

    # a name and nothing else: hints show it, to be copied into a command line
    maker: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="package.module:make")
    architecture: dict[str, Any] = Field({}, description="keyword arguments of the maker")
    sample_rate: int = Field(gt=0)
    hop_length: int = Field(gt=0)
    latent_dim: int = Field(gt=0)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return float(Fraction(self.sample_rate, self.hop_length))


# which section of a codec's settings describes its autoencoder
SECTION_OF_ARCH = {"encodec": "seanet", "speechtokenizer": "seanet", "spectral": "spectral", "foreign": "foreign"}


class CodecConfig(Settings):
    """A residual-VQ codec (`mrvq` is None) or its multi-resolution successor."""

    # speechtokenizer (appendix A.1) is encodec with a bi-directional LSTM in the encoder, and taught by `semantic`
    # foreign is a codec of another project, recorded by `halle mreq --teacher package.module:make`
    arch: Literal["encodec", "speechtokenizer", "spectral", "foreign"] = "encodec"
    seanet: SEANetConfig = SEANetConfig()  # of encodec and speechtokenizer
    spectral: SpectralConfig = SpectralConfig()  # of spectral
    foreign: ForeignConfig | None = None  # of foreign
    quantizer: QuantizerConfig = QuantizerConfig()
    num_codebooks: int = Field(8, ge=1)  # section 4.2: teacher codebooks 1..8
    mrvq: MRVQConfig | None = None

    @model_validator(mode="after")
    def _check_lstm(self) -> CodecConfig:
        if self.arch == "speechtokenizer" and self.seanet.lstm_layers == 0:
            raise ValueError("a speechtokenizer differs by its bi-directional LSTM: "
                             "expected seanet.lstm_layers of at least 1, got 0")
        return self

    @model_validator(mode="after")
    def _check_foreign(self) -> CodecConfig:
        if (self.arch == "foreign") != (self.foreign is not None):
            raise ValueError("arch `foreign` is recorded by `halle mreq --teacher package.module:make`, not chosen")
        return self

    @property
    def autoencoder(self) -> SEANetConfig | SpectralConfig | ForeignConfig:
        """What `arch` puts around the quantizer; the other sections are not used."""
        return getattr(self, SECTION_OF_ARCH[self.arch])

    def described(self) -> dict:
        """Return the JSON-ready architecture, without the sections that `arch` does not use."""
        return self.model_dump(mode="json", exclude={*SECTION_OF_ARCH.values()} - {SECTION_OF_ARCH[self.arch]})

    @property
    def bits_per_second(self) -> float:
        rate, size = self.autoencoder.frame_rate, self.quantizer.codebook_size
        if self.mrvq is not None:
            return self.mrvq.bits_per_second(rate, size)
        return self.num_codebooks * rate * (size - 1).bit_length()


class TransformerConfig(Settings):
    """Pre-norm transformer; defaults are Table 13."""

    dim: int = Field(1280, gt=0)
    num_heads: int = Field(20, gt=0)
    num_layers: int = Field(36, gt=0)
    ffn_dim: int = Field(5120, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)  # inferred

    @model_validator(mode="after")
    def _check_heads(self) -> TransformerConfig:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim must be num_heads times an even head size, got {self.dim} and {self.num_heads}")
        return self


class ARConfig(Settings):
    """Text prefix, then `num_codebooks` delayed streams at the lowest frame rate."""

    transformer: TransformerConfig = TransformerConfig()
    num_codebooks: int = Field(6, ge=1)  # beta_1; 1 for VALL-E
    codebook_size: int = Field(1024, ge=2)
    text_vocab_size: int = Field(258, ge=4)  # Table 13
    text_attention: Literal["causal", "bidirectional"] = "causal"  # inferred: Audiocraft's mask
    # ours: the paper's model finds its place by attention, for which small models and small corpora do not suffice
    text_pointer: bool = Field(
        False, description="write how far the text is read in a stream before the codes, and be shown the text there")
    text_prefix: bool = Field(
        True, description="put the text before the codes, as the paper does; false, with a text pointer: be shown it "
        "there alone, in about half of the time at 8 Hz")

    @model_validator(mode="after")
    def _check_text(self) -> ARConfig:
        if not (self.text_prefix or self.text_pointer):
            raise ValueError("text_prefix can be false only with a text_pointer, nothing would show the text: "
                             "set text_prefix to true as well")
        return self


class NARConfig(Settings):
    """Levels of codes from accumulated latents and text. Table 14 is lost: 1024/16/24 is inferred."""

    transformer: TransformerConfig = TransformerConfig(dim=1024, num_heads=16, num_layers=24, ffn_dim=4096)
    num_levels: int = Field(7, ge=1)
    codebook_size: int = Field(1024, ge=2)
    latent_dim: int = Field(128, ge=1)
    text_vocab_size: int = Field(258, ge=4)
    text_mode: Literal["cross", "prefix", "pointer"] = Field(
        "cross", description="cross or prefix: attend to the text beside or before the frames, as the system does "
        "(section 5: HALL-E cross-attends, VALL-E prepends); pointer, ours: be shown what the AR reads at each frame")
    # section 5; `pre` and `post`, Table 10's "only", do without the codec's modules that turn one into the other
    block_codes: Literal["both", "pre", "post"] = Field(
        "both", description="of a HALL-E block: predict PreQ and read PostQ once it is done, or one of them for both")
