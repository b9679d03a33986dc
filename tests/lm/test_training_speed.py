"""Checkpointed and compiled blocks compute what plain ones do; only steps with gradients see them."""

import pytest
import torch
from tiny_lm import SIZE, STREAMS, utterance

from stages.config.lm_training import LMTrainingConfig
from stages.config.models import ARConfig, NARConfig, TransformerConfig
from stages.errors import MissingModelError
from stages.lm import training_speed, transformer
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel
from stages.lm.training_speed import require_torch, speed_up

SMALL = TransformerConfig(dim=32, num_heads=4, num_layers=3, ffn_dim=64, dropout=0.2)


def gradients(make, precision="fp32", **settings):
    """Return the gradients of two batches of different shapes, and the model."""
    torch.manual_seed(0)
    model, loss = make()
    speed_up(model.transformer, LMTrainingConfig(**settings))
    for number in (4, 7):
        torch.manual_seed(number)  # dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss(model, number).losses.sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, model


def make_ar():
    model = ARModel(ARConfig(transformer=SMALL, num_codebooks=STREAMS, codebook_size=SIZE, text_vocab_size=20))

    def loss(model, number):
        text, codes = utterance(5, 3 * number)
        size = torch.full((number,), 3 * number)
        return model.loss(text.expand(number, -1), torch.full((number,), 5), codes.expand(number, -1, -1), size)

    return model, loss


def make_nar():
    model = NARModel(NARConfig(transformer=SMALL, num_levels=3, codebook_size=SIZE, latent_dim=5, text_vocab_size=20))

    def loss(model, number):
        frames = 4 * number
        return model.loss(torch.randint(SIZE, (number, frames)), torch.full((number,), frames - 1),
                          torch.arange(number) % 3 + 1, feature=torch.randn(number, 5, frames),
                          text=torch.randint(20, (number, 6)))  # fmt: skip

    return model, loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [make_ar, make_nar])
def test_checkpointed_activations_give_the_same_gradients_bit_for_bit(make, precision):
    plain, _ = gradients(make, precision)
    again, _ = gradients(make, precision, checkpoint_activations=True)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert any(gradient.any() for gradient in plain.values())


def test_checkpointing_keeps_fewer_activations():
    def kept(**settings):
        sizes = []
        torch.manual_seed(0)
        model, loss = make_ar()
        speed_up(model.transformer, LMTrainingConfig(**settings))
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            loss(model, 4)
        return sum(sizes)

    assert kept(checkpoint_activations=True) < 0.5 * kept()


@pytest.fixture
def dynamo():
    """The compiler's counters, without what other tests compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("make", [make_ar, make_nar])
def test_compiled_blocks_give_the_same_gradients_from_one_compilation_under_plain_names(make, monkeypatch, dynamo):
    monkeypatch.setattr(training_speed, "BACKEND", "eager")  # what dynamo makes of a block, without a C compiler
    plain, unchanged = gradients(make)
    for settings in ({"compile": True}, {"compile": True, "checkpoint_activations": True}):
        compiled, model = gradients(make, **settings)
        assert all(torch.allclose(plain[name], compiled[name], atol=1e-6) for name in plain)
        assert model.state_dict().keys() == unchanged.state_dict().keys()
    assert dynamo["stats"]["unique_graphs"] == 1  # for three layers and two shapes


def test_only_what_needs_gradients_goes_through_the_changed_blocks():
    model, loss = make_ar()
    calls = []
    model.transformer.train_block = lambda *inputs: calls.append(1) or transformer.apply_block(*inputs)
    with torch.no_grad():
        loss(model, 4)
    assert not calls
    loss(model, 4)
    assert len(calls) == 3


def test_a_torch_without_muon_is_told_so_before_training(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    require_torch(LMTrainingConfig(), torch.device("cpu"))
    with pytest.raises(MissingModelError, match=r"expected torch 2\.9 or newer") as caught:
        require_torch(LMTrainingConfig(optimizer="muon"), torch.device("cpu"))
    assert "training.optimizer=adamw" in caught.value.hint


def test_a_machine_that_cannot_compile_is_told_so_before_training(monkeypatch):
    monkeypatch.setattr(training_speed, "BACKEND", "none-of-this-name")
    require_torch(LMTrainingConfig(), torch.device("cpu"))
    with pytest.raises(MissingModelError, match=r"`training\.compile` does not work on device `cpu`") as caught:
        require_torch(LMTrainingConfig(compile=True), torch.device("cpu"))
    assert "C++ compiler" in caught.value.hint
