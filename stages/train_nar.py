"""`halle train-nar`: a token store and its codec to the NAR language model, HALL-E's or VALL-E's (section 5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.samples import Sample
from stages.codec.base import Codec
from stages.config.models import NARConfig
from stages.config.stage_configs import TrainNARConfig
from stages.data.alignments import Alignments, find_alignments, has_pointer
from stages.data.batching import BatchPlan, chunks, rank_slice
from stages.data.starting_model import FROM_SCRATCH, keep_architecture, open_init, start_from
from stages.data.token_codec import feature_statistics, level_counts, level_inputs, open_codec, streams_of
from stages.data.tokens import ClipRule, NARBatch, TokenData, nar_batch, nar_lengths, open_tokens
from stages.errors import UsageError
from stages.lm.ar import CodebookSums
from stages.lm.codebook_start import start_nar
from stages.lm.nar import NARModel
from stages.lm.parity import UTTERANCES, nar_checks, refinement_check, require_parity
from stages.lm.training_speed import require_torch, speed_up
from stages.planning.cost import planned_cost
from stages.planning.language_models import nar_workload
from stages.reports.run import update_report
from stages.synthesis.training_samples import (
    FROM_TRUE_LOWEST,
    NARVoice,
    TrainingSamples,
    planned_speech,
    windows_of,
)
from stages.training.largest_batch import LargestBatch, smaller_batch, utterances_in_words
from stages.training.loop import Run, check_run, train_once
from stages.training.optim import language_model_optimizers
from stages.training.processes import pick_device

STAGE = "train-nar"
STATISTICS_BATCHES = 8  # batches whose features set the input statistics
log = logging.getLogger("halle.train_nar")


def run(config: TrainNARConfig) -> dict:
    """Train to `training.steps`, continuing what `out` holds; return where the model is and how good."""
    config = keep_architecture(config, "nar")
    data, codec, init, parents = _open(config)
    process = Run(config)
    require_torch(config.training, process.device)
    result, task = train_once(process, STAGE, config, parents,
                              lambda: NARTask(config, data, codec.to(process.device), init, parents,
                                              find_alignments(config, data, codec, process.processes.on_main)),
                              report=update_report)
    return {
        "run": config.out, "checkpoint": result.checkpoint.as_posix(), "steps": result.step,
        **data.describe(),
        **({"init": task.init_report.counts()} if task and task.init_report else {}),
        **{f"validation_{name}": round(value, 5) for name, value in result.measures.items() if "." not in name},
    }


def plan(config: TrainNARConfig, probe: bool = False) -> dict:
    """Check the inputs and return what would be read, built and written, and an estimate, or a probe, of its cost."""
    config = keep_architecture(config, "nar")
    data, codec, init, parents = _open(config)
    check_run(STAGE, config, parents)
    require_torch(config.training, pick_device(config.device))
    with torch.device("meta"):
        model = NARModel(model_config(config, data, codec))
    return {
        **data.describe(),
        "codec": config.codec,
        "init": init.folder.as_posix() if init else None,
        "model": model.config.model_dump(mode="json"),
        "window_seconds": config.window_seconds if data.system == "halle" else None,
        "prompt_seconds": config.prompt_seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "speech_at_validations": planned_speech(config.training, FROM_TRUE_LOWEST),
        "steps": config.training.steps,
        "batches_an_epoch": len(_batch_plan(config, data, codec)),
        "writes": config.out,
        **planned_cost(config, nar_workload(model.config, config.training, data, _batch_plan(config, data, codec),
                                            codec, _clip_rule(config, data, codec)),
                       probe and (lambda own, process: NARTask(own, data, codec.to(process.device), init, parents,
                                                               find_alignments(own, data, codec,
                                                                               process.processes.on_main)))),
    }


def model_config(config: TrainNARConfig, data: TokenData, codec: Codec) -> NARConfig:
    """Return the architecture; what reads tokens and features follows the store, the codec and the system."""
    attended = "cross" if data.system == "halle" else "prefix"
    return config.model.model_copy(update={
        "num_levels": codec.hierarchy.num_levels,
        "codebook_size": codec.hierarchy.codebook_size,
        "latent_dim": codec.hierarchy.latent_dim,
        "text_vocab_size": data.tokenizer.vocab_size,
        "text_mode": "pointer" if config.model.text_mode == "pointer" else attended,
    })  # fmt: skip


def _open(config: TrainNARConfig) -> tuple[TokenData, Codec, Checkpoint | None, dict[str, str]]:
    data = open_tokens(config.tokens, config.system)
    if not config.codec:
        raise UsageError("expected the codec of the token store after --codec, got none", "give --codec RUN")
    codec = open_codec(config.codec, data)
    codec.refine_by(config.model.block_codes)
    if not codec.hierarchy.num_levels:
        raise UsageError(f"`{config.codec}` has one codebook, which the AR writes: there is nothing to refine")
    if len(config.level_weights or ()) not in (0, codec.hierarchy.num_levels):
        raise UsageError(f"expected {codec.hierarchy.num_levels} level_weights, got {len(config.level_weights)}",
                         "one for each level, or none: all are trained alike then")
    parents = data.parents()
    init = open_init(config, "nar", data)
    parents["init"] = init.fingerprint if init else FROM_SCRATCH
    return data, codec, init, parents


def _clip_rule(config: TrainNARConfig, data: TokenData, codec: Codec) -> ClipRule:
    rate = codec.hierarchy.frame_rate
    window = round(config.window_seconds * rate) if data.system == "halle" else None
    return ClipRule(codec.alignment // codec.hop_length, window, round(config.prompt_seconds * rate),
                    config.no_prompt_probability, config.no_text_probability)


def _batch_plan(config: TrainNARConfig, data: TokenData, codec: Codec) -> BatchPlan:
    lengths = nar_lengths(data, data.train, codec.hop_length, _clip_rule(config, data, codec), not has_pointer(config))
    return BatchPlan(lengths, config.training.batch_tokens // config.training.accumulation, config.seed, data.shares)


class NARTask:
    """Cross-entropy of one random level of every utterance, from its true feature; every frame weighs the same."""

    def __init__(self, config: TrainNARConfig, data: TokenData, codec: Codec, init: Checkpoint | None,
                 parents: dict[str, str], alignments: Alignments | None = None):  # fmt: skip
        torch.manual_seed(config.seed)
        self.config, self.data, self.codec, self.parents = config, data, codec, parents
        self.places = alignments.of if alignments else None
        self.model = NARModel(model_config(config, data, codec))
        self.init_report = start_from(self.model, init) if init else None
        self.networks = {"model": self.model}
        training = config.training
        speed_up(self.model.transformer, training)
        self.optimizers = language_model_optimizers(self.model, self.model.transformer.blocks, training)
        self.rule = _clip_rule(config, data, codec)
        self.level_weights = config.level_weights or (1.0,) * codec.hierarchy.num_levels
        self.plan = _batch_plan(config, data, codec)
        self.window_seconds = config.window_seconds if data.system == "halle" else None
        voice = NARVoice(codec, windows_of(codec, self.window_seconds, config.prompt_seconds), self.places)
        self.speech = TrainingSamples(data, codec, training, voice.what, partial(voice.say, self.model))

    def prepare(self, run: Run) -> None:
        """Set what data and codec give, unless it came with the weights; compare generation with training."""
        if self.config.codebook_start and self.init_report is None:
            hierarchy = self.codec.hierarchy
            start_nar(self.model, hierarchy.level_codebooks(), level_counts(self.data, hierarchy))
        if self.init_report is None or "input_mean" not in self.init_report.loaded:
            self._measure_inputs(run)
        run.processes.on_main(partial(self._check_parity, run))

    def _check_parity(self, run: Run) -> None:
        items = self.data.validation[:UTTERANCES]
        batch = self._make(items, "validation").to(run.device)
        inputs = level_inputs(batch, self.codec.hierarchy)
        whole = streams_of(self.data.store[items[0]], run.device)
        require_parity([
            *nar_checks(self.model, batch.lengths, batch.text_lengths, batch.prompt_lengths, text=batch.text,
                        **{name: value for name, value in inputs.items() if name != "targets"}),
            *refinement_check(self.codec.hierarchy, whole, self.rule.prompt, self.rule.unit),
        ], log)  # fmt: skip

    def _measure_inputs(self, run: Run) -> None:
        batches = (self._make(self.data.train[self.plan.items(number)], "statistics").to(run.device)
                   for number in range(min(STATISTICS_BATCHES, len(self.plan))))
        self.model.set_input_statistics(*feature_statistics(batches, self.codec.hierarchy))

    def largest_batch(self, run: Run) -> LargestBatch:
        """Return the batch of the longest utterances, each with a prompt."""
        items, width = self.plan.largest()
        own, counted = rank_slice(items, run.rank, run.world_size)

        def make() -> tuple[NARBatch, bool]:
            return self._make(self.data.train[own], "largest", self.rule.with_prompts()).to(run.device), counted

        return LargestBatch(make, 1, utterances_in_words(len(own), width), smaller_batch(self.config.training))

    def batch(self, step: int, micro: int, run: Run) -> tuple[NARBatch, bool]:
        """Return this process's clips of the global batch, and whether they count."""
        number = (step - 1) * self.config.training.accumulation + micro
        own, counted = rank_slice(self.plan.items(number), run.rank, run.world_size)
        return self._make(self.data.train[own], number).to(run.device), counted

    def utterances(self, step: int, micro: int, rank: int, world_size: int) -> list[str]:
        number = (step - 1) * self.config.training.accumulation + micro
        return self.data.ids(rank_slice(self.plan.items(number), rank, world_size)[0])

    def train_step(self, batch: tuple[NARBatch, bool], run: Run) -> dict[str, Tensor]:
        own, counted = batch
        sums = self._sums(own, run)
        total = sums.losses.sum()
        local = torch.stack([total.detach(), sums.tokens.sum(), sums.correct.sum()]) * float(counted)
        loss, tokens, correct = run.sum_over_ranks(local)
        # The loop averages gradients over processes; each adds its share of the mean over all real tokens.
        run.backward(total / tokens * float(counted) * run.world_size)
        return {"loss": loss / tokens, "accuracy": correct / tokens,
                "tokens": tokens * self.config.training.accumulation}  # of a step: micro-batches are averaged

    def validate(self, run: Run) -> dict[str, float]:
        """Return loss and accuracy from true features, over all levels and for each."""
        items = self.data.validation[: self.config.training.validation_items]
        total = torch.zeros(3, self.model.config.num_levels, device=run.device)
        lengths = nar_lengths(self.data, items, self.codec.hop_length, self.rule, self.places is None)
        for part in chunks(lengths, self.config.training.batch_tokens):
            batch = self._make(items[part], "validation").to(run.device)
            for level in range(1, self.model.config.num_levels + 1):
                sums = self._sums(batch.at_level(level), run)
                total += torch.stack([sums.losses, sums.tokens, sums.correct])
        losses, tokens, correct = total
        measures = {"loss": losses.sum() / tokens.sum(), "accuracy": correct.sum() / tokens.sum()}
        for level, loss, accuracy in zip(range(1, len(tokens) + 1), losses / tokens, correct / tokens, strict=True):
            measures |= {f"loss.level{level}": loss, f"accuracy.level{level}": accuracy}
        measures |= run.processes.on_main(partial(self.speech.speak, run.step)) or {}
        return {name: float(value) for name, value in measures.items()}

    def samples(self, run: Run) -> list[Sample]:
        return self.speech.sounds

    def shards(self) -> Sequence[nn.Module]:
        return self.model.transformer.blocks if self.config.training.fsdp else ()

    def identity(self) -> tuple[str, dict, dict]:
        """Return what synthesis needs beside the weights: the system and how long clips and prompts were."""
        tokenizer = self.data.store.text_tokenizer_path.read_text(encoding="utf-8")
        return "nar", {"system": self.data.system, "model": self.model.config.model_dump(mode="json"),
                       "window_seconds": self.window_seconds, "prompt_seconds": self.config.prompt_seconds,
                       "guided": self.rule.no_text_probability > 0, "text_tokenizer_json": tokenizer}, self.parents

    def _make(self, items, step: int | str, rule: ClipRule | None = None) -> NARBatch:
        return nar_batch(self.data, items, self.codec.hop_length, rule or self.rule, self.level_weights,
                         self.config.seed, step, self.places)

    def _sums(self, batch: NARBatch, run: Run) -> CodebookSums:
        inputs = level_inputs(batch, self.codec.hierarchy)
        with run.autocast():
            return self.model.loss(lengths=batch.lengths, text=batch.text, text_lengths=batch.text_lengths,
                                   prompt_lengths=batch.prompt_lengths, **inputs)  # fmt: skip
