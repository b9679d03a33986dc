"""The autoregressive model: text in, the lowest stream's codes out, one delayed step at a time.

    input    text ... | start   late 0   late 1  ...  late S-2
    output            | late 0  late 1   late 2  ...  late S-1        S = frames + codebooks

One end frame follows the codes before they are delayed. Every stream reads the id `codebook_size`
where it has nothing to say (the fill, and the start); on stream 0's head that same class is the end.
HALL-E reads six streams at 8 Hz; VALL-E is this model with one (section 5, appendix A.2).
With a text pointer (ours) one more stream goes before the codes, and the text itself may be left out of the sequence:
see `stages.lm.pointer`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.config.models import ARConfig
from stages.lm.delay import delay, undelay
from stages.lm.pointer import TextPointer, counted, places_after, recent_places
from stages.lm.transformer import (
    Context,
    InitReport,
    KeyValueCache,
    Transformer,
    init_linear,
    init_table,
    load_matching,
    sinusoids,
)

# A step attends to a multiple of this many columns. oneDNN, which multiplies in bfloat16, makes and keeps a program for
# every shape that it meets: with a new shape at each step, speaking for 90 s took 3.5 GB more.
VISIBLE_COLUMNS = 32


def visible_columns(needed: int, capacity: int, multiple: int) -> int:
    """Round up to a multiple, as far as there are columns."""
    return min(-(-needed // multiple) * multiple, capacity)


@dataclass(frozen=True)
class Layout:
    """Delayed inputs and targets [batch, streams, steps], and which targets count."""

    inputs: Tensor
    targets: Tensor
    scored: Tensor


@dataclass(frozen=True)
class CodebookSums:
    """Summed cross-entropy (nats), scored tokens and correct guesses, each [codebooks or levels]."""

    losses: Tensor
    tokens: Tensor
    correct: Tensor


@dataclass
class Decoding:
    """A batch of sequences under construction. All write to the same columns, whatever their lengths.

    Columns carry no order (positions are added to the input), so a shorter text just leaves a gap before column
    `width`, the first of what is generated; `readable` [batch, 1, 1, capacity] marks what holds a real input.
    """

    cache: KeyValueCache
    width: int  # columns written, gaps included
    column: Tensor  # [1], the next one: `width` on the device
    steps: Tensor  # [batch], each item's position in its own audio
    readable: Tensor
    text: Tensor | None  # [batch, tokens, dim], what a text pointer has read of
    text_lengths: Tensor  # [batch]
    places: Tensor  # [batch, codebooks], the tokens reached at the last steps, the newest first


def layout(codes: Tensor, frame_lengths: Tensor, fill: int) -> Layout:
    """Append the end frame, delay, and mark what is scored: codes [batch, codebooks, frames].

    The fill is never scored, nor is the end frame on any stream but 0.
    """
    num_codebooks, num_frames = codes.shape[1:]
    frames = torch.arange(num_frames + 1, device=codes.device)
    padded = F.pad(codes, (0, 1), value=fill)
    padded = padded.masked_fill(frames >= frame_lengths[:, None, None], fill)
    late = delay(padded, fill)
    steps = torch.arange(late.shape[-1], device=codes.device)
    frame_of = steps - torch.arange(num_codebooks, device=codes.device)[:, None]
    ends = frame_lengths[:, None, None] + (torch.arange(num_codebooks, device=codes.device) == 0)[:, None]
    return Layout(
        inputs=F.pad(late[:, :, :-1], (1, 0), value=fill),
        targets=late,
        scored=(frame_of >= 0) & (frame_of < ends),
    )


class ARModel(nn.Module):
    """Predict `codes` [batch, streams, frames] from `text` [batch, tokens] with a causal transformer.

    Streams are the codebooks; with a text pointer its advances come before them, here and in all that is generated.
    """

    def __init__(self, config: ARConfig):
        super().__init__()
        self.config = config
        self.num_streams = config.num_codebooks + config.text_pointer
        dim = config.transformer.dim
        self.text_embedding = nn.Embedding(config.text_vocab_size, dim)
        self.audio_embeddings = nn.ModuleList(
            nn.Embedding(config.codebook_size + 1, dim) for _ in range(self.num_streams)
        )
        self.pointer = TextPointer(dim, config.num_codebooks) if config.text_pointer else None
        self.transformer = Transformer(config.transformer)
        self.heads = nn.ModuleList(
            nn.Linear(dim, config.codebook_size + (index == 0)) for index in range(self.num_streams)
        )
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        init_table(self.text_embedding)
        for table in self.audio_embeddings:
            init_table(table, self.num_streams)
        for head in self.heads:
            init_linear(head)
        if self.pointer is not None:
            self.pointer.reset_parameters()

    @property
    def fill(self) -> int:
        """Input id of an empty slot; as a class of stream 0, the end."""
        return self.config.codebook_size

    def loss(self, text: Tensor, text_lengths: Tensor, codes: Tensor, frame_lengths: Tensor) -> CodebookSums:
        """Return per-codebook sums over the real tokens of a padded batch; the caller divides them."""
        plan = layout(codes, frame_lengths, self.fill)
        hidden = self._hidden(text, text_lengths, plan.inputs)
        targets = plan.targets.masked_fill(~plan.scored, -100)
        losses, correct = [], []
        for index, head in enumerate(self.heads):
            logits = head(hidden).float()
            losses.append(F.cross_entropy(logits.flatten(0, 1), targets[:, index].flatten(), reduction="sum"))
            correct.append((logits.max(-1).indices == targets[:, index]).sum())
        return CodebookSums(torch.stack(losses), plan.scored.sum(dim=(0, 2)), torch.stack(correct))

    def log_probabilities(self, text: Tensor, text_lengths: Tensor, codes: Tensor, frame_lengths: Tensor) -> Tensor:
        """Return the log-probability of every true code and of the end, [batch, codebooks, frames + 1].

        Column `frame_lengths[b]` of stream 0 is the end; what is not scored is 0.
        """
        plan = layout(codes, frame_lengths, self.fill)
        hidden = self._hidden(text, text_lengths, plan.inputs)
        found = []
        for index, head in enumerate(self.heads):
            scores = head(hidden).float().log_softmax(-1)
            target = plan.targets[:, index].clamp(max=scores.shape[-1] - 1)
            found.append(scores.gather(-1, target.unsqueeze(-1)).squeeze(-1))
        return undelay(torch.stack(found, dim=1).masked_fill(~plan.scored, 0.0))

    def begin(
        self, text: Tensor, text_lengths: Tensor, late: Tensor, step_lengths: Tensor, capacity: int
    ) -> tuple[Tensor, Decoding]:
        """Read the text and the delayed prompt [batch, streams, steps] in one pass and open a cache.

        `step_lengths` [batch] are the real steps of each prompt; `capacity` bounds the columns. Return the logits
        [batch, streams, codebook_size + 1] for the step after the prompt, and the state that `advance` goes on
        from. Streams that cannot end have -inf in the last class.
        """
        inputs = F.pad(late, (1, 0), value=self.fill)
        read, places = self._read(text, text_lengths), self._places(inputs, text_lengths)
        prefix, prefix_lengths = self._prefix(text, text_lengths)
        packed = self._pack(prefix, prefix_lengths, self._embed_all(inputs, read, places))
        lengths = prefix_lengths + step_lengths + 1
        width = int(lengths.max())
        packed = packed[:, :width]
        columns = torch.arange(max(capacity, width), device=text.device)
        state = Decoding(
            cache=KeyValueCache(len(self.transformer.blocks), len(columns)),
            width=width,
            column=columns[width - 1 : width] + 1,
            steps=step_lengths + 1,
            readable=(columns < lengths[:, None])[:, None, None],
            text=read,
            text_lengths=text_lengths,
            places=places[torch.arange(len(places), device=text.device), step_lengths],
        )
        mask = self._mask(prefix_lengths, width)
        context = Context(causal=True, mask=mask, cache=state.cache, columns=columns[:width], visible=width)
        hidden = self.transformer(packed, context)
        return self._logits(hidden[torch.arange(len(hidden), device=text.device), lengths - 1]), state

    def advance(self, column: Tensor, state: Decoding) -> Tensor:
        """Read one delayed column [batch, streams]; return the logits for the next, as `begin` does."""
        state.width += 1
        return self.step(column, state, visible_columns(state.width, state.cache.capacity, VISIBLE_COLUMNS))

    def step(self, column: Tensor, state: Decoding, visible: int) -> Tensor:
        """Do the arithmetic of `advance`, attending to the first `visible` columns as far as they are readable.

        It changes tensors of `state` in place and asks none for its value, so a graph of it can be replayed.
        """
        state.readable.index_fill_(3, state.column, True)
        context = Context(
            mask=state.readable[..., :visible], cache=state.cache, columns=state.column, visible=visible
        )
        audio = self._embed_audio(column.unsqueeze(-1), state.steps)
        if self.pointer is not None:
            reached = torch.minimum(state.places[:, 0] + counted(column[:, 0], self.fill), state.text_lengths - 1)
            state.places.copy_(torch.cat([reached.unsqueeze(1), state.places[:, :-1]], dim=1))
            audio = audio + self.pointer(state.text, state.places.unsqueeze(1))
        hidden = self.transformer(audio, context)[:, 0]
        state.column += 1
        state.steps += 1
        return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return what the heads say of hidden [batch, dim]: [batch, streams, codebook_size + 1]."""
        first, *others = (head(hidden).float() for head in self.heads)
        return torch.stack([first, *(F.pad(other, (0, 1), value=-torch.inf) for other in others)], dim=1)

    def load_from(self, state: dict[str, Tensor]) -> InitReport:
        """Start from another AR model: a VALL-E of one stream gives blocks, text table and stream 0."""
        return load_matching(self, state)

    def _hidden(self, text: Tensor, text_lengths: Tensor, inputs: Tensor) -> Tensor:
        """Return the outputs [batch, steps, dim] over delayed inputs [batch, streams, steps]."""
        read, places = self._read(text, text_lengths), self._places(inputs, text_lengths)
        prefix, prefix_lengths = self._prefix(text, text_lengths)
        packed = self._pack(prefix, prefix_lengths, self._embed_all(inputs, read, places))
        hidden = self.transformer(packed, Context(causal=True, mask=self._mask(prefix_lengths, packed.shape[1])))
        index = prefix_lengths[:, None] + torch.arange(inputs.shape[-1], device=text.device)
        return hidden.gather(1, index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))

    def _prefix(self, text: Tensor, text_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens [batch, tokens] that go before the audio, and how many [batch] of them are real."""
        if self.config.text_prefix:
            return text, text_lengths
        return text[:, :0], torch.zeros_like(text_lengths)

    def _read(self, text: Tensor, text_lengths: Tensor) -> Tensor | None:
        """Return what a text pointer reads, [batch, tokens, dim]."""
        return self.pointer.read(self.text_embedding(text), text_lengths) if self.pointer is not None else None

    def _places(self, inputs: Tensor, text_lengths: Tensor) -> Tensor:
        """Return where a text pointer stood, [batch, steps, codebooks], behind inputs [batch, streams, steps]."""
        return recent_places(places_after(inputs[:, 0], self.fill, text_lengths), self.config.num_codebooks)

    def _embed_all(self, inputs: Tensor, read: Tensor | None, places: Tensor) -> Tensor:
        """Embed delayed inputs from their first step on, with the text where they read: [batch, steps, dim]."""
        audio = self._embed_audio(inputs, inputs.new_zeros(len(inputs)))
        return audio if self.pointer is None else audio + self.pointer(read, places)

    def _embed_audio(self, late: Tensor, first_steps: Tensor) -> Tensor:
        """Sum the streams' entries and the positions: [batch, streams, steps] -> [batch, steps, dim]."""
        summed = sum(table(late[:, index]) for index, table in enumerate(self.audio_embeddings))
        positions = first_steps[:, None] + torch.arange(late.shape[-1], device=late.device)
        return summed + sinusoids(positions, summed.shape[-1]).to(summed.dtype)

    def _pack(self, text: Tensor, text_lengths: Tensor, audio: Tensor) -> Tensor:
        """Put each item's audio right behind its own text, so that all padding lies at the end.

        A causal sequence then never sees padding and needs no mask. [batch, tokens + steps, dim].
        """
        embedded = self.text_embedding(text)
        positions = torch.arange(text.shape[1], device=text.device)
        embedded = embedded + sinusoids(positions, embedded.shape[-1]).to(embedded.dtype)
        joined = torch.cat([embedded, audio], dim=1)
        columns = torch.arange(joined.shape[1], device=text.device)
        source = torch.where(columns < text_lengths[:, None], columns, columns + text.shape[1] - text_lengths[:, None])
        source = source.clamp(max=joined.shape[1] - 1)
        return joined.gather(1, source.unsqueeze(-1).expand_as(joined))

    def _mask(self, text_lengths: Tensor, size: int) -> Tensor | None:
        """Return None for a plain causal mask, else one in which text also sees the text that follows it."""
        if self.config.text_attention == "causal" or not self.config.text_prefix:
            return None
        columns = torch.arange(size, device=text_lengths.device)
        past = columns <= columns[:, None]
        return (past | (columns < text_lengths[:, None, None]))[:, None]
