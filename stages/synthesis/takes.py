"""What goes into one AR pass, what comes out of it, and what a whole script becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from stages.codec.base import Streams
from stages.lm.generate import StopReason
from stages.synthesis.long_script import Piece
from stages.synthesis.prompt import Prompt


@dataclass(frozen=True)
class Script:
    """A text to speak, the voice to speak it in, and what everything random follows from."""

    text: str
    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class Prefix:
    """What a pass goes on from: a voice prompt, or what was said last. Its codes stay as they are.

    `streams` hold codes [1, codebooks, frames] of `num_samples` samples, `text` says what is heard in them.
    """

    text: str
    streams: Streams
    num_samples: int


@dataclass(frozen=True)
class Request:
    """One pass: text tokens of prefix and text together, and how many frames may be and will probably be written."""

    text: str
    tokens: tuple[int, ...]
    own_tokens: int  # of them those of `text`
    prefix: Prefix
    prefix_codes: Tensor  # [codebooks, frames] of the AR's stream
    seed: int
    max_frames: int
    expected_frames: int


@dataclass(frozen=True)
class Take:
    """One pass spoken. `codes` [codebooks, frames] and `waveform` [samples] begin with the prefix.

    It is `cut` when time was up within its text: then it ends with a clause, and the rest is another pass.

    `seconds` says how long each part of the work took; `notes` are what a check found and did, for the report;
    `advances` [1, frames] are those of an AR model with a text pointer; `means` [latent_dim, frames] are heard in place
    of the codes, if any are.
    """

    request: Request
    codes: Tensor
    stop_reason: StopReason | Literal["cut"]
    steps: int
    streams: Streams
    waveform: np.ndarray
    seconds: dict[str, float] = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    advances: Tensor | None = None
    means: Tensor | None = None

    @property
    def num_frames(self) -> int:
        """Frames that were written, without the prefix's."""
        return self.codes.shape[-1] - self.request.prefix_codes.shape[-1]

    @property
    def prefix_samples(self) -> int:
        return min(self.request.prefix.num_samples, len(self.waveform))

    @property
    def generated(self) -> np.ndarray:
        """The speech without the prefix, [samples]."""
        return self.waveform[self.prefix_samples:]


@dataclass(frozen=True)
class SpokenPiece:
    """A piece and where it is heard, in seconds from the beginning of the speech; `report` says how it came about.

    `word_times` are the beginnings of its words and the end of the last, if the model itself tells them.
    """

    piece: Piece
    start: float
    end: float
    report: dict
    word_times: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Speech:
    """`waveform` [samples] holds the decoded prompt and then the speech; `report` says how it came about.

    `codes` [codebooks, frames] are those that the AR wrote, the prompt's included.
    """

    waveform: np.ndarray
    codes: np.ndarray
    sample_rate: int
    prompt_samples: int
    stop_reason: str
    report: dict
    pieces: tuple[SpokenPiece, ...] = ()

    @property
    def generated(self) -> np.ndarray:
        """The speech without the prompt, [samples]."""
        return self.waveform[self.prompt_samples:]

    @property
    def seconds(self) -> float:
        return len(self.generated) / self.sample_rate
