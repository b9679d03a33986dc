"""The paper's speaker model: WavLM-large (Chen et al. 2022), its layers weighted, read by an ECAPA-TDNN.

Microsoft publishes it with UniSpeech (`downstreams/speaker_verification`) as `wavlm_large_finetune.pth`. WavLM itself
is that of `transformers`; the layers behind it are here, and all sizes are those of the tensors in the file.

    waveform --WavLM--> states of all layers --softmax weights--> frames --ECAPA-TDNN--> vector of the voice
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.artifacts.tensors import read_tensors
from stages.errors import MissingModelError, StorageError

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
FETCH = ("download `wavlm_large_finetune.pth` (1.3 GB, WavLM large) from "
         "https://github.com/microsoft/UniSpeech/tree/main/downstreams/speaker_verification")
_WAVLM = "feature_extract.model."
_CLASSIFIER = "loss_calculator."  # of the training speakers: no part of the model
_STRIDES = (5, 2, 2, 2, 2, 2, 2)  # of WavLM's convolutions: tensors do not tell strides
_MAX_DISTANCE = 800  # frames, of WavLM's relative positions
_DILATIONS = (2, 3, 4)

# (pattern of a name in the file, our name). The first that fits is taken.
_NAMES = [(re.compile(pattern), ours) for pattern, ours in (
    (_WAVLM + r"mask_emb", "wavlm.masked_spec_embed"),
    (_WAVLM + r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"wavlm.feature_extractor.conv_layers.\1.conv."),
    (_WAVLM + r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.",
     r"wavlm.feature_extractor.conv_layers.\1.layer_norm."),
    (_WAVLM + r"layer_norm\.", "wavlm.feature_projection.layer_norm."),
    (_WAVLM + r"post_extract_proj\.", "wavlm.feature_projection.projection."),
    (_WAVLM + r"encoder\.pos_conv\.0\.weight_g", "wavlm.encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (_WAVLM + r"encoder\.pos_conv\.0\.weight_v", "wavlm.encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (_WAVLM + r"encoder\.pos_conv\.0\.", "wavlm.encoder.pos_conv_embed.conv."),
    (_WAVLM + r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"wavlm.\1.layer_norm."),
    (_WAVLM + r"(encoder\.layers\.\d+)\.self_attn\.relative_attention_bias\.", r"wavlm.\1.attention.rel_attn_embed."),
    (_WAVLM + r"(encoder\.layers\.\d+)\.self_attn\.grep_a", r"wavlm.\1.attention.gru_rel_pos_const"),
    (_WAVLM + r"(encoder\.layers\.\d+)\.self_attn\.grep_linear\.", r"wavlm.\1.attention.gru_rel_pos_linear."),
    (_WAVLM + r"(encoder\.layers\.\d+)\.self_attn\.", r"wavlm.\1.attention."),
    (_WAVLM + r"(encoder\.layers\.\d+)\.fc1\.", r"wavlm.\1.feed_forward.intermediate_dense."),
    (_WAVLM + r"(encoder\.layers\.\d+)\.fc2\.", r"wavlm.\1.feed_forward.output_dense."),
    (_WAVLM, "wavlm."),
    (r"feature_weight", "layer_weights"),
    (r"layer1\.(conv|bn)\.", r"tdnn.enter.\1."),
    (r"layer([234])\.Conv1dReluBn1\.", r"tdnn.block\1.enter."),
    (r"layer([234])\.Res2Conv1dReluBn\.", r"tdnn.block\1.middle."),
    (r"layer([234])\.Conv1dReluBn2\.", r"tdnn.block\1.leave."),
    (r"layer([234])\.SE_Connect\.", r"tdnn.block\1.gate."),
    (r"(conv|pooling|bn|linear)\.", r"tdnn.\1."),
)]


class WavLMTDNN(nn.Module):
    """Turn 16 kHz speech [batch, samples], equally long, into vectors of its voices [batch, dim] of any length."""

    def __init__(self, wavlm: nn.Module, tdnn: ECAPATDNN, num_states: int):
        super().__init__()
        self.wavlm, self.tdnn = wavlm, tdnn
        self.layer_weights = nn.Parameter(torch.zeros(num_states))

    def forward(self, waveform: Tensor) -> Tensor:
        waveform = functional.layer_norm(waveform, waveform.shape[1:])  # each for itself, as WavLM-large was trained
        found = self.wavlm(waveform, output_hidden_states=True)
        # What every layer was given, and what the encoder gives: versions of transformers differ in whether the last
        # of their hidden states has been through the encoder's final norm, as it has in the published model.
        states = torch.stack([*found.hidden_states[:-1], found.last_hidden_state])
        frames = torch.einsum("n,nbtd->bdt", self.layer_weights.softmax(0), states)
        return self.tdnn(functional.instance_norm(frames + 1e-6))


class ECAPATDNN(nn.Module):
    """ECAPA-TDNN (Desplanques et al. 2020): frames [batch, input_dim, frames] to vectors [batch, dim]."""

    def __init__(self, input_dim: int, channels: int, scale: int, gate_dim: int, pooled_dim: int, attention_dim: int,
                 dim: int):
        super().__init__()
        self.enter = _Convolution(input_dim, channels, 5)
        self.block2, self.block3, self.block4 = (_Block(channels, scale, gate_dim, dilation) for dilation in _DILATIONS)
        self.conv = nn.Conv1d(len(_DILATIONS) * channels, pooled_dim, 1)
        self.pooling = _Pooling(pooled_dim, attention_dim)
        self.bn = nn.BatchNorm1d(2 * pooled_dim)
        self.linear = nn.Linear(2 * pooled_dim, dim)

    def forward(self, frames: Tensor) -> Tensor:
        second = self.block2(self.enter(frames))
        third = self.block3(second)
        joined = torch.cat([second, third, self.block4(third)], dim=1)
        return self.linear(self.bn(self.pooling(self.conv(joined).relu())))


class _Convolution(nn.Module):
    def __init__(self, input_dim: int, dim: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv1d(input_dim, dim, kernel_size, padding=kernel_size // 2)
        self.bn = nn.BatchNorm1d(dim)

    def forward(self, frames: Tensor) -> Tensor:
        return self.bn(self.conv(frames).relu())


class _Block(nn.Module):
    """A residual block: point-wise, multi-scale and point-wise convolutions, then a gate for each channel."""

    def __init__(self, channels: int, scale: int, gate_dim: int, dilation: int):
        super().__init__()
        self.enter, self.leave = _Convolution(channels, channels, 1), _Convolution(channels, channels, 1)
        self.middle = _MultiScale(channels // scale, scale, dilation)
        self.gate = _Gate(channels, gate_dim)

    def forward(self, frames: Tensor) -> Tensor:
        return frames + self.gate(self.leave(self.middle(self.enter(frames))))


class _MultiScale(nn.Module):
    """Split the channels into groups; each but the last goes, with the result of the one before, through its own."""

    def __init__(self, group_dim: int, scale: int, dilation: int):
        super().__init__()
        self.group_dim = group_dim
        self.convs = nn.ModuleList(nn.Conv1d(group_dim, group_dim, 3, padding=dilation, dilation=dilation)
                                   for _ in range(scale - 1))
        self.bns = nn.ModuleList(nn.BatchNorm1d(group_dim) for _ in range(scale - 1))

    def forward(self, frames: Tensor) -> Tensor:
        *groups, last = frames.split(self.group_dim, dim=1)
        done: list[Tensor] = []
        for group, conv, norm in zip(groups, self.convs, self.bns, strict=True):
            done.append(norm(conv(group + done[-1] if done else group).relu()))
        return torch.cat([*done, last], dim=1)


class _Gate(nn.Module):
    def __init__(self, channels: int, gate_dim: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, gate_dim), nn.Linear(gate_dim, channels)

    def forward(self, frames: Tensor) -> Tensor:
        openness = self.linear2(self.linear1(frames.mean(dim=2)).relu()).sigmoid()
        return frames * openness.unsqueeze(2)


class _Pooling(nn.Module):
    """Mean and standard deviation over time, in which attention weighs the frames of each channel."""

    def __init__(self, dim: int, attention_dim: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Conv1d(dim, attention_dim, 1), nn.Conv1d(attention_dim, dim, 1)

    def forward(self, frames: Tensor) -> Tensor:
        weights = self.linear2(self.linear1(frames).tanh()).softmax(dim=2)
        mean = (weights * frames).sum(dim=2)
        variance = (weights * frames.square()).sum(dim=2) - mean.square()
        return torch.cat([mean, variance.clamp(min=1e-9).sqrt()], dim=1)


def load_wavlm_tdnn(file: Path) -> WavLMTDNN:
    """Read the published file, or its tensors as safetensors.

    Raises `MissingModelError` when there is none or it is something else.
    """
    tensors = {name: tensor for name, tensor in _read(file).items() if not name.startswith(_CLASSIFIER)}
    try:
        model = _of_the_size_of(tensors)
        model.load_state_dict({our_name(name): tensor for name, tensor in tensors.items()})
    except KeyError as error:
        raise MissingModelError(f"`{file}` holds no WavLM with a TDNN: it has no tensor {error}", FETCH) from error
    except (RuntimeError, ValueError, IndexError) as error:
        raise MissingModelError(f"`{file}` holds another model than WavLM with a TDNN: "
                                f"{' '.join(str(error).split())[:300]}", FETCH) from error
    return model.eval().requires_grad_(False)


def our_name(name: str) -> str:
    """Return our name of a tensor of the published file; a name that it does not have stays as it is."""
    for pattern, ours in _NAMES:
        if (found := pattern.match(name)):
            return found.expand(ours) + name[found.end():]
    return name


def _of_the_size_of(tensors: dict[str, Tensor]) -> WavLMTDNN:
    """Build a model whose tensors have the shapes of these."""
    from transformers import WavLMConfig, WavLMModel

    def shape(name: str) -> torch.Size:
        return tensors[name].shape

    convolutions = [shape(f"{_WAVLM}feature_extractor.conv_layers.{index}.0.weight") for index in range(len(_STRIDES))]
    layers = sum(name.startswith(f"{_WAVLM}encoder.layers.") and name.endswith(".fc1.weight") for name in tensors)
    hidden, group_dim, positions = shape(f"{_WAVLM}encoder.pos_conv.0.weight_v")
    first = f"{_WAVLM}encoder.layers.0."
    wavlm = WavLMModel(WavLMConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=shape(f"{first}self_attn.grep_a")[1],
        intermediate_size=shape(f"{first}fc1.weight")[0], conv_dim=tuple(each[0] for each in convolutions),
        conv_kernel=tuple(each[2] for each in convolutions), conv_stride=_STRIDES, conv_bias=False,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=positions,
        num_conv_pos_embedding_groups=hidden // group_dim, max_bucket_distance=_MAX_DISTANCE,
        num_buckets=shape(f"{first}self_attn.relative_attention_bias.weight")[0],
    ))  # fmt: skip
    channels, input_dim, _ = shape("layer1.conv.weight")
    tdnn = ECAPATDNN(input_dim, channels, channels // shape("layer2.Res2Conv1dReluBn.convs.0.weight")[0],
                     shape("layer2.SE_Connect.linear1.weight")[0], shape("conv.weight")[0],
                     shape("pooling.linear1.weight")[0], shape("linear.weight")[0])
    return WavLMTDNN(wavlm, tdnn, shape("feature_weight")[0])


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by their published names."""
    if not file.is_file():
        raise MissingModelError(f"there is no speaker model at `{file}`", FETCH)
    try:
        if file.suffix == ".safetensors":
            return read_tensors(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError, StorageError) as error:
        raise MissingModelError(f"`{file}` is damaged, or holds Python code and not only weights", FETCH) from error
    tensors = content.get("model", content) if isinstance(content, dict) else {}
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
