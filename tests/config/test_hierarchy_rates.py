from __future__ import annotations

from fractions import Fraction

import pytest

from stages.config.hierarchy_rates import derive_blocks, legal_rates, resolve_blocks, strides_for_rates
from stages.config.models import TABLE_1, MRVQConfig
from stages.config.resolve import resolve
from stages.errors import UsageError

PAPER, META = Fraction(48), Fraction(75)


def shapes(rates, alphas=None, latent_rate=PAPER):
    blocks = derive_blocks(strides_for_rates(rates, latent_rate), 8, alphas)
    return [(block.pre, block.quant, block.post) for block in blocks]


def test_the_papers_rates_give_table_1() -> None:
    assert derive_blocks(strides_for_rates((8, 16, 24, 48), PAPER), 8) == TABLE_1
    assert derive_blocks(strides_for_rates((12.5, 25, 37.5, 75), META), 8) == TABLE_1


def test_the_papers_shorter_hierarchies_are_those_of_appendix_c1() -> None:
    assert shapes((8, 48)) == [(1, 6, 1), (7, 0, 0)]
    assert shapes((8, 16, 48)) == [(1, 6, 1), (2, 6, 2), (5, 0, 0)]


@pytest.mark.parametrize(
    "alphas, betas",
    [((1, 1, 2, 4), (6, 3, 4)), ((1, 1, 3, 3), (6, 3, 6)), ((1, 2, 2, 3), (6, 6, 4)), ((1, 2, 3, 2), (6, 6, 6))],
)
def test_the_alphas_of_table_21_give_its_betas(alphas, betas) -> None:
    found = shapes((8, 16, 24, 48), alphas)
    assert tuple(beta for _, beta, _ in found) == (*betas, 0)
    assert tuple(gamma for _, _, gamma in found) == (*alphas[:-1], 0)


def test_a_first_block_at_4_hz_has_twelve_streams() -> None:
    blocks = derive_blocks(strides_for_rates((4, 16, 24, 48), PAPER), 8)
    assert (blocks[0].stride, blocks[0].quant) == (12, 12)
    assert MRVQConfig(blocks=blocks).alignment_frames * 500 == 6000


@pytest.mark.parametrize("latent_rate", [PAPER, META, Fraction(50), Fraction(44_100, 512)])
@pytest.mark.parametrize("strides", [(6, 3, 2, 1), (6, 1), (12, 5, 1), (24, 3, 2, 1)])
def test_every_hierarchy_has_the_bit_rate_of_its_teacher(strides, latent_rate) -> None:
    rate = float(latent_rate)
    mrvq = MRVQConfig(blocks=derive_blocks(strides, 8))
    assert mrvq.bits_per_second(rate, 1024) == pytest.approx(8 * rate * 10)
    assert mrvq.num_teacher_codebooks == 8


def test_rates_that_do_not_divide_are_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="divide the teacher's 75 Hz, got `8,24`") as caught:
        strides_for_rates((8, 24, 75), META)
    assert "rates may be: 37.5, 25, 18.75, 15, 12.5, " in caught.value.hint
    assert caught.value.hint.endswith("the last is always 75")
    for rate in legal_rates(META):
        assert strides_for_rates((rate, 75), META)[1] == 1


@pytest.mark.parametrize(
    "rates, message",
    [((8, 24), "48 Hz as the last frame rate, got `8,24`"), ((), "as the last"), ((16, 8, 48), "that rise, got `16,8"),
     ((8, 8, 48), "that rise"), ((0, 48), "divide the teacher's 48 Hz, got `0`"), ((8, 96), "got `96`"),
     ((-8, 48), "got `-8`"), ((48,), "a frame rate below the teacher's 48 Hz too, got `48` alone")],
)  # fmt: skip
def test_rates_that_make_no_hierarchy_are_refused(rates, message) -> None:
    with pytest.raises(UsageError, match=message):
        strides_for_rates(rates, PAPER)


@pytest.mark.parametrize(
    "alphas, message",
    [((1, 2, 5), "one alpha for each of the 4 frame rates, got `1,2,5`"), ((1, 2, 2, 4), "add up to the 8 codebooks"),
     ((0, 3, 2, 3), "at least 1")],
)  # fmt: skip
def test_alphas_that_do_not_fit_are_refused(alphas, message) -> None:
    with pytest.raises(UsageError, match=message):
        derive_blocks((6, 3, 2, 1), 8, alphas)


def test_too_many_blocks_for_the_codebooks_are_refused() -> None:
    with pytest.raises(UsageError, match="4 blocks need at least 6 codebooks of the teacher, got `4`"):
        derive_blocks((6, 3, 2, 1), 4)


def test_blocks_are_the_same_however_they_were_given() -> None:
    plain = resolve("mreq")
    by_rates = resolve("mreq", options={"rates": (8, 16, 24, 48)})
    by_alphas = resolve("mreq", options={"alphas": (1, 2, 2, 3)})
    assert resolve_blocks(by_rates, PAPER, 8) == resolve_blocks(by_alphas, PAPER, 32) == plain
    assert resolve_blocks(plain, META, 8) == plain


def test_derived_blocks_leave_the_other_settings_of_the_quantizer() -> None:
    config = resolve("mreq", overrides=("mrvq.lstm_layers=1",), options={"rates": (8, 48)})
    found = resolve_blocks(config, PAPER, 12)
    assert found.mrvq.lstm_layers == 1
    assert [block.pre for block in found.mrvq.blocks] == [1, 7], "of more than eight codebooks the first eight teach"
