"""The cost of a step of the AR and the NAR model. What the codec does for the NAR is not in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from stages.codec.base import Codec
from stages.config.lm_training import LMTrainingConfig
from stages.config.models import ARConfig, NARConfig
from stages.data.batching import BatchPlan
from stages.data.tokens import ClipRule, TokenData, ar_lengths, nar_lengths
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel
from stages.lm.training_speed import speed_up
from stages.planning.estimate import Workload
from stages.planning.step_cost import Losses, StepCost, count_step
from stages.training.largest_batch import utterances_in_words
from stages.training.optim import MUON_ITERATIONS, block_matrices


def ar_workload(config: ARConfig, training: LMTrainingConfig, data: TokenData, plan: BatchPlan) -> Workload:
    """Return what a step of the AR model is; `config` is that of the model as the data wants it."""
    items, _ = plan.largest()
    text, steps = (int(length) for length in ar_lengths(data, data.train[items]).max(axis=0))
    cost = ar_cost(config, training, len(items), text, steps - data.lowest.num_codebooks)
    return _workload(cost, training, plan, data.train_seconds())


def nar_workload(config: NARConfig, training: LMTrainingConfig, data: TokenData, plan: BatchPlan, codec: Codec,
                 rule: ClipRule) -> Workload:
    """Return what a step of the NAR model is: clips behind the longest prompts."""
    items, _ = plan.largest()
    lengths = nar_lengths(data, data.train, codec.hop_length, rule)
    text, frames = (int(length) for length in lengths[items].max(axis=0))
    prompt = min(rule.longest_prompt, frames // 2)
    cost = nar_cost(config, training, len(items), text, frames - prompt, prompt)
    heard = float(np.dot(lengths[:, 1], data.shares)) * codec.hop_length / codec.sample_rate
    return _workload(cost, training, plan, heard)


def _workload(cost: StepCost, training: LMTrainingConfig, plan: BatchPlan, seconds_an_epoch: float) -> Workload:
    items, width = plan.largest()
    return Workload(cost, len(items), utterances_in_words(len(items), width),
                    plan.mean_tokens / (len(items) * width), seconds_an_epoch / len(plan) * training.accumulation, "lm")


def ar_cost(config: ARConfig, training: LMTrainingConfig, items: int, text: int, frames: int) -> StepCost:
    """Count a batch of `items` equally long utterances of `text` tokens and `frames`."""
    def build() -> tuple[Sequence[nn.Module], Losses]:
        model = ARModel(config)
        speed_up(model.transformer, training.model_copy(update={"compile": False}))
        codes = torch.zeros(items, model.num_streams, frames, dtype=torch.long)

        def losses() -> Iterator[Tensor]:
            with _autocast(training):
                sums = model.loss(_zeros(items, text), _full(items, text), codes, _full(items, frames))
            yield sums.losses.sum()

        return [model], losses

    return with_optimizer(count_step(build, training.ema_decay is not None), ARModel, config, training)


def nar_cost(config: NARConfig, training: LMTrainingConfig, items: int, text: int, clip: int, prompt: int) -> StepCost:
    """Count a batch of `items` clips of `clip` frames behind prompts of `prompt` frames and `text` tokens."""
    def build() -> tuple[Sequence[nn.Module], Losses]:
        model = NARModel(config)
        speed_up(model.transformer, training.model_copy(update={"compile": False}))
        inputs = {"feature": torch.zeros(items, config.latent_dim, clip), "text": _zeros(items, text),
                  "text_lengths": _full(items, text), "prompt": torch.zeros(items, config.latent_dim, prompt),
                  "prompt_lengths": _full(items, prompt)}
        if config.text_mode == "pointer":
            inputs["places"] = _zeros(items, clip)

        def losses() -> Iterator[Tensor]:
            with _autocast(training):
                sums = model.loss(_zeros(items, clip), _full(items, clip), _full(items, 1), **inputs)
            yield sums.losses.sum()

        return [model], losses

    return with_optimizer(count_step(build, training.ema_decay is not None), NARModel, config, training)


def with_optimizer(cost: StepCost, kind: type[ARModel | NARModel], config: ARConfig | NARConfig,
                   training: LMTrainingConfig) -> StepCost:
    """Add what Muon does with the matrices of a model's blocks, if it is asked for; AdamW's arithmetic is little."""
    if training.optimizer != "muon":
        return cost
    with torch.device("meta"):
        matrices = block_matrices(kind(config).transformer.blocks)
    return replace(cost, by_muon=sum(matrix.numel() for matrix in matrices),
                   muon_flops=sum(orthogonal_flops(*matrix.shape) for matrix in matrices))


def orthogonal_flops(rows: int, columns: int) -> float:
    """Return what Muon takes to find the orthogonal matrix near one: in each iteration three products of matrices."""
    small, large = sorted((rows, columns))
    return MUON_ITERATIONS * 2.0 * small * small * (2 * large + small)


def _autocast(training: LMTrainingConfig) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16")


def _zeros(items: int, length: int) -> Tensor:
    return torch.zeros(items, length, dtype=torch.long)


def _full(items: int, value: int) -> Tensor:
    return torch.full((items,), value)
