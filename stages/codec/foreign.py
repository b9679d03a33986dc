"""Codecs of other projects, plugged in by name: `package.module:make`.

`make()` returns a module that is a `Teacher` (base.py) with its weights. It may also have

    architecture    keyword arguments (JSON-ready) with which `make` builds it again, without weights; by default none
    autoencoder     the part with `encode_latents` and `decode_latents`, which a student copies and trains; by default
                    the whole teacher

A maker is code, so only the user may name one: after `--teacher`, in $HALLE_CODECS (several with commas between), or by
installing a package with an entry point in the group `halle.codecs`. A checkpoint made around a foreign codec records
its maker's name; that name is looked up among those and is never itself a reason to import anything.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.codec.base import Codec, Streams, StreamSpec, TeacherCodes, check_waveform, pad_to_multiple
from stages.codec.hierarchy import PlainHierarchy
from stages.codec.quantizer import exact
from stages.config.models import CodecConfig, ForeignConfig, QuantizerConfig
from stages.errors import MissingModelError, UsageError

VARIABLE = "HALLE_CODECS"
ENTRY_POINTS = "halle.codecs"
CONTRACT = "see `Teacher` in stages/codec/base.py and the worked example in examples/new_codec"
TEACHER_PARTS = ("sample_rate", "hop_length", "latent_dim", "num_codebooks", "codebook_size", "encode_latents",
                 "decode_latents", "quantize", "codebook")  # fmt: skip
PROBE_FRAMES = 24
_named_on_the_command_line: set[str] = set()


def is_maker(text: str | Path) -> bool:
    """Tell whether a codec is named as `package.module:make` rather than by a path that exists."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", str(text)) is not None and not Path(text).exists()


def allow_maker(name: str) -> None:
    """Let this process import `name`, which the user gave on the command line."""
    _named_on_the_command_line.add(name)


def find_maker(name: str) -> Callable[..., nn.Module]:
    """Import the maker called `name` if the user has allowed it.

    Raises MissingModelError when it is not allowed or not installed, UsageError when its module lacks it.
    """
    in_variable = {part.strip() for part in os.environ.get(VARIABLE, "").split(",")}
    installed = {entry.value for entry in entry_points(group=ENTRY_POINTS)}
    if name not in _named_on_the_command_line | in_variable | installed:
        raise MissingModelError(
            f"this codec needs the code of `{name}`, which nothing here allows to run",
            f"if you trust that code, put {VARIABLE}={name} before the same command: {VARIABLE}={name} halle ...")
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise MissingModelError(f"the codec `{name}` cannot be imported: {error}",
                                "install its package, or put its folder on PYTHONPATH") from error
    except AttributeError as error:
        raise UsageError(f"the module `{module}` has no `{attribute}`", CONTRACT) from error
    except Exception as error:  # whatever somebody's code raises
        raise _failed(name, "being imported", error) from error


def build_foreign(config: ForeignConfig) -> nn.Module:
    """Return the autoencoder of a foreign codec, for a student's weights to be read into."""
    return _autoencoder_of(_call(config.maker, **config.architecture))


def plug_in(name: str) -> ForeignCodec:
    """Return the codec of the maker called `name`, with its weights, after checking that it keeps the contract."""
    teacher = _call(name)
    _check_contract(teacher, name)
    foreign = ForeignConfig(
        maker=name, architecture=getattr(teacher, "architecture", {}), sample_rate=teacher.sample_rate,
        hop_length=teacher.hop_length, latent_dim=teacher.latent_dim)  # fmt: skip
    quantizer = QuantizerConfig(codebook_size=teacher.codebook_size)
    config = CodecConfig(arch="foreign", foreign=foreign, quantizer=quantizer, num_codebooks=teacher.num_codebooks)
    return ForeignCodec(config, teacher).eval()


class ForeignCodec(Codec):
    """Any residual-VQ codec behind our interface: one stream, `rvq`, and a `Teacher` for multi-resolution codecs."""

    def __init__(self, config: CodecConfig, teacher: nn.Module | None = None):
        super().__init__()
        foreign = config.foreign
        self.config = config
        self.teacher = _call(foreign.maker, **foreign.architecture) if teacher is None else teacher
        self.sample_rate, self.hop_length = foreign.sample_rate, foreign.hop_length
        self.latent_dim = self.dim = foreign.latent_dim
        self.num_codebooks, self.codebook_size = config.num_codebooks, config.quantizer.codebook_size
        self.streams = (StreamSpec("rvq", "transmitted", self.num_codebooks, foreign.frame_rate, self.hop_length,
                                   self.codebook_size),)  # fmt: skip

    @property
    def autoencoder(self) -> nn.Module:
        """What a student copies and trains."""
        return _autoencoder_of(self.teacher)

    @property
    def alignment(self) -> int:
        return self.hop_length

    @property
    def hierarchy(self) -> PlainHierarchy:
        return PlainHierarchy(self, self.streams[0])

    def encode_latents(self, waveform: Tensor) -> Tensor:
        return self.teacher.encode_latents(waveform)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.teacher.decode_latents(latents)

    def quantize(self, latents: Tensor) -> TeacherCodes:
        return self.teacher.quantize(latents)

    def codebook(self, index: int) -> Tensor:
        return self.teacher.codebook(index)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the summed embeddings [batch, dim, frames] of codes [batch, n, frames] of the first n codebooks."""
        return sum(self.codebook(index)[codes[:, index]] for index in range(codes.shape[1])).transpose(1, 2)

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Streams:
        check_waveform(waveform)
        with exact():
            return {"rvq": self.quantize(self.encode_latents(pad_to_multiple(waveform, self.alignment))).codes}

    @torch.no_grad()
    def decode(self, streams: Streams, num_samples: int | None = None) -> Tensor:
        return self.decode_latents(self.embed(streams["rvq"]))[..., :num_samples]

    def export_config(self) -> dict:
        return self.config.described()


def _autoencoder_of(teacher: nn.Module) -> nn.Module:
    return getattr(teacher, "autoencoder", teacher)


def _call(name: str, **arguments) -> nn.Module:
    maker = find_maker(name)
    try:
        teacher = maker(**arguments)
    except (ImportError, OSError) as error:
        raise MissingModelError(f"`{name}` could not make its codec: {' '.join(str(error).split())}",
                                "see the page of that codec for what it needs") from error
    except Exception as error:  # whatever somebody's code raises
        raise _failed(name, "making its codec", error) from error
    if not isinstance(teacher, nn.Module):
        raise UsageError(f"expected a torch module from `{name}`, got `{type(teacher).__name__}`", CONTRACT)
    return teacher.eval()


def _failed(name: str, doing: str, error: Exception) -> UsageError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return UsageError(f"`{name}` failed at {doing}: {reason}", f"--debug shows where; {CONTRACT}")


def _check_contract(teacher: nn.Module, name: str) -> None:
    """Refuse a teacher that lacks parts or whose shapes and sums are not what it says, naming every problem."""
    missing = [f"`{part}`" for part in TEACHER_PARTS if not hasattr(teacher, part)]
    if missing:
        raise UsageError(f"the codec of `{name}` lacks {', '.join(missing)}", CONTRACT)
    try:
        problems = _problems_of(teacher)
    except Exception as error:  # whatever somebody's code raises
        raise _failed(name, "coding a little noise", error) from error
    if problems:
        raise UsageError(f"the codec of `{name}` is not what it says: {'; '.join(problems)}", CONTRACT)


@torch.no_grad()
def _problems_of(teacher: nn.Module) -> list[str]:
    """Compare what the teacher makes of quiet noise with its own numbers."""
    samples, dim, codebooks = PROBE_FRAMES * teacher.hop_length, teacher.latent_dim, teacher.num_codebooks
    waveform = 0.01 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0))
    latents = teacher.encode_latents(waveform)
    expected = {f"latents of {samples} samples": (latents, (1, dim, PROBE_FRAMES))}
    if latents.shape == (1, dim, PROBE_FRAMES):
        found = teacher.quantize(latents)
        embedded = [teacher.codebook(index) for index in range(codebooks)]
        expected |= {
            "the waveform of these latents": (teacher.decode_latents(latents), (1, 1, samples)),
            "codes": (found.codes, (1, codebooks, PROBE_FRAMES)),
            "codebook 0": (embedded[0], (teacher.codebook_size, dim)),
        }
    problems = [f"{what}: expected {list(shape)}, got `{list(tensor.shape)}`"
                for what, (tensor, shape) in expected.items() if tensor.shape != shape]
    if problems:
        return problems
    if len(found.partial_sums) != codebooks:
        return [f"expected {codebooks} partial sums, got `{len(found.partial_sums)}`"]
    total = sum(entries[found.codes[:, index]] for index, entries in enumerate(embedded)).transpose(1, 2)
    if not torch.allclose(total, found.partial_sums[-1], rtol=1e-3, atol=1e-4):
        return ["the last partial sum differs from the sum of the entries that the codes name"]
    return []
