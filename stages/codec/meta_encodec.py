"""Meta's EnCodec weights (Defossez et al., 2022) as one of our codecs: 24 kHz, 75 Hz.

Three forms of the same weights: the `.th` file of the `encodec` package, a Hugging Face folder, and its name on the
hub. They were trained with that package's own defaults (reflect padding, a convolution in each skip), which our own
codecs do not use. Of their 32 codebooks the first eight are read: 6 kbit/s, and what `halle mreq` learns from.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from stages.artifacts.storage import sha256_file
from stages.artifacts.tensors import CONFIG_FILE, MODEL_FILE, read_tensors
from stages.codec.residual import ResidualCodec
from stages.config.hierarchy_rates import TEACHING_CODEBOOKS
from stages.config.models import CodecConfig, QuantizerConfig, SEANetConfig
from stages.errors import MissingModelError, StorageError, UsageError

HUB_NAME = "facebook/encodec_24khz"
PUBLIC_FILE = "https://dl.fbaipublicfiles.com/encodec/v0/encodec_24khz-d7cc33bc.th"
FETCH = (f"download {PUBLIC_FILE} and give that file, or {CONFIG_FILE} and {MODEL_FILE} of "
         f"https://huggingface.co/{HUB_NAME} and give their folder")
META_24KHZ = SEANetConfig(ratios=(8, 5, 4, 2), pad_mode="reflect", true_skip=False, init="torch")
# of a Hugging Face config.json: key -> (our field, its value where an old file lacks the key)
HUB_FIELDS = {
    "sampling_rate": ("sample_rate", 24_000), "upsampling_ratios": ("ratios", [8, 5, 4, 2]),
    "hidden_size": ("latent_dim", 128), "num_filters": ("base_filters", 32),
    "num_residual_layers": ("num_residual_layers", 1), "kernel_size": ("kernel_size", 7),
    "last_kernel_size": ("last_kernel_size", 7), "residual_kernel_size": ("residual_kernel_size", 3),
    "dilation_growth_rate": ("dilation_base", 2), "compress": ("compress", 2), "num_lstm_layers": ("lstm_layers", 2),
    "use_causal_conv": ("causal", True), "pad_mode": ("pad_mode", "reflect"),
}  # fmt: skip
# what our codec has no setting for
HUB_REQUIRED = {"audio_channels": 1, "normalize": False, "norm_type": "weight_norm", "chunk_length_s": None,
                "trim_right_ratio": 1.0}  # fmt: skip
WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
CODEBOOK = re.compile(r"quantizer\.(?:vq\.)?layers\.(\d+)\._?codebook\.embed")


def is_meta_encodec(path: str | Path) -> bool:
    """Tell whether a path or name stands for EnCodec weights of Meta's making."""
    return Path(path).suffix == ".th" or str(path) == HUB_NAME or _hub_settings(Path(path)) is not None


def load_meta_encodec(path: str | Path) -> ResidualCodec:
    """Read the weights at `path`: a `.th` file, a Hugging Face folder, or the name `facebook/encodec_24khz`.

    Raises MissingModelError when they are not there, StorageError when damaged, UsageError when of another codec.
    """
    folder = _download() if str(path) == HUB_NAME and not Path(path).exists() else Path(path)
    if folder.suffix == ".th":
        return _codec(META_24KHZ, _read_th(folder), path)
    settings = _hub_settings(folder)
    if not (folder / MODEL_FILE).is_file():
        raise MissingModelError(f"`{path}` describes EnCodec, but its weights `{MODEL_FILE}` are not there", FETCH)
    return _codec(_seanet_of(settings, path), read_tensors(folder / MODEL_FILE), path)


def _codec(seanet: SEANetConfig, tensors: dict[str, Tensor], path: str | Path) -> ResidualCodec:
    codebooks = {int(found[1]): tensor for name, tensor in tensors.items() if (found := CODEBOOK.fullmatch(name))}
    if not codebooks:
        raise UsageError(f"`{path}` holds no EnCodec: it has no codebooks", FETCH)
    taught = [codebooks[index] for index in sorted(codebooks)[:TEACHING_CODEBOOKS]]
    quantizer = QuantizerConfig(codebook_size=len(taught[0]))
    codec = ResidualCodec(CodecConfig(seanet=seanet, quantizer=quantizer, num_codebooks=len(taught)))
    known = codec.autoencoder.state_dict().keys()
    convolutions = {_our_name(name, known): tensor for name, tensor in tensors.items()
                    if name.startswith(("encoder.", "decoder."))}
    try:
        codec.autoencoder.load_state_dict(convolutions)
    except RuntimeError as error:
        raise UsageError(f"the weights in `{path}` are not those of a mono EnCodec such as the 24 kHz one: "
                         f"{' '.join(str(error).split())[:300]}", FETCH) from error
    for codebook, entries in zip(codec.quantizer.codebooks, taught, strict=True):
        codebook.set_entries(entries)
    return codec.eval()


def _our_name(name: str, known) -> str:
    """Return our name of an encoder's or decoder's tensor; an unknown one stays, for `load_state_dict` to name.

    Both projects number the layers alike. Ours, as the `encodec` package, has `conv.conv` or `convtr.convtr` where
    Hugging Face has `conv`; weight norm is `weight_g` and `weight_v` in old files.
    """
    stem, _, last = name.replace(".layers.", ".model.", 1).rpartition(".")
    name = f"{stem}.{WEIGHT_NORM.get(last, last)}"
    candidates = (name, name.replace(".conv.", ".conv.conv."), name.replace(".conv.", ".convtr.convtr."))
    return next((candidate for candidate in candidates if candidate in known), name)


def _read_th(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise MissingModelError(f"the EnCodec weights `{file}` do not exist", FETCH)
    # the name ends with the first digits of the content's sha256, as torch.hub writes it
    digits = re.search(r"-([0-9a-f]{8,64})$", file.stem)
    if digits and not sha256_file(file).startswith(digits[1]):
        raise StorageError(f"`{file}` is damaged: its sha256 does not begin with `{digits[1]}`", FETCH)
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise StorageError(f"`{file}` is damaged or not a file of tensors", FETCH) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UsageError(f"expected EnCodec weights (tensors by name) in `{file}`, got another program's file", FETCH)
    return tensors


def _hub_settings(folder: Path) -> dict | None:
    """Return the config.json of a Hugging Face EnCodec, or None for anything else."""
    if not (folder / CONFIG_FILE).is_file():
        return None
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError:
        return None
    return settings if isinstance(settings, dict) and settings.get("model_type") == "encodec" else None


def _seanet_of(settings: dict, path: str | Path) -> SEANetConfig:
    different = [f"`{key}`: expected {needed}, got `{settings[key]}`" for key, needed in HUB_REQUIRED.items()
                 if settings.get(key, needed) != needed]
    if different:
        raise UsageError(f"the EnCodec in `{path}` cannot be read here: {'; '.join(different)}", FETCH)
    fields = {ours: settings.get(key, default) for key, (ours, default) in HUB_FIELDS.items()}
    return SEANetConfig(**fields, true_skip=not settings.get("use_conv_shortcut", True), init="torch")


def _download() -> Path:
    """Return the hub's folder in the local cache, fetched now if need be."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(HUB_NAME, allow_patterns=[CONFIG_FILE, MODEL_FILE]))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise MissingModelError(f"`{HUB_NAME}` is not on this machine and cannot be fetched", FETCH) from error
