from itertools import product

import numpy as np
import torch

from stages.lm.aligner import BLANK, Aligner, forward_sum, log_prior, monotonic_path


def ways(num_frames, num_tokens):
    """Yield every monotonic way through all tokens, by a slow search."""
    for steps in product((0, 1), repeat=num_frames - 1):
        if sum(steps) == num_tokens - 1:
            yield np.cumsum([0, *steps])


def test_the_path_is_the_best_of_all_monotonic_ones():
    random = np.random.default_rng(0)
    for num_frames, num_tokens in ((1, 1), (4, 4), (7, 3), (9, 5)):
        scores = random.normal(size=(num_frames, num_tokens)).astype(np.float32)
        frames = np.arange(num_frames)
        best = max(ways(num_frames, num_tokens), key=lambda way: scores[frames, way].sum())
        assert monotonic_path(scores).tolist() == best.tolist()


def test_the_loss_is_the_probability_of_all_monotonic_ways():
    """Between, before and behind tokens a frame may say nothing, at the weight of `BLANK`."""
    scores = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    weighed = torch.cat([torch.full((1, 5, 1), BLANK), scores], dim=2).log_softmax(-1)[0]
    total = []
    for labels in product(range(4), repeat=5):
        said = [label for place, label in enumerate(labels) if label and (place == 0 or labels[place - 1] != label)]
        if said == [1, 2, 3]:
            total.append(sum(weighed[frame, label] for frame, label in enumerate(labels)))
    expected = -torch.stack(total).logsumexp(0) / 5
    found = forward_sum(scores, torch.tensor([5]), torch.tensor([3]))
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_prior_is_a_distribution_whose_middle_goes_along_the_diagonal():
    prior = log_prior(torch.tensor([40]), torch.tensor([9]))[0].exp()
    assert torch.allclose(prior.sum(1), torch.ones(40), atol=1e-4)
    mean = prior @ torch.arange(9.0)
    assert torch.allclose(mean, torch.arange(1, 41) / 41 * 8, atol=1e-3)


def test_nothing_is_said_beyond_the_lengths_of_an_item():
    torch.manual_seed(0)
    frames, tokens = torch.tensor([10, 6]), torch.tensor([7, 4])
    scores = Aligner(6, 20).eval()(torch.randn(2, 6, 20), torch.randint(20, (2, 7)), frames, tokens)
    assert scores.shape == (2, 10, 7) and (scores[0] > -1000).all() and (scores[1, :6, :4] > -1000).all()
    assert (scores[1, 6:] < -1000).all() and (scores[1, :, 4:] < -1000).all()
