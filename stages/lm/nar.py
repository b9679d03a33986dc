"""The non-autoregressive model: from an accumulated feature and the text to the codes of one level.

It reads codec latents through one linear layer and has no tables for codes, so the blocks and heads of a
VALL-E fit a HALL-E. VALL-E puts the text before the audio; HALL-E cross-attends to it, which lets it train
on clips whose share of the text is unknown (section 5, appendix A.2); with a text pointer (ours) it is shown
at each frame what the AR model reads there, and attends to no text at all. At inference long sequences are read
through sliding windows: levels outside, windows inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.codec.base import RefinementState, Streams, TokenHierarchy
from stages.config.models import NARConfig
from stages.lm.ar import CodebookSums
from stages.lm.generate import draw
from stages.lm.pointer import TextPointer
from stages.lm.transformer import (
    Context,
    InitReport,
    Transformer,
    init_linear,
    init_table,
    load_matching,
    sinusoids,
    valid_positions,
)

WindowMode = Literal["center", "paper"]
MIN_STD = 1e-4


class NARModel(nn.Module):
    """Predict the codes [batch, frames] of a level from its feature [batch, latent_dim, frames]."""

    def __init__(self, config: NARConfig):
        super().__init__()
        self.config = config
        dim = config.transformer.dim
        self.register_buffer("input_mean", torch.zeros(config.latent_dim))
        self.register_buffer("input_std", torch.ones(config.latent_dim))
        self.input_projection = nn.Linear(config.latent_dim, dim)
        self.prompt_embedding = nn.Parameter(torch.empty(dim))
        self.text_embedding = nn.Embedding(config.text_vocab_size, dim)
        self.pointer = TextPointer(dim, 1) if config.text_mode == "pointer" else None
        self.transformer = Transformer(config.transformer, config.text_mode == "cross", config.num_levels)
        # One tensor for all heads: a batch that lacks a level still gives its head a (zero) gradient on every rank.
        self.head_weight = nn.Parameter(torch.empty(config.num_levels, config.codebook_size, dim))
        self.head_bias = nn.Parameter(torch.zeros(config.num_levels, config.codebook_size))
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        init_linear(self.input_projection)
        init_table(self.text_embedding)
        if self.pointer is not None:
            self.pointer.reset_parameters()
        spread = self.config.transformer.dim**-0.5
        nn.init.normal_(self.prompt_embedding, std=spread)
        nn.init.trunc_normal_(self.head_weight, std=spread, a=-3 * spread, b=3 * spread)

    @torch.no_grad()
    def set_input_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise inputs with these [latent_dim] statistics from now on; they are stored with the weights."""
        self.input_mean.copy_(mean)
        self.input_std.copy_(std.clamp(min=MIN_STD))

    def forward(
        self,
        feature: Tensor,
        levels: Tensor,
        text: Tensor,
        lengths: Tensor | None = None,
        text_lengths: Tensor | None = None,
        prompt: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Return logits [batch, frames, codebook_size] of each item's level (1-based).

        `prompt` [batch, latent_dim, frames] is the complete feature of the prompt; it and the text are read, not
        scored, and one of each serves a whole batch. Lengths [batch] default to the full width of what they measure.
        Positions of text, prompt and clip are counted apart, each from 0. `places` [batch, frames] are the text tokens
        that are read at each frame, for the text mode `pointer`.
        """
        batch = len(feature)
        clip = self._embed_feature(feature)
        if self.pointer is not None:
            clip = clip + self.pointer(self._read(text, text_lengths).expand(batch, -1, -1), places.unsqueeze(-1))
        parts = [(clip, lengths)]
        if prompt is not None and prompt.shape[-1] > 0:
            before = self._embed_feature(prompt) + self.prompt_embedding
            parts.insert(0, (before.expand(batch, -1, -1), prompt_lengths))
        memory = memory_mask = None
        if self.config.text_mode == "prefix":
            parts.insert(0, (self._embed_text(text).expand(batch, -1, -1), text_lengths))
        elif self.config.text_mode == "cross":
            memory, memory_mask = self._embed_text(text), _key_mask([(text, text_lengths)])
        context = Context(mask=_key_mask(parts), memory=memory, memory_mask=memory_mask, levels=levels)
        hidden = self.transformer(torch.cat([part for part, _ in parts], dim=1), context)
        return self._heads(hidden[:, -feature.shape[-1] :], levels)

    def loss(self, targets: Tensor, lengths: Tensor, levels: Tensor, **inputs: Tensor | None) -> CodebookSums:
        """Return sums per level [num_levels] over the real frames of targets [batch, frames].

        `inputs` are the other arguments of `forward`.
        """
        logits = self(levels=levels, lengths=lengths, **inputs).float()
        targets = targets.masked_fill(~valid_positions(lengths, targets.shape[1]), -100)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).sum(1)
        correct = (logits.max(-1).indices == targets).sum(1)
        index, empty = levels - 1, losses.new_zeros(self.config.num_levels)
        return CodebookSums(
            losses=empty.index_add(0, index, losses),
            tokens=empty.long().index_add(0, index, lengths),
            correct=empty.long().index_add(0, index, correct),
        )

    def load_from(self, state: dict[str, Tensor]) -> InitReport:
        """Start from another NAR model: a VALL-E gives all but the cross-attention, which starts as a no-op."""
        return load_matching(self, state)

    def _embed_feature(self, feature: Tensor) -> Tensor:
        inputs = (feature.transpose(1, 2) - self.input_mean) / self.input_std
        return _add_positions(self.input_projection(inputs.to(self.prompt_embedding.dtype)))

    def _read(self, text: Tensor, lengths: Tensor | None) -> Tensor:
        """Return what the text pointer reads of a text [batch, tokens]: [batch, tokens, dim]."""
        whole = torch.full((len(text),), text.shape[1], device=text.device)
        return self.pointer.read(self.text_embedding(text), whole if lengths is None else lengths)

    def _embed_text(self, text: Tensor) -> Tensor:
        return _add_positions(self.text_embedding(text))

    def _heads(self, hidden: Tensor, levels: Tensor) -> Tensor:
        weights, biases = self.head_weight[levels - 1], self.head_bias[levels - 1]
        return hidden @ weights.transpose(1, 2).to(hidden.dtype) + biases.unsqueeze(1).to(hidden.dtype)


def _add_positions(embedded: Tensor) -> Tensor:
    positions = torch.arange(embedded.shape[1], device=embedded.device)
    return embedded + sinusoids(positions, embedded.shape[-1]).to(embedded.dtype)


def _key_mask(parts: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """Return [batch, 1, 1, keys], True at real keys of the parts joined; None when nothing is padded."""
    if all(lengths is None for _, lengths in parts):
        return None
    masks = [
        part.new_ones(part.shape[:2], dtype=torch.bool) if lengths is None else valid_positions(lengths, part.shape[1])
        for part, lengths in parts
    ]
    return torch.cat(masks, dim=1)[:, None, None]


@dataclass(frozen=True)
class Window:
    """Frames start..stop are read at once; of what is predicted there, keep_start..keep_stop is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def window_plan(num_frames: int, window_frames: int, slide_frames: int, mode: WindowMode = "center") -> list[Window]:
    """Cover `num_frames` with windows that slide; the last ends with the sequence. Each frame is kept once.

    "center" takes a frame from the window in which it lies farthest from an edge, "paper" from the earliest
    that holds it (appendix A.2 slides by 5 s and does not say).
    """
    if window_frames < 1 or not 1 <= slide_frames <= window_frames:
        raise ValueError(f"windows must slide by 1 to their width, got width {window_frames}, slide {slide_frames}")
    last_start = max(0, num_frames - window_frames)
    return _plan([*range(0, last_start, slide_frames), last_start], num_frames, window_frames, mode)


def fewest_windows(
    num_frames: int, window_frames: int, overlap_frames: int, mode: WindowMode = "center"
) -> list[Window]:
    """Cover `num_frames` with as few windows as overlap by `overlap_frames` at least, evenly spread.

    They are no wider than that takes: what a window costs grows faster than its width. They never overlap by more
    than half of their width.
    """
    overlap = min(overlap_frames, window_frames // 2)
    slides = math.ceil(max(0, num_frames - window_frames) / (window_frames - overlap))
    width = math.ceil((num_frames + slides * overlap) / (slides + 1))
    starts = [index * (num_frames - width) // max(slides, 1) for index in range(slides + 1)]
    return _plan(starts, num_frames, width, mode)


def _plan(starts: list[int], num_frames: int, window_frames: int, mode: WindowMode) -> list[Window]:
    stops = [min(start + window_frames, num_frames) for start in starts]
    seams = stops[:-1]
    if mode == "center":  # equally far from a window's end and the next one's start; ties go to the earlier
        seams = [(stop + start + 1) // 2 for stop, start in zip(stops[:-1], starts[1:], strict=True)]
    spans = zip(starts, stops, [0, *seams], [*seams, num_frames], strict=True)
    return [Window(*span) for span in spans]


@dataclass(frozen=True)
class Refinement:
    """How levels are read and drawn: windows of target frames (None: the whole sequence) and temperature.

    Without `slide_frames` windows are as few as overlap by `overlap_frames`. By default four are read at once, on a
    CPU one: there a batch takes as long as its windows, and more memory.
    Of a prompt the last `prompt_frames` (None: all) go before every window: longer ones than in training are
    not understood. Above 1, `guidance` makes the text count for more, as in `stages.lm.generate.Sampling`. `levels`
    (None: all) are how many of the first levels are predicted. With `mean` no codes are drawn: features grow by the
    mean of the entries under the model's probabilities.
    """

    window_frames: int | None = None
    slide_frames: int | None = None
    overlap_frames: int = 0
    window_mode: WindowMode = "center"
    windows_per_batch: int | None = None
    temperature: float = 0.0
    prompt_frames: int | None = None
    guidance: float = 1.0
    levels: int | None = None
    mean: bool = False

    def windows(self, num_frames: int) -> list[Window]:
        if self.window_frames is None or self.window_frames >= num_frames:
            return [Window(0, num_frames, 0, num_frames)]
        if self.slide_frames is None:
            return fewest_windows(num_frames, self.window_frames, self.overlap_frames, self.window_mode)
        return window_plan(num_frames, self.window_frames, self.slide_frames, self.window_mode)


@torch.inference_mode()
def level_logits(
    nar: NARModel,
    feature: Tensor,
    level: int,
    text: Tensor,
    prompt: Tensor | None = None,
    settings: Refinement = Refinement(),
    places: Tensor | None = None,
) -> Tensor:
    """Return logits [1, frames, codebook_size] of `level` for a target feature [1, latent_dim, frames].

    It is read window by window, `prompt` [1, latent_dim, frames] before each. `places` [1, frames] are needed for the
    text mode `pointer`.
    """
    windows = settings.windows(feature.shape[-1])
    found = []
    batch_size = settings.windows_per_batch or (1 if feature.device.type == "cpu" else 4)
    for first in range(0, len(windows), batch_size):
        group = windows[first : first + batch_size]
        clips = torch.cat([feature[..., window.start : window.stop] for window in group])
        levels, read = torch.full((len(group),), level, device=feature.device), {}
        if places is not None:
            read["places"] = torch.cat([places[:, window.start : window.stop] for window in group])
        logits = nar(clips, levels, text, prompt=prompt, **read).float()
        if settings.guidance != 1:
            untold = {name: torch.zeros_like(own) for name, own in read.items()}
            without = nar(clips, levels, text[:, -1:], prompt=prompt, **untold).float()
            logits = without + settings.guidance * (logits - without)
        found += [row[window.keep_start - window.start : window.keep_stop - window.start]
                  for row, window in zip(logits, group, strict=True)]
    return torch.cat(found).unsqueeze(0)


def draw_codes(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Return codes [1, frames] of logits [1, frames, classes]: the likeliest, or above temperature 0 drawn ones.

    To draw, `generator` (CPU) is needed.
    """
    uniform = torch.zeros(logits.shape[:-1])
    if temperature > 0:
        uniform = torch.rand(logits.shape[:-1], generator=generator)
    return draw(logits, uniform, temperature)


@torch.inference_mode()
def refine(
    nar: NARModel,
    hierarchy: TokenHierarchy,
    lowest: Tensor,
    text: Tensor,
    prompt: Streams | None = None,
    settings: Refinement = Refinement(),
    generator: torch.Generator | None = None,
    places: Tensor | None = None,
    means: Tensor | None = None,
) -> RefinementState:
    """Return the state after the last level for the AR's codes [1, codebooks, frames], prompt frames included: all
    streams, or those of the first `settings.levels` alone when that is given, and the feature to decode.

    `text` is [1, tokens]; `places` [1, frames], for the text mode `pointer`, says which of them each frame ends in.
    `means` [1, latent_dim, lowest frames] are heard in place of the codes' entries.
    `prompt` holds the streams of the prompt, at least as deep; its codes stay as they are. For each level all windows
    are read, then the frozen codec modules run over the whole sequence (section 5).
    """
    num_prompt, complete = 0, None
    if prompt is not None:
        complete = hierarchy.teacher_feature(prompt, hierarchy.levels_in(prompt) + 1)
        num_prompt = complete.shape[-1]
        if settings.prompt_frames is not None:
            complete = complete[..., -settings.prompt_frames :]
    state = hierarchy.start(lowest, prompt, means)
    if places is not None:
        places = places.repeat_interleave(state.feature.shape[-1] // places.shape[-1], dim=1)[:, num_prompt:]
    levels = hierarchy.num_levels if settings.levels is None else settings.levels
    for level in range(1, levels + 1):
        target = state.feature[..., num_prompt:]
        logits = level_logits(nar, target, level, text, complete, settings, places)
        if settings.mean:
            state = hierarchy.expect(state, F.pad(logits.softmax(-1), (0, 0, num_prompt, 0)))
        else:
            codes = draw_codes(logits, settings.temperature, generator)
            if prompt is not None:
                codes = torch.cat([hierarchy.level_codes(prompt, level), codes], dim=1)
            state = hierarchy.accept(state, codes)
    return state
