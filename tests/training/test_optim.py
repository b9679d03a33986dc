"""Rates and averages against slow references."""

import math

import pytest
import torch

from stages.config.lm_training import LMTrainingConfig
from stages.config.stage_configs import TrainingConfig
from stages.training.optim import MovingAverage, gradient_norm, language_model_optimizers, learning_rate


def test_the_cosine_warms_up_peaks_and_ends_at_zero():
    config = TrainingConfig(steps=110, learning_rate=2.0, schedule="cosine", warmup_steps=10)
    assert learning_rate(config, 5) == 1.0
    assert learning_rate(config, 10) == 2.0
    assert learning_rate(config, 60) == pytest.approx(1.0)
    assert learning_rate(config, 110) == pytest.approx(0.0)
    assert learning_rate(config, 35) == pytest.approx(1 + math.cos(math.pi / 4))


def test_schedule_steps_keep_the_curve_when_the_number_of_steps_changes():
    short = TrainingConfig(steps=50, schedule="cosine", schedule_steps=100)
    long = TrainingConfig(steps=100, schedule="cosine", schedule_steps=100)
    assert all(learning_rate(short, step) == learning_rate(long, step) for step in range(1, 51))


def test_the_moving_average_is_the_textbook_recursion():
    average = MovingAverage(0.9, {"w": torch.tensor(1.0)})
    expected = 1.0
    for value in (2.0, -1.0, 5.0):
        average.update({"w": torch.tensor(value)})
        expected = 0.9 * expected + 0.1 * value
    assert float(average.tensors["w"]) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_norm_is_that_of_all_gradients_together():
    parameters = [torch.nn.Parameter(values) for values in (torch.zeros(2), torch.zeros(3), torch.ones(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    assert float(gradient_norm(parameters)) == 5.0


def small_model():
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList([torch.nn.Linear(8, 32), torch.nn.LayerNorm(32), torch.nn.Embedding(3, 8)])
    return torch.nn.ModuleDict({"table": torch.nn.Embedding(5, 8), "blocks": blocks, "head": torch.nn.Linear(8, 5)})


NEEDS_MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")


@pytest.mark.parametrize("optimizer, matrices", [("adamw", 0), pytest.param("muon", 1, marks=NEEDS_MUON)])
def test_every_parameter_has_one_optimizer_and_muon_has_the_linear_layers_of_the_blocks(optimizer, matrices):
    model = small_model()
    found = language_model_optimizers(model, model["blocks"], LMTrainingConfig(optimizer=optimizer))
    held = [parameter for each in found.values() for group in each.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}
    assert len(held) == len(list(model.parameters()))
    assert [tuple(p.shape) for p in (found["matrices"].param_groups[0]["params"] if matrices else [])] == \
        matrices * [(32, 8)]


@NEEDS_MUON
def test_muon_steps_along_an_orthogonal_matrix_as_far_as_adamw_would():
    model = small_model()
    training = LMTrainingConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.0, muon_rate=2.0)
    optimizer = language_model_optimizers(model, model["blocks"], training)["matrices"]
    weight = model["blocks"][0].weight
    before = weight.detach().clone()
    weight.grad = torch.randn(32, 8) @ torch.diag(torch.logspace(0, 1, 8))
    assert optimizer.param_groups[0]["rate"] == 2.0
    optimizer.step()
    moved = (weight.detach() - before) / 0.01
    values = torch.linalg.svdvals(moved)
    assert values.max() / values.min() < 2, "directions are stepped along alike, whatever their gradients"
    assert moved.pow(2).mean().sqrt() == pytest.approx(0.2, rel=0.3)  # AdamW's steps are about so large


def test_muon_is_refused_for_a_divided_model():
    with pytest.raises(ValueError, match="expected it without fsdp"):
        LMTrainingConfig(optimizer="muon", fsdp=True)
