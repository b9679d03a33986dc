"""Before the first step: does generation compute what training does?

A model that is trained on one computation and used in another learns well and speaks noise. So a trainer compares
both on real utterances, with the model as it starts, and stops at the first check that fails:

    delay round trip   codes survive being delayed and undelayed, and a prompt survives generation
    batched            log-probabilities of a padded batch, and of each item alone
    cached             log-probabilities of generated codes, drawn step by step in a batch, and teacher-forced alone
    refinement         features and codes of a refinement that is told the true codes, and those of the token store
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.codec.base import Streams, TokenHierarchy
from stages.errors import DivergedError
from stages.lm.ar import ARModel
from stages.lm.delay import delay, undelay
from stages.lm.generate import Generation, Sampling, generate_batch
from stages.lm.nar import NARModel, Refinement, refine

UTTERANCES = 3
LONGEST_PROMPT, NEW_FRAMES = 50, 12  # frames of the lowest stream; a check is to take moments
NATS = 0.01  # with 1024 wide layers fp32 on a CPU rounds by 1e-6, a cached position that is off by one gives 0.3
DIFFERING = 0.01  # of codes: those that lie between two entries may fall to the other on another device
FEATURE_ERROR = 1e-3  # of the largest feature


@dataclass(frozen=True)
class Check:
    """How far apart two computations of the same thing were, and how far they may be."""

    name: str
    difference: float
    allowed: float
    unit: str

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed  # false for NaN

    def __str__(self) -> str:
        return f"{self.name} {self.difference:.2g} {self.unit}"


def require_parity(checks: Iterable[Check], logger: logging.Logger) -> None:
    """Make the checks one after the other and log their differences. Raises `DivergedError` at one that fails."""
    passed = []
    for check in checks:
        if not check.passed:
            raise DivergedError(
                f"training and generation differ before the first step, in `{check.name}`: expected at most "
                f"{check.allowed:g} {check.unit}, got `{check.difference:.3g}`",
                "after a change of code: pytest tests/lm; else make the tokens again: halle tokenize --codec CODEC",
            )
        passed.append(str(check))
    logger.info("generation computes what training does; largest differences: %s", ", ".join(passed))


def ar_checks(ar: ARModel, text: Tensor, text_lengths: Tensor, codes: Tensor, frame_lengths: Tensor) -> Iterator[Check]:
    """Compare the ways in which an AR model computes, on a padded batch of utterances (as for `ARModel.loss`)."""
    with _evaluating(ar):
        texts = [row[:length] for row, length in zip(text, text_lengths, strict=True)]
        prompts = [row[:, : min(int(length) // 2, LONGEST_PROMPT)]
                   for row, length in zip(codes, frame_lengths, strict=True)]  # fmt: skip
        generators = [torch.Generator().manual_seed(index) for index in range(len(texts))]
        sampling = Sampling(max_frames=NEW_FRAMES, min_frames=NEW_FRAMES // 2)
        spoken = generate_batch(ar, texts, prompts, sampling, generators)
        yield _delay_check(codes, ar.fill, prompts, spoken)
        frames = torch.tensor([item.codes.shape[-1] for item in spoken], device=codes.device)
        together = nn.utils.rnn.pad_sequence([item.codes.T for item in spoken], batch_first=True).transpose(1, 2)
        batched = ar.log_probabilities(text, text_lengths, together, frames)
        alone = [ar.log_probabilities(tokens[None], text_lengths[index : index + 1], item.codes[None],
                                      frames[index : index + 1])[0]
                 for index, (tokens, item) in enumerate(zip(texts, spoken, strict=True))]  # fmt: skip
        pairs = zip(batched, alone, strict=True)
        yield Check("batched", _largest([row[:, : one.shape[-1]] - one for row, one in pairs]), NATS, "nats")
        cached = [_drawn(one, item, prompt) for one, item, prompt in zip(alone, spoken, prompts, strict=True)]
        yield Check("cached", _largest(cached), NATS, "nats")


def nar_checks(nar: NARModel, lengths: Tensor, text_lengths: Tensor, prompt_lengths: Tensor, feature: Tensor,
               levels: Tensor, text: Tensor, prompt: Tensor | None, places: Tensor | None = None) -> Iterator[Check]:
    """Compare a padded batch of clips, as in training, with each alone, as a window is read (`NARModel.forward`)."""
    with _evaluating(nar):
        together = nar(feature, levels, text, lengths, text_lengths, prompt, prompt_lengths, places).log_softmax(-1)
        differences = []
        for row, (frames, tokens, before) in enumerate(zip(lengths, text_lengths, prompt_lengths, strict=True)):
            one = slice(row, row + 1)
            alone = nar(feature[one, :, :frames], levels[one], text[one, :tokens],
                        prompt=None if prompt is None else prompt[one, :, :before],
                        places=None if places is None else places[one, :frames])  # fmt: skip
            differences.append(together[row, :frames] - alone[0].log_softmax(-1))
        yield Check("batched", _largest(differences), NATS, "nats")


def refinement_check(hierarchy: TokenHierarchy, streams: Streams, num_prompt: int, unit: int) -> Iterator[Check]:
    """Refine the lowest stream of a whole utterance, its other codes being told, after a prompt that it begins with.

    `streams` are those of the store (batch of 1). The prompt has `num_prompt` latent frames, at most half of all,
    rounded down to a multiple of `unit`, after which all streams line up.
    """
    frames = hierarchy.teacher_feature(streams, 1).shape[-1]
    skip = min(num_prompt, frames // 2) // unit * unit
    prompt = {name: codes[..., : codes.shape[-1] * skip // frames] for name, codes in streams.items()}
    lowest = streams[hierarchy.lowest.name][:, : hierarchy.lowest.num_codebooks]
    text = torch.zeros(1, 1, dtype=torch.long, device=lowest.device)
    oracle = _Oracle(hierarchy, streams, skip)
    refined = refine(oracle, hierarchy, lowest, text, prompt if skip else None, Refinement()).streams
    wrong = [_share(refined[name][:, : codes.shape[1]] != codes) if refined[name].shape == codes.shape else 1.0
             for name, codes in streams.items() if name in refined]  # fmt: skip
    yield Check("refinement", max([*wrong, *oracle.wrong]), DIFFERING, "of codes or frames")


@dataclass
class _Oracle:
    """A NAR model that knows the codes, and compares the features that it is shown with those of training."""

    hierarchy: TokenHierarchy
    streams: Streams
    skip: int
    wrong: list[float] = field(default_factory=list)

    def __call__(self, feature: Tensor, levels: Tensor, text: Tensor, prompt: Tensor | None = None) -> Tensor:
        level = int(levels[0])
        true = self.hierarchy.teacher_feature(self.streams, level)[..., self.skip :]
        off = (feature - true).abs().amax(1) > FEATURE_ERROR * true.abs().max() if feature.shape == true.shape else True
        self.wrong.append(_share(torch.as_tensor(off)))
        codes = self.hierarchy.level_codes(self.streams, level)[..., self.skip :]
        return F.one_hot(codes, self.hierarchy.codebook_size).float()


def _delay_check(codes: Tensor, fill: int, prompts: list[Tensor], spoken: list[Generation]) -> Check:
    """Count codes that come back otherwise: from the two functions, and of the prompts from a generation."""
    pairs = [(undelay(delay(codes, fill)), codes)]
    pairs += [(item.codes[:, : prompt.shape[-1]], prompt) for item, prompt in zip(spoken, prompts, strict=True)]
    wrong = sum(int((found != true).sum()) if found.shape == true.shape else true.numel() for found, true in pairs)
    return Check("delay round trip", wrong, 0, "codes")


def _drawn(alone: Tensor, spoken: Generation, prompt: Tensor) -> Tensor:
    """Return by how much the log-probabilities [codebooks, frames + 1] of drawn codes differ."""
    difference = spoken.log_probabilities.to(alone) - alone
    difference[:, : prompt.shape[-1]] = 0  # given
    if spoken.stop_reason != "end":
        difference[0, -1] = 0  # no end was drawn
    return difference


def _largest(differences: list[Tensor]) -> float:
    return float(torch.stack([difference.abs().max() for difference in differences]).max())


def _share(wrong: Tensor) -> float:
    return float(wrong.float().mean())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Leave out dropout and gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
