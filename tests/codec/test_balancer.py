from __future__ import annotations

import torch

from stages.codec.balancer import Balancer
from stages.codec.quantizer import Ranks

WEIGHTS = {"small": 1.0, "large": 3.0, "off": 0.0}


def losses_of(output):
    return {"small": output[..., 0].mean() * 1e-4, "large": output[..., 1].mean() * 1e5, "off": output.sum() * 1e9}


def gradient(balancer, batch: int = 4, names=("small", "large", "off")):
    """The balanced gradient at the output and at a weight that the whole batch shares."""
    weight = torch.ones(1, requires_grad=True)
    output = weight * torch.ones(batch, 1, 10)
    losses = {name: value for name, value in losses_of(output).items() if name in names}
    balanced = balancer(losses, output)
    return balanced, torch.autograd.grad((output * balanced).sum(), weight)[0]


def test_each_loss_has_its_weights_share_whatever_its_scale() -> None:
    found, weight = gradient(Balancer(WEIGHTS), batch=1)
    torch.testing.assert_close(found[0, 0, :3], torch.tensor([0.25, 0.75, 0.0]))
    torch.testing.assert_close(weight, torch.tensor([1.0]))


def test_a_batch_gives_the_mean_over_its_items() -> None:
    one, four = gradient(Balancer(WEIGHTS), 1)[1], gradient(Balancer(WEIGHTS), 4)[1]
    torch.testing.assert_close(one, four)


def test_a_loss_that_has_not_joined_yet_has_no_share() -> None:
    found, _ = gradient(Balancer(WEIGHTS), 1, names=("small", "off"))
    torch.testing.assert_close(found[0, 0, :3], torch.tensor([1.0, 0.0, 0.0]))


def test_the_moving_average_is_saved_and_corrected_at_the_start() -> None:
    first = Balancer(WEIGHTS, decay=0.9)
    output = torch.ones(1, 1, 10, requires_grad=True)
    first({name: value for name, value in losses_of(output).items()}, output)
    second = Balancer(WEIGHTS, decay=0.9)
    second.load_state_dict(first.state_dict())
    louder = {name: value * 100 for name, value in losses_of(output).items()}
    resumed, went_on = second(louder, output), first(louder, output)
    assert torch.equal(resumed, went_on)
    average = (0.9 * 0.1 * 1 + 0.1 * 100) / (0.9 * 0.1 + 0.1)
    torch.testing.assert_close(resumed.sum(), torch.tensor(100 / average))


def test_norms_are_averaged_over_processes() -> None:
    doubled = Ranks(0, 2, lambda tensor: tensor * 4)  # the other process saw three times this one's norm
    output = torch.ones(1, 1, 10, requires_grad=True)
    alone = Balancer(WEIGHTS)(losses_of(output), output)
    together = Balancer(WEIGHTS)(losses_of(output), output, doubled)
    torch.testing.assert_close(together, alone / 2)


def test_a_norm_that_is_not_finite_leaves_the_average_as_it_was() -> None:
    balancer = Balancer(WEIGHTS)
    gradient(balancer)
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    output = torch.ones(4, 1, 10, requires_grad=True)
    small = losses_of(output)["small"]
    assert not balancer({"small": small, "large": output.sum() * torch.nan}, output).isfinite().all()
    assert torch.equal(balancer.norm_sum[1], before["norm_sum"][1])
    assert torch.equal(balancer.norm_weight[1], before["norm_weight"][1])
    torch.testing.assert_close(gradient(balancer)[0][0, 0, :3] * 4, torch.tensor([0.25, 0.75, 0.0]))
