"""Sample the AR model: text and a prompt's codes in, the whole sequence of codes and why it stopped out.

At step s stream q holds frame s - q. With a prompt of P frames, sampling begins at step P; for a few more
steps the later streams still hold prompt frames, which are forced. Once stream 0 has drawn the end, the
other streams finish the frames that it began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.errors import UsageError
from stages.lm.ar import ARModel
from stages.lm.delay import delay, undelay
from stages.lm.inference import GraphedSteps
from stages.lm.transformer import valid_positions

StopReason = Literal["end", "max_frames"]


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn. Frames are counted without the prompt's.

    temperature 0 takes the likeliest code; top_k 0 and top_p 1 keep all of them. The end may not be drawn
    within `min_frames`, and generation stops at `max_frames`. With a `repetition_window` of frames, a code that
    makes up more than `repetition_ratio` of its stream's last frames, the prompt's included, is drawn again from all
    codes, at temperature 1 (VALL-E 2, Chen et al., 2024, section 3.3.2).

    Above 1, `guidance` makes the text count for more (classifier-free guidance, Ho and Salimans, 2022): logits are
    those without the text, of which only the end is left, plus so many times what the text adds to them. How far a text
    pointer goes on is drawn as the text says; the end comes when it has gone through all of it.
    """

    max_frames: int
    min_frames: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_window: int = 0
    repetition_ratio: float = 0.1
    guidance: float = 1.0


@dataclass(frozen=True)
class Means:
    """What is made of codes that were not drawn: for each codebook the mean of its entries, and of all of them the sum.

    `codebooks` [codebooks, size, dim] are those of the last streams; the model's probabilities count as they are at
    `temperature`.
    """

    codebooks: Tensor
    temperature: float

    def of(self, logits: Tensor) -> Tensor:
        """Return the mean entries [batch, codebooks, dim] under logits [batch, streams, classes]."""
        likely = logits[:, -len(self.codebooks) :, : self.codebooks.shape[1]].float() / self.temperature
        return torch.einsum("bqs,qsd->bqd", likely.softmax(-1).to(self.codebooks.dtype), self.codebooks)

    def of_codes(self, codes: Tensor) -> Tensor:
        """Return the sum of the entries [dim, frames] of codes [streams, frames]."""
        own = zip(codes[-len(self.codebooks) :], self.codebooks, strict=True)
        return sum(F.embedding(row, book) for row, book in own).T

    def undelayed(self, columns: Tensor, num_streams: int, num_frames: int) -> Tensor:
        """Return sums [dim, frames] of means [steps, codebooks, dim], of which stream q has frame t at step t + q."""
        first = num_streams - len(self.codebooks)
        return sum(columns[first + index : first + index + num_frames, index]
                   for index in range(len(self.codebooks))).T


@dataclass(frozen=True)
class Generation:
    """`codes` [codebooks, frames], prompt included; `steps` of the model; what each drawn code was worth.

    `log_probabilities` [codebooks, frames + 1] come from the model as it is, before temperature and truncation;
    column `frames` of stream 0 is the end's, and forced codes have 0. `means` [dim, frames] are what `Means` makes of
    what the model finds likely, guidance included; of the prompt they are the entries of its codes.
    """

    codes: Tensor
    stop_reason: StopReason
    steps: int
    log_probabilities: Tensor
    means: Tensor | None = None


def truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set all but the `top_k` likeliest classes and all beyond the smallest set of mass `top_p` to -inf."""
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(descending=True, stable=True)
        probabilities = ranked.softmax(-1)
        above = probabilities.cumsum(-1) - probabilities  # mass of the likelier ones; 0 for the first, which stays
        ranked = ranked.masked_fill((above >= top_p) & (above > 0), -torch.inf)
        logits = torch.empty_like(logits).scatter_(-1, order, ranked)
    return logits


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Return classes [...] from logits [..., classes] and uniform numbers [...] in 0..1, by inverse CDF."""
    if temperature == 0:
        return logits.argmax(-1)
    device = torch.device("cpu") if logits.device.type == "mps" else logits.device  # MPS has no float64
    kept = truncate(logits.to(device).double() / temperature, top_k, top_p)
    cumulative = kept.softmax(-1).cumsum(-1)
    wanted = uniform.to(device).double().unsqueeze(-1) * cumulative[..., -1:]
    last = (kept > -torch.inf).long().cumsum(-1).argmax(-1)  # rounding must not lead past the last kept class
    drawn = torch.searchsorted(cumulative, wanted.contiguous(), right=True).squeeze(-1).minimum(last)
    return drawn.to(logits.device)


def generate(
    ar: ARModel, text: Tensor, prompt_codes: Tensor | None, sampling: Sampling, generator: torch.Generator
) -> Generation:
    """Speak `text` [tokens] after a prompt [codebooks, frames] (None: in a voice of the model's choosing).

    `text` is that of prompt and speech together. The generator lives on the CPU: the same seed draws the same
    numbers on every device.
    """
    return generate_batch(ar, [text], [prompt_codes], sampling, [generator])[0]


@torch.inference_mode()
def generate_batch(
    ar: ARModel,
    texts: Sequence[Tensor],
    prompts: Sequence[Tensor | None],
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    on_step: Callable[[], None] | None = None,
    cuda_graphs: bool = False,
    means: Means | None = None,
) -> list[Generation]:
    """Do what `generate` does for several texts at once; each draws from its own generator.

    `on_step` is called after every step, so that a caller can show progress. `cuda_graphs` makes steps on a GPU start
    at once (`stages.lm.inference`). With `means` results have them.
    """
    _check(ar, texts, prompts, sampling)
    writer = _Writer(ar, texts, prompts, sampling, generators, cuda_graphs, means)
    while not writer.finished:
        writer.step()
        if on_step is not None:
            on_step()
    return writer.results()


def _check(ar: ARModel, texts: Sequence[Tensor], prompts: Sequence[Tensor | None], sampling: Sampling) -> None:
    wanted = ar.num_streams
    for prompt in prompts:
        if prompt is not None and prompt.shape[0] != wanted:
            raise UsageError(f"expected a prompt of {wanted} codebooks, got `{prompt.shape[0]}`")
    if any(len(text) == 0 for text in texts):
        raise UsageError("expected text to speak, got none of its tokens")
    if not 0 <= sampling.min_frames <= sampling.max_frames:
        found = f"`{sampling.min_frames}` and `{sampling.max_frames}`"
        raise UsageError(f"expected 0 <= min_frames <= max_frames, got {found}")


def _stack(rows: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-pad tensors [..., length] with zeros; return them stacked and their lengths [batch]."""
    lengths = torch.tensor([row.shape[-1] for row in rows])
    size = int(lengths.max())
    padded = torch.stack([F.pad(row.long(), (0, size - row.shape[-1])) for row in rows])
    return padded.to(device), lengths.to(device)


class _Writer:
    """One batch being generated. All items sample their first step together, each behind its own prompt."""

    def __init__(self, ar, texts, prompts, sampling, generators, cuda_graphs, means=None):
        self.ar, self.sampling, self.generators = ar, sampling, generators
        self.device = ar.text_embedding.weight.device
        self.num_codebooks = ar.num_streams  # the advances of a text pointer are one
        prompts = [torch.zeros(self.num_codebooks, 0, dtype=torch.long) if item is None else item for item in prompts]
        self.prompts = [item.to(self.device).long() for item in prompts]
        padded, self.prompt_frames = _stack(self.prompts, self.device)
        padded = padded.masked_fill(~valid_positions(self.prompt_frames, padded.shape[-1])[:, None], ar.fill)
        # Beyond the prompt's own steps: what its late streams still owe when sampling begins
        self.late_prompt = delay(F.pad(padded, (0, 1), value=ar.fill), ar.fill)
        text, text_lengths = _stack([item.to(self.device) for item in texts], self.device)
        before = text_lengths * ar.config.text_prefix + self.prompt_frames
        total = int(before.max()) + sampling.max_frames + self.num_codebooks + 1
        self.guided = sampling.guidance != 1  # behind the items themselves come the same without their texts
        self.copies = 1 + self.guided
        if self.guided:
            ends = text.gather(1, text_lengths.unsqueeze(1) - 1)
            text = torch.cat([text, F.pad(ends, (0, text.shape[1] - 1))])
            text_lengths = torch.cat([text_lengths, torch.ones_like(text_lengths)])
        known = self.late_prompt[:, :, : padded.shape[-1]].repeat(self.copies, 1, 1)
        self.logits, self.state = ar.begin(text, text_lengths, known, self.prompt_frames.repeat(self.copies), total)
        self.advance = GraphedSteps(ar, self.state) if cuda_graphs and self.device.type == "cuda" else ar.advance
        self.late_tail = self._late_tail(sampling.repetition_window)
        self.index = 0  # steps since the end of the prompt
        self.ends: list[int | None] = [None] * len(texts)  # the index at which stream 0 ended
        self.reasons: list[StopReason] = ["max_frames"] * len(texts)
        self.columns: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.means: Means | None = means
        self.mean_columns: list[Tensor] = []

    @property
    def finished(self) -> bool:
        return all(end is not None and self.index >= end + self.num_codebooks for end in self.ends)

    @property
    def settled(self) -> bool:
        """Whether all that is left to come is the fill."""
        return all(end is not None and self.index >= end + self.num_codebooks - 1 for end in self.ends)

    def step(self) -> None:
        """Draw one column of codes [batch, codebooks] and read it back."""
        column, score = self._draw()
        column = self._force(column)
        self._notice_ends(column)
        self.columns.append(column)
        self.scores.append(score)
        self.index += 1
        if not self.settled:
            self.logits = self.advance(column.repeat(self.copies, 1), self.state)

    def _late_tail(self, size: int) -> Tensor:
        """Return the last `size` steps before sampling begins, [batch, codebooks, size]; fill where there are none."""
        tails = [F.pad(late[:, :frames], (size, 0), value=self.ar.fill)[:, frames:]
                 for late, frames in zip(self.late_prompt, self.prompt_frames.tolist(), strict=True)]  # fmt: skip
        return torch.stack(tails)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Return codes and their log-probabilities, each [batch, codebooks]."""
        rule, told = self.sampling, self.logits[: len(self.generators)]
        allowed = self._guide(told) if self.guided else told
        if self.means is not None:
            self.mean_columns.append(self.means.of(allowed))
        if self.index < rule.min_frames:
            allowed = allowed.clone()
            allowed[:, 0, -1] = -torch.inf
        elif self.ar.pointer is not None:
            allowed = self._end_with_the_text(allowed)
        drawn = draw(allowed, self._uniform(), rule.temperature, rule.top_k, rule.top_p)
        if rule.repetition_window:
            again = draw(allowed, self._uniform(), 1.0)
            drawn = torch.where(self._repeats(drawn), again, drawn)
        return drawn, told.log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)

    def _end_with_the_text(self, allowed: Tensor) -> Tensor:
        """Let the end follow the frame in which a pointer has come to its text's last token, and no other frame.

        So it is in training. A model that misses the end there knows nothing of what it sees next, and goes on.
        """
        count = len(allowed)
        read = self.state.places[:count, 0] >= self.state.text_lengths[:count] - 1
        is_end = torch.arange(allowed.shape[-1], device=allowed.device) == self.ar.fill
        first = allowed[:, :1].masked_fill((is_end != read[:, None])[:, None], -torch.inf)
        return torch.cat([first, allowed[:, 1:]], dim=1)

    def _guide(self, told: Tensor) -> Tensor:
        """Return logits [batch, streams, classes] in which the text counts for more; `told` are those with it."""
        untold = self.logits[len(told) :]
        guided = torch.where(told > -torch.inf, untold + self.sampling.guidance * (told - untold), told)
        if self.ar.pointer is not None:
            guided[:, 0] = told[:, 0]
        return guided

    def _uniform(self) -> Tensor:
        return torch.stack([torch.rand(self.num_codebooks, generator=item) for item in self.generators])

    def _repeats(self, drawn: Tensor) -> Tensor:
        """Return [batch, codebooks], True where a code fills too much of its stream's last frames."""
        new = self.columns[-self.sampling.repetition_window :]
        recent = torch.cat([self.late_tail, *(column.unsqueeze(-1) for column in new)], dim=-1)
        recent = recent[..., -self.sampling.repetition_window :]
        share = (recent == drawn.unsqueeze(-1)).float().mean(-1)
        repeats = (share > self.sampling.repetition_ratio) & (drawn != self.ar.fill)
        if self.ar.pointer is not None:
            repeats[:, 0] = False  # advances are mostly none or one
        return repeats

    def _force(self, column: Tensor) -> Tensor:
        """Put prompt frames where a late stream still owes them, and the fill behind the end."""
        streams = torch.arange(self.num_codebooks, device=self.device)
        steps = (self.prompt_frames + self.index).clamp(max=self.late_prompt.shape[-1] - 1)
        owed = self.late_prompt.gather(2, steps[:, None, None].expand(-1, self.num_codebooks, 1)).squeeze(-1)
        column = torch.where(streams > self.index, owed, column)
        ends = torch.tensor([-1 if end is None else end for end in self.ends], device=self.device)[:, None]
        behind = (ends >= 0) & (self.index - streams >= ends)
        return column.masked_fill(behind, self.ar.fill)

    def _notice_ends(self, column: Tensor) -> None:
        """Record which items drew the end; at `max_frames` end the others by force."""
        drawn = (column[:, 0] == self.ar.fill).tolist()
        for item, ended in enumerate(drawn):
            if self.ends[item] is not None:
                continue
            if ended:
                self.ends[item], self.reasons[item] = self.index, "end"
            elif self.index >= self.sampling.max_frames:
                self.ends[item] = self.index
                column[item, 0] = self.ar.fill

    def results(self) -> list[Generation]:
        columns, scores = torch.stack(self.columns, dim=2), torch.stack(self.scores, dim=2)
        return [self._result(item, columns[item], scores[item]) for item in range(len(self.ends))]

    def _result(self, item: int, columns: Tensor, scores: Tensor) -> Generation:
        num_prompt, num_new = self.prompts[item].shape[-1], self.ends[item]
        num_steps = num_new + self.num_codebooks
        late = torch.cat([self.late_prompt[item, :, :num_prompt], columns[:, :num_steps]], dim=1)
        late_scores = torch.cat([scores.new_zeros(self.num_codebooks, num_prompt), scores[:, :num_steps]], dim=1)
        codes = undelay(late.unsqueeze(0))[0]
        worth = undelay(late_scores.unsqueeze(0))[0]
        worth[:, :num_prompt] = 0
        worth[1:, -1] = 0
        if self.reasons[item] == "max_frames":
            worth[0, -1] = 0
        return Generation(codes[:, :-1], self.reasons[item], num_prompt + num_steps, worth, self._means_of(item))

    def _means_of(self, item: int) -> Tensor | None:
        """Return means [dim, frames], prompt included."""
        if self.means is None:
            return None
        columns = torch.stack([column[item] for column in self.mean_columns])
        new = self.means.undelayed(columns, self.num_codebooks, self.ends[item])
        return torch.cat([self.means.of_codes(self.prompts[item]), new], dim=1)
