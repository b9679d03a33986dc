"""Self-supervised speech models: waveforms to features that tell words apart better than voices.

A codec that shall keep the words has its first codebook taught by them (SpeechTokenizer, appendix A.1).
"""

from __future__ import annotations

from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn
from torchaudio.transforms import Resample

from stages.artifacts.tensors import model_fingerprint
from stages.errors import MissingModelError, UsageError
from stages.speech.known_weights import fetch

if TYPE_CHECKING:
    from transformers import HubertModel

Layer = int | Literal["average"]
HUBERT_FILES = "config.json preprocessor_config.json pytorch_model.bin"  # of facebook/hubert-base-ls960
MAX_SPEED_CHANGE = 1.1  # beyond it, speech is no longer what the model was trained on; the paper needs 50/48


class SelfSupervised(Protocol):
    """A frozen model that gives one feature vector every `hop_length` samples at `sample_rate` Hz."""

    sample_rate: int
    hop_length: int
    dim: int
    fingerprint: str

    def features(self, waveform: Tensor) -> Tensor:
        """Return [batch, dim, samples / hop_length] of [batch, 1, samples] whose samples are a multiple of the hop.

        Frame i is centred on samples i * hop_length to (i + 1) * hop_length.
        """
        ...


class HubertFeatures(nn.Module):
    """HuBERT (Hsu et al. 2021) as `transformers` has it: one of its layers, or the average of all.

    Layer 0 is what the transformer is given. The average counts it too, as the released SpeechTokenizer does.
    """

    def __init__(self, model: HubertModel, sample_rate: int, normalize: bool, layer: Layer = "average"):
        super().__init__()
        config = model.config
        if layer != "average" and not 0 <= layer <= config.num_hidden_layers:
            raise UsageError(f"expected `average` or a layer from 0 to {config.num_hidden_layers}, got `{layer}`",
                             "set `semantic.layer`")
        self.model = model.float()
        self.eval().requires_grad_(False)
        self.sample_rate, self.normalize, self.layer = sample_rate, normalize, layer
        self.dim = config.hidden_size
        self.hop_length = prod(config.conv_stride)
        missing = _receptive_field(config.conv_kernel, config.conv_stride) - self.hop_length
        self.padding = (missing // 2, missing - missing // 2)  # 40 and 40 samples: 50 frames a second, not 49
        # the mask of its own training is not used here, and checkpoints without one get a random one
        weights = {name: tensor for name, tensor in model.state_dict().items() if name != "masked_spec_embed"}
        self.fingerprint = model_fingerprint({"sample_rate": sample_rate, "normalize": normalize}, weights)

    @torch.no_grad()
    def features(self, waveform: Tensor) -> Tensor:
        samples = waveform.float().squeeze(1)
        if self.normalize:  # each waveform for itself, as Wav2Vec2FeatureExtractor does
            variance, mean = torch.var_mean(samples, dim=1, correction=0, keepdim=True)
            samples = (samples - mean) / (variance + 1e-7).sqrt()
        found = self.model(nn.functional.pad(samples, self.padding), output_hidden_states=True).hidden_states
        layer = torch.stack(found).mean(0) if self.layer == "average" else found[self.layer]
        return layer.transpose(1, 2)


def _receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many samples one frame of a stack of convolutions sees: 400 for HuBERT."""
    return 1 + sum((kernel - 1) * prod(strides[:index]) for index, kernel in enumerate(kernels))


class AlignedFeatures(nn.Module):
    """Features with the frames of a codec: the model hears the waveform at another speed (appendix A.1).

    HuBERT gives 50 frames a second, the codec 48: played 50/48 times as fast, a second of 24 kHz audio is 0.96 s,
    which HuBERT hears as 15,360 samples at 16 kHz and 48 frames. So one hop of the codec becomes one of the model.
    """

    def __init__(self, model: SelfSupervised, sample_rate: int, hop_length: int):
        super().__init__()
        self.model = model
        own_rate, frame_rate = model.sample_rate / model.hop_length, sample_rate / hop_length
        speed = own_rate / frame_rate
        if not 1 / MAX_SPEED_CHANGE <= speed <= MAX_SPEED_CHANGE:
            raise UsageError(
                f"expected a codec of nearly {own_rate:g} frames a second, as the model that teaches it has, "
                f"got one of `{frame_rate:g}`: the model would hear speech at {speed:.2f} times its speed",
                "set `codec.seanet.ratios` to [10, 5, 5, 2] (48 Hz at 24 kHz), or train --arch encodec")
        self.resample = Resample(hop_length, model.hop_length)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Return [batch, dim, frames] of [batch, 1, frames * hop_length] at the codec's rate."""
        return self.model.features(self.resample(waveform.float()))


def load_hubert(name: str, layer: Layer = "average") -> HubertFeatures:
    """Return the HuBERT in a folder, or of a name in the hub's cache; nothing is downloaded.

    Raises `MissingModelError` when transformers or the weights are not on this machine.
    """
    if find_spec("transformers") is None:
        raise MissingModelError("HuBERT needs the package `transformers`, which is not installed",
                                "pip install 'halle[hf]'")
    from transformers import HubertModel, Wav2Vec2FeatureExtractor
    from transformers.utils import cached_file

    try:
        cached_file(name, "config.json", local_files_only=True)  # a model without one is given default sizes
        model, found = HubertModel.from_pretrained(name, local_files_only=True, output_loading_info=True)
        reads = Wav2Vec2FeatureExtractor.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise MissingModelError(
            f"there is no whole HuBERT at `{name}`: {' '.join(str(error).split())}",
            f"{fetch('facebook/hubert-base-ls960', HUBERT_FILES)}; on a machine without "
            "network, put these files into a FOLDER and add -O semantic.model=FOLDER") from error
    if lacking := set(found["missing_keys"]) - {"masked_spec_embed"}:
        raise UsageError(f"expected the weights of a HuBERT in `{name}`, got a model without `{min(lacking)}` "
                         f"and {len(lacking) - 1} other tensors", "set semantic.model to facebook/hubert-base-ls960")
    return HubertFeatures(model, reads.sampling_rate, reads.do_normalize, layer)
