"""The presets of the language models hold what the paper says, and what it does not say is small where it should be."""

from __future__ import annotations

import pytest

from stages.config.presets import PRESETS
from stages.config.resolve import resolve
from stages.training.optim import learning_rate

SYSTEMS = ("train-ar", "train-nar")


def test_the_paper_s_language_models_are_trained_as_it_says() -> None:
    ar, nar = (resolve(stage, "paper") for stage in SYSTEMS)
    shape = ar.model.transformer
    assert (shape.dim, shape.num_heads, shape.num_layers, shape.ffn_dim) == (1280, 20, 36, 5120)  # Table 13
    assert ar.model.text_vocab_size == nar.model.text_vocab_size == 258
    assert (nar.window_seconds, nar.prompt_seconds) == (28.0, 3.0)  # appendix A.2, section 7.1
    for training in (ar.training, nar.training):  # section 7.1
        assert (training.steps, training.learning_rate, training.schedule) == (100_000, 1e-4, "cosine")
        assert training.warmup_steps < 0.05 * training.steps
        assert learning_rate(training, training.warmup_steps) == 1e-4
        assert learning_rate(training, training.steps) == 0
    smaller, larger = nar.model.transformer, shape
    assert smaller.dim < larger.dim and smaller.num_layers < larger.num_layers  # appendix A.2


def test_the_paper_s_codecs_are_trained_as_it_says() -> None:
    codec, mreq = resolve("train-codec", "paper").training, resolve("mreq", "paper").training
    assert (codec.steps, codec.batch_size, codec.learning_rate) == (100_000, 704, 9e-4)
    assert (mreq.steps, mreq.batch_size, mreq.learning_rate) == (160_000, 160, 3e-4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", SYSTEMS)
def test_every_preset_warms_up_within_its_steps_and_anneals(preset: str, stage: str) -> None:
    training = resolve(stage, preset).training
    assert training.warmup_steps <= 0.1 * training.steps
    assert training.schedule == "cosine" and learning_rate(training, training.steps) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("stage", SYSTEMS)
def test_presets_get_smaller_from_the_paper_to_smoke(stage: str) -> None:
    def work(preset: str) -> float:
        config = resolve(stage, preset)
        shape = config.model.transformer
        return shape.num_layers * shape.dim**2 * config.training.batch_tokens * config.training.steps

    sizes = [work(preset) for preset in ("paper", "single-gpu", "mini", "smoke")]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.001 * sizes[0]
