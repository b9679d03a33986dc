import copy
import logging

import pytest
import torch
from tiny_lm import SIZE, STREAMS, make_ar, ready, utterance
from torch import nn

from stages.config.models import ARConfig, NARConfig, TransformerConfig
from stages.errors import UsageError
from stages.lm import inference
from stages.lm.ar import ARModel, visible_columns
from stages.lm.inference import GraphedSteps, Int8Linear, PackedLinear, can_pack, load_for_speaking
from stages.lm.nar import NARModel

WIDER = TransformerConfig(dim=64, num_heads=4, num_layers=2, ffn_dim=128)


def log_probabilities(model):
    text, codes = utterance(6, 9)
    return model.log_probabilities(text, torch.tensor([6]), codes, torch.tensor([9]))


@pytest.mark.skipif(not can_pack("fp32"), reason="this processor's layers are not packed")
def test_a_packed_model_gives_the_same_up_to_rounding_and_every_linear_layer_is_packed():
    model = make_ar()
    expected = log_probabilities(model)
    packed = ready(model)
    kinds = [type(module) for module in packed.modules()]
    assert nn.Linear not in kinds and kinds.count(PackedLinear) == 2 * 5 + STREAMS
    assert torch.allclose(log_probabilities(packed), expected, atol=1e-5)


@pytest.mark.parametrize("rows", [(1,), (3, 5), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_computes_what_torchs_does(rows, dtype):
    if not can_pack("fp32" if dtype == torch.float32 else "bf16"):
        pytest.skip("this processor's layers are not packed")
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 80).to(dtype), torch.randn(*rows, 48, dtype=dtype)
    with torch.inference_mode():
        expected = linear(x)
        close = 1e-2 if dtype == torch.bfloat16 else 1e-5
        assert torch.allclose(PackedLinear(linear)(x), expected, rtol=close, atol=close)


def test_an_8_bit_layer_errs_by_less_than_its_two_roundings():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 96), torch.randn(4, 64)
    weight_step = linear.weight.detach().abs().amax(dim=1) / 127
    input_step = (x.max() - x.min()) / (255 if torch.cpu._is_vnni_supported() else 127)
    worst = x.abs().sum(1, keepdim=True) * weight_step / 2 + linear.weight.detach().abs().sum(1) * input_step
    with torch.inference_mode():
        error = (Int8Linear(linear)(x) - linear(x)).abs()
    assert error.max() > 0 and (error <= worst).all()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_coarser_weights_stay_close(precision):
    torch.manual_seed(0)
    config = ARConfig(transformer=WIDER, num_codebooks=STREAMS, codebook_size=SIZE, text_vocab_size=20)
    model = ARModel(config).eval()
    expected = log_probabilities(model)
    coarse = log_probabilities(ready(copy.deepcopy(model), precision)).float()
    assert 0 < (coarse - expected).abs().max() < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_nar_model_speaks_in_every_precision(precision):
    torch.manual_seed(0)
    config = NARConfig(transformer=WIDER, num_levels=2, codebook_size=SIZE, latent_dim=5, text_vocab_size=20)
    model, feature = NARModel(config).eval(), torch.randn(1, 5, 12)
    levels, text = torch.tensor([2]), torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        expected = model(feature, levels, text)
        found = ready(model, precision)(feature, levels, text)
    assert torch.allclose(found.float(), expected, atol={"fp32": 1e-5}.get(precision, 0.1))


def test_8_bit_weights_are_refused_elsewhere_than_on_a_cpu():
    with pytest.raises(UsageError, match="for a CPU, got device `meta`"):
        load_for_speaking(make_ar().to("meta"), {}.__getitem__, torch.device("meta"), "int8")


def opened(model):
    """A batch with a gap between the shorter text and what is generated."""
    text, codes = torch.randint(20, (2, 5)), torch.randint(SIZE, (2, STREAMS, 3))
    return model.begin(text, torch.tensor([5, 2]), codes, torch.tensor([3, 1]), 30)


@torch.no_grad()
def test_a_step_that_sees_unwritten_columns_too_gives_the_same():
    model = make_ar()
    torch.manual_seed(1)
    (logits, exact), columns = opened(model), torch.randint(SIZE, (4, 2, STREAMS))
    padded = copy.deepcopy(exact)
    assert logits.shape == (2, STREAMS, SIZE + 1)
    for column in columns:
        expected = model.advance(column, exact)
        assert torch.allclose(model.step(column, padded, visible=30), expected, atol=1e-5)


def test_steps_see_what_they_need_in_few_sizes():
    assert [visible_columns(needed, 700, 256) for needed in (1, 256, 257, 513)] == [256, 256, 512, 700]
    model, sizes = make_ar(), set()
    model.transformer.register_forward_pre_hook(lambda _, args: sizes.add(args[1].visible))
    text, codes = utterance(6, 3)
    with torch.no_grad():
        _, state = model.begin(text, torch.tensor([6]), codes, torch.tensor([3]), 70)
        sizes.clear()
        for _ in range(60):
            model.advance(codes[:, :, 0], state)
    assert sizes == {32, 64, 70}


class FakeGraph:
    """Records nothing but the call that a replay is to repeat, as a CUDA graph would."""

    def replay(self):
        self.logits.copy_(self.call())


@torch.no_grad()
def test_replayed_steps_are_those_taken_one_by_one(monkeypatch):
    """The bookkeeping around the graphs, on a machine without a GPU."""
    model = make_ar()
    torch.manual_seed(1)
    (_, state), columns = opened(model), torch.randint(SIZE, (6, 2, STREAMS))
    expected_state = copy.deepcopy(state)
    monkeypatch.setattr(inference, "GRAPH_COLUMNS", 12)

    def capture(steps, visible):
        before = copy.deepcopy(steps.state)
        graph = FakeGraph()
        graph.call = lambda: model.step(steps.column, steps.state, visible)
        graph.logits = model.step(steps.column, before, visible).clone()
        return graph, graph.logits

    monkeypatch.setattr(GraphedSteps, "_record", capture)
    steps = GraphedSteps(model, state)
    for column in columns:
        assert torch.allclose(steps(column, state), model.advance(column, expected_state), atol=1e-5)
    assert sorted(steps.graphs) == [12, 24]
    assert state.width == expected_state.width and torch.equal(state.steps, expected_state.steps)


@torch.no_grad()
def test_steps_that_cannot_be_captured_are_taken_as_they_are_and_it_is_said_once(monkeypatch, caplog):
    model = make_ar()
    torch.manual_seed(1)
    (_, state), columns = opened(model), torch.randint(SIZE, (3, 2, STREAMS))
    expected_state = copy.deepcopy(state)

    def fail(steps, visible):
        model.step(steps.column, steps.state, visible)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(GraphedSteps, "_record", fail)
    steps = GraphedSteps(model, state)
    with caplog.at_level(logging.WARNING):
        for column in columns:
            assert torch.allclose(steps(column, state), model.advance(column, expected_state), atol=1e-5)
    assert len(caplog.records) == 1 and "not permitted" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_on_a_gpu_graphs_give_what_steps_give():
    model = make_ar().cuda()
    torch.manual_seed(1)
    text, codes = torch.randint(20, (2, 5)).cuda(), torch.randint(SIZE, (2, STREAMS, 3)).cuda()
    _, state = model.begin(text, torch.tensor([5, 2]).cuda(), codes, torch.tensor([3, 1]).cuda(), 600)
    expected_state = copy.deepcopy(state)
    steps = GraphedSteps(model, state)
    for column in torch.randint(SIZE, (300, 2, STREAMS)).cuda():
        assert torch.allclose(steps(column, state), model.advance(column, expected_state), atol=1e-3)
    assert sorted(steps.graphs) == [256, 512]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_model_is_loaded_layer_by_layer_each_tensor_once(precision):
    whole, reads = make_ar(), []
    state = whole.state_dict()
    with torch.device("meta"):
        empty = ARModel(whole.config)
    loaded = load_for_speaking(empty, lambda name: reads.append(name) or state[name], torch.device("cpu"), precision)
    assert sorted(reads) == sorted(state)
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values()) and not loaded.training
    close = {"fp32": 1e-5}.get(precision, 0.05)
    assert torch.allclose(log_probabilities(loaded).float(), log_probabilities(whole), atol=close)
