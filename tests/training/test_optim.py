"""Rates and averages against slow references."""

import math

import pytest
import torch

from stages.config.stage_configs import TrainingConfig
from stages.training.optim import MovingAverage, gradient_norm, learning_rate


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
