"""The planner's counter counts what a step makes, and its time and memory follow from it."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.config.resolve import resolve
from stages.lm.ar import ARModel
from stages.planning import machines
from stages.planning.codecs import codec_cost
from stages.planning.estimate import pace
from stages.planning.language_models import ar_cost, nar_cost
from stages.planning.machines import PEAKS, Machine, h100s, product_flops, this_machine
from stages.planning.step_cost import StepCost, count_step
from stages.training.optim import language_model_optimizers

SIZE = 1000


def linear_step(batch: int) -> StepCost:
    def build():
        model = torch.nn.Linear(SIZE, SIZE, bias=False)

        def losses():
            yield model(torch.zeros(batch, SIZE)).sum()

        return [model], losses

    return count_step(build, averaged=True)


def test_weights_gradients_moments_and_averages_are_counted_by_the_byte():
    cost, weights = linear_step(1), 4 * SIZE**2
    assert cost.parameters == cost.averaged == SIZE**2
    assert cost.resident == 4 * weights
    assert weights <= cost.working < weights + 30_000, "the gradient, and a few vectors"
    assert cost.peak() == cost.resident + 2 * weights, "the optimizer's step takes as much again"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_has_counted_can_still_be_forked():
    program = ("import os, torch\n"
               "from stages.planning.step_cost import count_step\n"
               "def build():\n"
               "    model = torch.nn.Linear(2, 2)\n"
               "    return [model], lambda: iter([model(torch.zeros(1, 2)).sum()])\n"
               "count_step(build)\n"
               "if (child := os.fork()) == 0:\n"
               "    torch.ones(1, requires_grad=True).sum().backward()\n"
               "    os._exit(7)\n"
               "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8",
                          check=False)
    assert done.stdout.strip() == "7", done.stderr


def test_products_are_counted_forward_and_backward():
    assert linear_step(64).flops == 2 * 2 * 64 * SIZE**2, "of the weight alone: the input has no gradient"


def test_the_ar_model_is_counted_as_torch_counts_it():
    config = resolve("train-ar", "smoke")
    cost = ar_cost(config.model, config.training, 3, 20, 30)
    model = ARModel(config.model)
    codes = torch.zeros(3, model.num_streams, 30, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.loss(torch.zeros(3, 20).long(), torch.full((3,), 20), codes, torch.full((3,), 30)).losses.sum().backward()
    assert cost.flops == counter.get_total_flops()
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_muon_keeps_one_moment_of_the_matrices_it_moves_and_multiplies_as_torch_does():
    config = resolve("train-ar", "smoke", overrides=("training.optimizer=muon",))
    adamw = ar_cost(config.model, config.training.model_copy(update={"optimizer": "adamw"}), 3, 20, 30)
    muon = ar_cost(config.model, config.training, 3, 20, 30)
    model = ARModel(config.model)
    optimizers = language_model_optimizers(model, model.transformer.blocks, config.training)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with FlopCounterMode(display=False) as counter:
        for optimizer in optimizers.values():
            optimizer.step()
    assert muon.muon_flops == counter.get_total_flops() > 0 == adamw.muon_flops
    moments = sum(tensor.numel() for optimizer in optimizers.values() for state in optimizer.state.values()
                  for tensor in state.values() if tensor.dim())  # fmt: skip
    assert muon.resident == 4 * (muon.parameters + moments) < adamw.resident


def test_activations_grow_with_items_and_layers_and_shrink_with_checkpointing():
    config = resolve("train-ar", "smoke")
    twice = config.model.transformer.model_copy(update={"num_layers": 6})
    deep = config.model.model_copy(update={"transformer": twice})
    thrifty = config.training.model_copy(update={"checkpoint_activations": True})
    one, two, deeper = (ar_cost(model, config.training, items, 100, 80).working
                        for model, items in ((config.model, 8), (config.model, 16), (deep, 8)))
    assert two == pytest.approx(2 * one, rel=0.2) and deeper > 1.3 * one
    again = ar_cost(config.model, thrifty, 8, 100, 80)
    assert again.working < 0.75 * one and again.flops > ar_cost(config.model, config.training, 8, 100, 80).flops


def test_the_nar_and_the_codec_grow_with_their_batch_alone():
    nar = resolve("train-nar", "smoke")
    codec = resolve("train-codec", "smoke", overrides=("codec.num_codebooks=2", "discriminator.fft_sizes=[256]"))
    small, large = (nar_cost(nar.model, nar.training, items, 30, 90, 30) for items in (2, 4))
    assert large.flops == pytest.approx(2 * small.flops, rel=0.01) and large.parameters == small.parameters
    small, large = (codec_cost(codec, items, 6000) for items in (1, 2))
    assert large.flops == pytest.approx(2 * small.flops, rel=0.01) and large.working > 1.7 * small.working
    assert small.averaged < small.parameters, "the discriminator has no average"


def test_more_cards_take_less_time_and_memory_until_gradients_cost_more():
    cost = StepCost(working=40 * 2**30, flops=1e15, operations=10_000, parameters=700_000_000)
    seconds = [h100s(cards, "bf16").seconds(cost.flops, cost.operations, "lm", cost.parameters) for cards in (1, 4, 16)]
    assert seconds[0] == pytest.approx(1e15 / (PEAKS["H100"] * 1e12 * 0.35))
    assert seconds[0] > seconds[1] > seconds[2] > seconds[0] / 16, "the sum of gradients is not divided"
    assert cost.peak(0.25) < cost.peak(1.0) and cost.peak(0.25, accumulated=True) > cost.peak(0.25)


def test_a_step_of_small_tensors_takes_as_long_as_its_launches():
    tiny = h100s(1, "bf16").seconds(1.0, 1000, "lm", 10)
    assert tiny == pytest.approx(0.008)
    assert Machine("c", "cpu", 1e9, 1.0).seconds(1.0, 1000, "lm", 10) < 1e-6


def test_full_precision_is_slower_on_every_card():
    assert h100s(1, "bf16").peak == 15 * h100s(1, "fp32").peak
    assert set(machines._FP32_SLOWER) < set(PEAKS), "each is a card of the table"


def test_this_machine_is_measured():
    here = this_machine(torch.device("cpu"), "fp32")
    assert here.kind == "cpu" and here.memory_gib > 0.5 and here.peak > 1e8
    assert product_flops(torch.device("cpu"), turns=1) > 1e8


def test_speed_and_days_follow_from_seconds_a_step():
    assert pace(2.0, 3600.0, 43_200) == {"seconds_a_step": 2.0, "audio_hours_a_day": 43_200.0, "days_to_finish": 1.0}
