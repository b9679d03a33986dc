"""From frame rates to the blocks of a multi-resolution codec (Table 1, Table 21, appendix C.1).

The paper's variants follow from three rules, which together give every one the bit rate of its teacher:

    stride_k = s_K / s_k                    E_k and D_k start and end at the latent rate
    gamma_k  = alpha_k                      so that block k stands for alpha_k codebooks of the teacher
    beta_k   = gamma_k * stride_k           Quant spends the bits of gamma_k codebooks at the latent rate
"""

from __future__ import annotations

from fractions import Fraction

from stages.config.models import BlockConfig, MRVQConfig
from stages.config.stage_configs import MReQConfig
from stages.errors import UsageError

TEACHING_CODEBOOKS = 8  # section 4.2; of a teacher with more, the first eight teach
MOST_DECIMALS = 1000  # legal rates are named when three decimals write them exactly
LARGEST_STRIDE = 24  # 2 Hz out of 48 Hz; the paper finds 4 Hz too low already


def legal_rates(latent_rate: Fraction) -> list[float]:
    """Return the frame rates below `latent_rate` (Hz) that divide it and can be written down, highest first."""
    rates = (latent_rate / stride for stride in range(2, LARGEST_STRIDE + 1))
    return [float(rate) for rate in rates if MOST_DECIMALS % rate.denominator == 0]


def strides_for_rates(rates: tuple[float, ...], latent_rate: Fraction) -> tuple[int, ...]:
    """Return latent frames a frame for rates in Hz, lowest first: 8, 16, 24, 48 of 48 Hz are strides 6, 3, 2, 1.

    Raises UsageError unless rates rise, divide the latent rate and end with it.
    """
    exact = [Fraction(str(rate)) for rate in rates]
    usable = ", ".join(f"{rate:g}" for rate in legal_rates(latent_rate))
    hint = f"with this teacher rates may be: {usable}; the last is always {float(latent_rate):g}"
    if exact != sorted(set(exact)):
        raise UsageError(f"expected frame rates that rise, got `{_listed(rates)}`", hint)
    illegal = [rate for rate, value in zip(rates, exact, strict=True) if value <= 0 or (latent_rate / value) % 1]
    if illegal:
        raise UsageError(f"expected frame rates that divide the teacher's {float(latent_rate):g} Hz, "
                         f"got `{_listed(illegal)}`", hint)
    if not exact or exact[-1] != latent_rate:
        raise UsageError(f"expected the teacher's {float(latent_rate):g} Hz as the last frame rate, "
                         f"got `{_listed(rates)}`", hint)
    if len(exact) == 1:
        raise UsageError(f"expected a frame rate below the teacher's {float(latent_rate):g} Hz too, "
                         f"got `{_listed(rates)}` alone", hint)
    return tuple(int(latent_rate / value) for value in exact)


def default_alphas(num_blocks: int, num_codebooks: int) -> tuple[int, ...]:
    """Return the paper's alphas: 1 for the first block, 2 for inner ones, the rest for the last.

    (1, 2, 2, 3), (1, 2, 5) and (1, 7) of eight codebooks. Raises UsageError when nothing is left for the last.
    """
    inner = (1, *[2] * num_blocks)[: num_blocks - 1]
    rest = num_codebooks - sum(inner)
    if rest < 1:
        raise UsageError(f"{num_blocks} blocks need at least {sum(inner) + 1} codebooks of the teacher, "
                         f"got `{num_codebooks}`", "give fewer --rates, or --alphas that add up to the codebooks")
    return (*inner, rest)


def derive_blocks(strides: tuple[int, ...], num_codebooks: int,
                  alphas: tuple[int, ...] | None = None) -> tuple[BlockConfig, ...]:
    """Return the blocks of `strides` that share the teacher's `num_codebooks`; `alphas` as in Table 21.

    Raises UsageError when alphas do not fit the blocks or the codebooks.
    """
    alphas = default_alphas(len(strides), num_codebooks) if alphas is None else alphas
    if len(alphas) != len(strides):
        raise UsageError(f"expected one alpha for each of the {len(strides)} frame rates, got `{_listed(alphas)}`",
                         f"for example: --alphas {_listed(default_alphas(len(strides), num_codebooks))}")
    if min(alphas) < 1 or sum(alphas) != num_codebooks:
        raise UsageError(f"expected alphas of at least 1 that add up to the {num_codebooks} codebooks that teach, "
                         f"got `{_listed(alphas)}`", "for another bit rate give the blocks: -O mrvq.blocks=[...]")
    *inner, last = zip(strides, alphas, strict=True)
    blocks = [BlockConfig(stride=stride, pre=alpha, quant=alpha * stride, post=alpha) for stride, alpha in inner]
    return (*blocks, BlockConfig(stride=last[0], pre=last[1], quant=0, post=0))


def resolve_blocks(config: MReQConfig, latent_rate: Fraction, num_codebooks: int) -> MReQConfig:
    """Return settings whose `mrvq.blocks` are those of `rates` and `alphas`, which are then not set.

    So that blocks are the same however they were given. `num_codebooks` is the teacher's.
    """
    if config.rates is None and config.alphas is None:
        return config
    strides = tuple(block.stride for block in config.mrvq.blocks)
    if config.rates is not None:
        strides = strides_for_rates(config.rates, latent_rate)
    blocks = derive_blocks(strides, min(num_codebooks, TEACHING_CODEBOOKS), config.alphas)
    mrvq = MRVQConfig(**{**config.mrvq.model_dump(), "blocks": blocks})
    return config.model_copy(update={"mrvq": mrvq, "rates": None, "alphas": None})


def describe_blocks(blocks: tuple[BlockConfig, ...], latent_rate: Fraction) -> dict[str, str]:
    """Return alpha-beta-gamma and stride of every block by its frame rate, for people."""
    rates = [f"{float(latent_rate / block.stride):g} Hz" for block in blocks]
    shapes = [f"{block.pre}-{block.quant}-{block.post}, stride {block.stride}" for block in blocks]
    return dict(zip(rates, shapes, strict=True))


def _listed(values: tuple | list) -> str:
    return ",".join(f"{value:g}" for value in values)
