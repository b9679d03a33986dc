"""Presets, files, overrides and options merge in order; mistakes are named."""

import pytest

from stages.config.models import BlockConfig, MRVQConfig
from stages.config.presets import PRESETS
from stages.config.resolve import CONFIG_OF_STAGE, flatten, identity_differences, resolve, running_keys
from stages.errors import UsageError


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", CONFIG_OF_STAGE)
def test_every_preset_resolves_for_every_stage_but_fine_tuning_for_codecs(preset, stage):
    if preset == "finetune" and stage in ("train-codec", "mreq"):
        with pytest.raises(UsageError, match="`finetune` is for language models"):
            resolve(stage, preset)
        return
    assert isinstance(resolve(stage, preset), CONFIG_OF_STAGE[stage])


def test_later_sources_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("seed: 1\ntraining: {steps: 11, log_every: 3}\n", encoding="utf-8")
    config = resolve("mreq", "smoke", str(file), ("training.steps=12", "seed=2"), {"seed": 3, "device": None})
    assert (config.training.log_every, config.training.steps, config.seed) == (3, 12, 3)


def test_one_file_may_hold_a_section_for_each_stage(tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text("train-ar: {seed: 5}\nmreq: {seed: 6}\n", encoding="utf-8")
    assert resolve("mreq", "paper", str(file)).seed == 6
    assert resolve("tokenize", "paper", str(file)).seed == 0


def test_an_override_keeps_the_stage_s_own_defaults_beside_it():
    assert resolve("mreq", "paper", overrides=("training.steps=5",)).training.learning_rate == 3e-4
    assert resolve("train-codec", "paper", overrides=("training.steps=5",)).training.learning_rate == 9e-4


def test_all_problems_of_the_values_are_reported_at_once():
    with pytest.raises(UsageError) as caught:
        resolve("mreq", "smoke", overrides=("training.steps=-1", "seed=many"))
    assert "training.steps" in caught.value.message and "seed" in caught.value.message


@pytest.mark.parametrize("text", ["training.steps", "=5", "a: [=1"])
def test_a_malformed_override_is_refused(text):
    with pytest.raises(UsageError):
        resolve("mreq", "smoke", overrides=(text,))


def test_a_block_list_that_cannot_be_built_is_explained():
    blocks = "mrvq.blocks=[{stride: 2, pre: 1, quant: 6, post: 1}, {stride: 6, pre: 7, quant: 0, post: 0}]"
    with pytest.raises(UsageError, match="last block"):
        resolve("mreq", "paper", overrides=(blocks,))


def test_a_config_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    for path, message in ((tmp_path / "none.yaml", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(UsageError, match=message):
            resolve("train-ar", "smoke", file=str(path))


@pytest.mark.parametrize("blocks", ["[]", "[{stride: 1, pre: 8, quant: 0, post: 0}]"])
def test_a_hierarchy_without_a_low_rate_block_is_refused_in_words(blocks):
    with pytest.raises(UsageError, match="at least two blocks"):
        resolve("mreq", "smoke", overrides=(f"mrvq.blocks={blocks}",))


def test_running_fields_may_change_and_identity_fields_may_not():
    old = flatten(resolve("train-ar", "smoke"))
    assert identity_differences(old, resolve("train-ar", "smoke", overrides=("training.steps=999",))) == {}
    changed = identity_differences(old, resolve("train-ar", "smoke", overrides=("training.learning_rate=9",)))
    assert changed == {"training.learning_rate": (0.001, 9.0)}


def test_a_field_that_an_old_run_lacks_counts_as_its_default():
    old = flatten(resolve("train-ar", "paper"))
    del old["training.accumulation"]
    assert identity_differences(old, resolve("train-ar", "paper")) == {}


def test_nested_running_fields_are_known():
    keys = running_keys(resolve("train-codec", "paper"))
    assert {"out", "device", "training.steps", "training.save_every"} <= keys
    assert "training.learning_rate" not in keys


def variant(*alphas_and_strides: tuple[int, int], quant: tuple[int, ...]) -> MRVQConfig:
    *inner, last = alphas_and_strides
    blocks = [BlockConfig(stride=s, pre=a, quant=q, post=a) for (a, s), q in zip(inner, quant, strict=True)]
    return MRVQConfig(blocks=(*blocks, BlockConfig(stride=last[1], pre=last[0], quant=0, post=0)))


@pytest.mark.parametrize("config, pairs, bits", [
    (MRVQConfig(), ((1, 1), (2, 3), (3, 5), (4, 8)), 3840),
    (variant((1, 6), (2, 3), (2, 2), (3, 1), quant=(3, 3, 2)), ((1, 1), (2, 3), (3, 5), (4, 8)), 2640),
    (variant((1, 6), (7, 1), quant=(6,)), ((1, 1), (2, 8)), 3840),
    (variant((1, 6), (2, 3), (5, 1), quant=(6, 6)), ((1, 1), (2, 3), (3, 8)), 3840),
    (variant((1, 6), (1, 3), (2, 2), (4, 1), quant=(6, 3, 4)), ((1, 1), (2, 2), (3, 4), (4, 8)), 3840),
    (variant((1, 6), (1, 3), (3, 2), (3, 1), quant=(6, 3, 6)), ((1, 1), (2, 2), (3, 5), (4, 8)), 3840),
    (variant((1, 6), (2, 3), (3, 2), (2, 1), quant=(6, 6, 6)), ((1, 1), (2, 3), (3, 6), (4, 8)), 3840),
])
def test_bit_rates_and_distillation_pairs_of_the_paper(config, pairs, bits):
    assert config.fld_pairs == pairs
    assert config.bits_per_second(48.0, 1024) == bits
    assert config.num_levels == 7 and config.num_teacher_codebooks == 8


@pytest.mark.parametrize("number", ["inf", "nan"])
def test_a_number_without_end_is_refused(number):
    with pytest.raises(UsageError, match="max_seconds"):
        resolve("synth", "mini", None, (f"max_seconds={number}",), {})


@pytest.mark.parametrize("stage, override", [
    ("train-ar", "training.betas=[0.9, 1.0]"), ("train-codec", "training.betas=[-0.1, 0.9]"),
    ("mreq", "discriminator.fft_sizes=[]"), ("train-codec", "losses.mel_windows=[2]"),
])
def test_settings_that_no_training_can_have_are_refused(stage, override):
    with pytest.raises(UsageError, match=override.split("=")[0].replace(".", r"\.")):
        resolve(stage, "mini", None, (override,), {})
