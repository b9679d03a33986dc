"""The paper's speaker model, with random weights of the real architecture in the layout of the published file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from stages.errors import MissingModelError
from stages.speech.speaker import load_embedder, similarity
from stages.speech.wavlm_tdnn import load_wavlm_tdnn, our_name

pytest.importorskip("transformers")

RATE = 16_000
HIDDEN, HEADS, LAYERS, CONV, FEED, CHANNELS, SCALE = 16, 2, 3, 8, 24, 16, 8
STRIDES = (5, 2, 2, 2, 2, 2, 2)
WAVLM = "feature_extract.model."


def published_shapes(layers, hidden, heads, conv, feed, positions, groups, channels, gate, pooled, dim, speakers):
    """Return name -> shape of every tensor in the published file, for a model of these sizes."""
    shapes = {"mask_emb": (hidden,), "layer_norm.weight": (conv,), "layer_norm.bias": (conv,),
              "post_extract_proj.weight": (hidden, conv), "post_extract_proj.bias": (hidden,),
              "encoder.pos_conv.0.bias": (hidden,), "encoder.pos_conv.0.weight_g": (1, 1, positions),
              "encoder.pos_conv.0.weight_v": (hidden, hidden // groups, positions),
              "encoder.layer_norm.weight": (hidden,), "encoder.layer_norm.bias": (hidden,),
              "encoder.layers.0.self_attn.relative_attention_bias.weight": (320, heads)}  # fmt: skip
    for index, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        part = f"feature_extractor.conv_layers.{index}."
        shapes |= {f"{part}0.weight": (conv, conv if index else 1, kernel), f"{part}2.1.weight": (conv,),
                   f"{part}2.1.bias": (conv,)}  # fmt: skip
    for index in range(layers):
        part = f"encoder.layers.{index}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= {f"{part}self_attn.{name}.weight": (hidden, hidden), f"{part}self_attn.{name}.bias": (hidden,)}
        shapes |= {f"{part}self_attn.grep_a": (1, heads, 1, 1),
                   f"{part}self_attn.grep_linear.weight": (8, hidden // heads),
                   f"{part}self_attn.grep_linear.bias": (8,), f"{part}fc1.weight": (feed, hidden),
                   f"{part}fc1.bias": (feed,), f"{part}fc2.weight": (hidden, feed), f"{part}fc2.bias": (hidden,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{part}{name}.weight": (hidden,), f"{part}{name}.bias": (hidden,)}
    shapes = {WAVLM + name: shape for name, shape in shapes.items()}
    shapes["feature_weight"] = (layers + 1,)
    shapes |= normed("layer1.conv", "layer1.bn", hidden, channels, 5)
    for block in ("layer2", "layer3", "layer4"):
        for name in ("Conv1dReluBn1", "Conv1dReluBn2"):
            shapes |= normed(f"{block}.{name}.conv", f"{block}.{name}.bn", channels, channels, 1)
        for index in range(SCALE - 1):
            part, group = f"{block}.Res2Conv1dReluBn.", channels // SCALE
            shapes |= normed(f"{part}convs.{index}", f"{part}bns.{index}", group, group, 3)
        shapes |= {f"{block}.SE_Connect.linear1.weight": (gate, channels), f"{block}.SE_Connect.linear1.bias": (gate,),
                   f"{block}.SE_Connect.linear2.weight": (channels, gate),
                   f"{block}.SE_Connect.linear2.bias": (channels,)}  # fmt: skip
    shapes |= {"conv.weight": (pooled, 3 * channels, 1), "conv.bias": (pooled,)}
    shapes |= {"pooling.linear1.weight": (gate, pooled, 1), "pooling.linear1.bias": (gate,),
               "pooling.linear2.weight": (pooled, gate, 1), "pooling.linear2.bias": (pooled,)}  # fmt: skip
    return shapes | norm_shapes("bn", 2 * pooled) | {
        "linear.weight": (dim, 2 * pooled), "linear.bias": (dim,), "loss_calculator.projection.weight": (speakers, dim)}


def normed(conv, norm, given, made, kernel):
    return {f"{conv}.weight": (made, given, kernel), f"{conv}.bias": (made,)} | norm_shapes(norm, made)


def norm_shapes(name, dim):
    return {f"{name}.{part}": (dim,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()}


TINY = {"layers": LAYERS, "hidden": HIDDEN, "heads": HEADS, "conv": CONV, "feed": FEED, "positions": 8, "groups": 2,
        "channels": CHANNELS, "gate": 4, "pooled": 12, "dim": 10, "speakers": 5}  # fmt: skip


@pytest.fixture(scope="module")
def tensors():
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in published_shapes(**TINY).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            found[name] = noise.abs() + 0.5
        else:
            found[name] = 0.4 * noise + (1.0 if "norm.weight" in name or ".2.1.weight" in name else 0.0)
    return found


@pytest.fixture(scope="module")
def checkpoint(tensors, tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "wavlm_large_finetune.pth"
    torch.save({"model": tensors, "best_valid_eer": 100.0}, file)
    return file


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def slow_states(tensors, waveform):
    """WavLM written out from its paper (section 3.1) and the published names: all layers' states [frames, dim]."""
    t = {name.removeprefix(WAVLM): tensor.double() for name, tensor in tensors.items() if name.startswith(WAVLM)}

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"])

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    x = (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-5).sqrt()
    x = x[None]
    for index, stride in enumerate(STRIDES):
        part = f"feature_extractor.conv_layers.{index}."
        x = functional.conv1d(x, t[f"{part}0.weight"], stride=stride)
        x = functional.gelu(norm(x.T, f"{part}2.1").T)
    x = linear(norm(x.T, "layer_norm"), "post_extract_proj")
    direction, size = t["encoder.pos_conv.0.weight_v"], t["encoder.pos_conv.0.weight_g"]
    kernel = size * direction / direction.norm(dim=(0, 1), keepdim=True)
    placed = functional.conv1d(x.T[None], kernel, t["encoder.pos_conv.0.bias"], padding=4, groups=2)[0, :, :-1]
    x = x + functional.gelu(placed).T
    states = []
    for index in range(LAYERS):
        part = f"encoder.layers.{index}."
        states.append(x)
        x = x + slow_attention(t, part + "self_attn.", norm(x, part + "self_attn_layer_norm"), linear)
        x = x + linear(functional.gelu(linear(norm(x, part + "final_layer_norm"), part + "fc1")), part + "fc2")
    return torch.stack([*states, norm(x, "encoder.layer_norm")])


def slow_attention(t, part, x, linear):
    """Self-attention with WavLM's gated relative positions, one head and one frame at a time."""
    frames, dim = len(x), HIDDEN // HEADS
    query, key, value = (linear(x, part + f"{name}_proj") for name in "qkv")
    table = t["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    heads = []
    for head in range(HEADS):
        of_head = slice(head * dim, (head + 1) * dim)
        rows = []
        for i in range(frames):
            parts = linear(x[i, of_head], part + "grep_linear").view(2, 4).sum(1)
            update, reset = parts.sigmoid()
            gate = update * (reset * t[part + "grep_a"][0, head, 0, 0] - 1) + 2
            bias = torch.stack([table[bucket(j - i), head] for j in range(frames)])
            scores = key[:, of_head] @ query[i, of_head] / math.sqrt(dim) + gate * bias
            rows.append(scores.softmax(0) @ value[:, of_head])
        heads.append(torch.stack(rows))
    return linear(torch.cat(heads, dim=1), part + "out_proj")


def bucket(distance, buckets=320, farthest=800):
    half = buckets // 2
    exact, sign = half // 2, half if distance > 0 else 0
    if abs(distance) < exact:
        return sign + abs(distance)
    far = exact + int(math.log(abs(distance) / exact) / math.log(farthest / exact) * (half - exact))
    return sign + min(far, half - 1)


def slow_vector(tensors, waveform):
    """The published ECAPA-TDNN over the softmax-weighted states, written out from the published names: [dim]."""
    t = {name: tensor.double() for name, tensor in tensors.items()}

    def convolve(x, name, dilation=1):
        weight = t[f"{name}.weight"]
        padding = dilation * (weight.shape[2] // 2)
        return functional.conv1d(x[None], weight, t[f"{name}.bias"], padding=padding, dilation=dilation)[0]

    def norm(x, name):
        mean, variance = t[f"{name}.running_mean"], t[f"{name}.running_var"]
        scaled = (x.T - mean) / (variance + 1e-5).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]
        return scaled.T

    def block(x, name, dilation):
        y = norm(convolve(x, f"{name}.Conv1dReluBn1.conv").relu(), f"{name}.Conv1dReluBn1.bn")
        width, done = CHANNELS // SCALE, []
        for index in range(SCALE - 1):
            group = y[index * width : (index + 1) * width] + (done[-1] if done else 0)
            part = f"{name}.Res2Conv1dReluBn."
            done.append(norm(convolve(group, f"{part}convs.{index}", dilation).relu(), f"{part}bns.{index}"))
        y = torch.cat([*done, y[(SCALE - 1) * width :]])
        y = norm(convolve(y, f"{name}.Conv1dReluBn2.conv").relu(), f"{name}.Conv1dReluBn2.bn")
        squeezed = (t[f"{name}.SE_Connect.linear1.weight"] @ y.mean(1) + t[f"{name}.SE_Connect.linear1.bias"]).relu()
        opened = t[f"{name}.SE_Connect.linear2.weight"] @ squeezed + t[f"{name}.SE_Connect.linear2.bias"]
        return x + y * opened.sigmoid()[:, None]

    weights = t["feature_weight"].exp() / t["feature_weight"].exp().sum()
    x = (weights[:, None, None] * slow_states(tensors, waveform)).sum(0).T + 1e-6
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    first = norm(convolve(x, "layer1.conv").relu(), "layer1.bn")
    second = block(first, "layer2", 2)
    third = block(second, "layer3", 3)
    fourth = block(third, "layer4", 4)
    x = convolve(torch.cat([second, third, fourth]), "conv").relu()
    attention = convolve(convolve(x, "pooling.linear1").tanh(), "pooling.linear2").softmax(1)
    mean = (attention * x).sum(1)
    spread = ((attention * x**2).sum(1) - mean**2).clamp(min=1e-9).sqrt()
    pooled = norm(torch.cat([mean, spread])[:, None], "bn")[:, 0]
    return t["linear.weight"] @ pooled + t["linear.bias"]


def test_the_layout_is_that_of_the_published_file_of_711_tensors():
    large = TINY | {"layers": 24, "hidden": 1024, "heads": 16, "conv": 512, "feed": 4096, "positions": 128,
                    "groups": 16, "channels": 512, "gate": 128, "pooled": 1536, "dim": 256}  # fmt: skip
    names = published_shapes(**large)
    assert len(names) == 711 and sum(name.startswith(WAVLM) for name in names) == 488


def test_every_published_tensor_has_one_place_in_our_model(tensors, checkpoint):
    used = [name for name in tensors if not name.startswith("loss_calculator.")]
    ours = load_wavlm_tdnn(checkpoint).state_dict()
    assert {our_name(name) for name in used} == set(ours) and len(used) == len(ours)
    for name in used:
        torch.testing.assert_close(ours[our_name(name)], tensors[name], rtol=0, atol=0)


def test_the_vector_is_that_of_the_published_arithmetic_written_out(tensors, checkpoint):
    waveform = torch.from_numpy(noise(2.2))  # 109 frames: from 80 on, distances share buckets
    with torch.inference_mode():
        ours = load_wavlm_tdnn(checkpoint)(waveform[None])[0]
    torch.testing.assert_close(ours.double(), slow_vector(tensors, waveform.double()), rtol=1e-3, atol=1e-4)


def test_a_batch_gives_the_vectors_that_each_waveform_has_alone(checkpoint):
    model = load_wavlm_tdnn(checkpoint)
    first, second = (torch.from_numpy(noise(1.0, seed))[None] for seed in (1, 2))
    with torch.inference_mode():
        torch.testing.assert_close(model(torch.cat([first, 3 * second])), torch.cat([model(first), model(second)]),
                                   rtol=1e-3, atol=1e-4)  # fmt: skip


def test_a_file_is_the_speaker_model_of_its_name_as_pth_or_safetensors(tensors, checkpoint, tmp_path):
    save_file(tensors, tmp_path / "mine.safetensors")
    theirs, mine = load_embedder(str(checkpoint)), load_embedder(str(tmp_path / "mine.safetensors"))
    assert (theirs.name, mine.name) == ("wavlm_large_finetune", "mine")
    vectors = [embedder.embed(noise(2.0), 16_000) for embedder in (theirs, mine)]
    np.testing.assert_array_equal(*vectors)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1.0) and vectors[0].shape == (10,)
    assert similarity(vectors[0], theirs.embed(noise(2.0, seed=3), 16_000)) < 0.9999


def test_a_file_of_something_else_says_what_it_lacks(tensors, tmp_path):
    def load(content, name="model.pth"):
        torch.save(content, tmp_path / name)
        return load_embedder(str(tmp_path / name))

    with pytest.raises(MissingModelError, match="no speaker model at"):
        load_embedder(str(tmp_path / "nowhere.pth"))
    with pytest.raises(MissingModelError, match=r"no tensor 'feature_extract\.model"):
        load({"model": {"weight": torch.zeros(2)}})
    with pytest.raises(MissingModelError, match=r"another model.*block3"):
        load({"model": {name: each for name, each in tensors.items() if not name.startswith("layer3.")}})
    with pytest.raises(MissingModelError, match=r"another model.*size mismatch"):
        load({"model": tensors | {"layer1.bn.weight": torch.zeros(3)}})
    with pytest.raises(MissingModelError, match="Python code"):
        load({"model": tensors, "code": slow_vector})
    (tmp_path / "torn.safetensors").write_bytes(b"\x00" * 10)
    with pytest.raises(MissingModelError, match="damaged"):
        load_embedder(str(tmp_path / "torn.safetensors"))
