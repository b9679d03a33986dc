"""Speech of the first levels alone: what the NAR need not predict is not heard."""

import numpy as np
import pytest
import torch
from tiny_voice import LONG, SENTENCES, say_in_time, tiny_model, tiny_pipeline, tiny_prompt

from stages.errors import UsageError


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def spoken(model, text, levels, **settings):
    takes, read = [], []
    hook = model.nar.register_forward_hook(lambda _, args, out: read.append(int(args[1][0])))
    pipeline = tiny_pipeline(model, lambda _, take: takes.append(take) or take,
                             sampling={"nar_levels": levels}, **settings)  # fmt: skip
    speech = pipeline.speak(text, tiny_prompt(model), seed=1)
    hook.remove()
    return speech, takes, set(read)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_so_many_levels_are_predicted_and_heard_in_every_pass(model, levels, monkeypatch):
    say_in_time(monkeypatch, model)
    _, takes, read = spoken(model, LONG, levels)
    assert len(takes) > 1 and read == set(range(1, levels + 1))
    hierarchy = model.codec.hierarchy
    for take in takes:
        assert hierarchy.levels_in(take.streams) == levels
        with torch.inference_mode():
            heard = model.codec.decode_latents(hierarchy.teacher_feature(take.streams, levels + 1))[0, 0]
        np.testing.assert_array_equal(take.waveform, heard.float().clamp(-1, 1).numpy())


def test_all_levels_are_what_is_heard_without_the_setting(model, monkeypatch):
    say_in_time(monkeypatch, model)
    found = [spoken(model, SENTENCES[0], levels)[0] for levels in (model.codec.hierarchy.num_levels, None, 1)]
    # where the prompt ends, its own PostQ codes have not seen what follows: `decode` finds them anew
    rest = [speech.generated[speech.sample_rate // 2 :] for speech in found]
    assert len(rest[0]) > 10_000
    np.testing.assert_allclose(rest[0], rest[1], atol=1e-5)
    assert rest[2].shape == rest[1].shape and np.abs(rest[2] - rest[1]).max() > 1e-3


def test_more_levels_than_there_are_are_refused(model):
    with pytest.raises(UsageError, match="at most 2"):
        tiny_pipeline(model, sampling={"nar_levels": 8})
