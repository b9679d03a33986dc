"""`halle train-ar`: a token store to the AR language model, HALL-E's or the VALL-E baseline's (section 5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from random import Random

import torch
from torch import Tensor, nn

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.samples import Sample
from stages.config.models import ARConfig
from stages.config.stage_configs import TrainARConfig
from stages.data.alignments import Alignments, find_alignments, has_pointer
from stages.data.batching import BatchPlan, chunks, rank_slice
from stages.data.starting_model import FROM_SCRATCH, keep_architecture, longest_heard, open_init, start_from
from stages.data.token_codec import lowest_counts, open_codec
from stages.data.tokens import ARBatch, TokenData, ar_batch, ar_lengths, hidden_texts, open_tokens, without_text
from stages.errors import UsageError
from stages.lm.ar import ARModel, CodebookSums
from stages.lm.codebook_start import start_ar
from stages.lm.parity import UTTERANCES, ar_checks, require_parity
from stages.lm.training_speed import require_torch, speed_up
from stages.planning.cost import planned_cost
from stages.planning.language_models import ar_workload
from stages.randomness import derive_seed
from stages.reports.run import update_report
from stages.synthesis.training_samples import ARVoice, TrainingSamples, find_voice, planned_speech
from stages.training.largest_batch import LargestBatch, smaller_batch, utterances_in_words
from stages.training.loop import Run, check_run, train_once
from stages.training.optim import language_model_optimizers
from stages.training.processes import pick_device

STAGE = "train-ar"
log = logging.getLogger("halle.train_ar")


def run(config: TrainARConfig) -> dict:
    """Train to `training.steps`, continuing what `out` holds; return where the model is and how good."""
    config = keep_architecture(config, "ar")
    data, init, parents = _open(config)
    voice = find_voice(config, data)
    process = Run(config)
    require_torch(config.training, process.device)
    result, task = train_once(process, STAGE, config, parents,
                              lambda: ARTask(config, data, init, parents, voice and voice.to(process.device),
                                             _align(config, data, process)),
                              report=update_report)
    return {
        "run": config.out,
        "checkpoint": result.checkpoint.as_posix(),
        "steps": result.step,
        **data.describe(),
        **({"init": task.init_report.counts()} if task and task.init_report else {}),
        **{f"validation_{name}": round(value, 5) for name, value in result.measures.items() if "." not in name},
    }


def plan(config: TrainARConfig, probe: bool = False) -> dict:
    """Check the inputs and return what would be read, built and written, and an estimate, or a probe, of its cost."""
    config = keep_architecture(config, "ar")
    data, init, parents = _open(config)
    check_run(STAGE, config, parents)
    require_torch(config.training, pick_device(config.device))
    voice = find_voice(config, data)
    with torch.device("meta"):
        model = ARModel(model_config(config, data))
    return {
        **data.describe(),
        "init": init.folder.as_posix() if init else None,
        "model": model.config.model_dump(mode="json"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "speech_at_validations": voice and planned_speech(config.training, voice.what),
        "steps": config.training.steps,
        "batches_an_epoch": len(_batch_plan(config, data)),
        "writes": config.out,
        **planned_cost(config, ar_workload(model.config, config.training, data, _batch_plan(config, data)),
                       probe and (lambda own, process: ARTask(own, data, init, parents, None,
                                                              _align(own, data, process)))),
    }


def model_config(config: TrainARConfig, data: TokenData) -> ARConfig:
    """Return the architecture; what reads tokens follows the store."""
    return config.model.model_copy(
        update={
            "num_codebooks": data.lowest.num_codebooks,
            "codebook_size": data.lowest.codebook_size,
            "text_vocab_size": data.tokenizer.vocab_size,
        }
    )


def _open(config: TrainARConfig) -> tuple[TokenData, Checkpoint | None, dict[str, str]]:
    data = open_tokens(config.tokens, config.system)
    parents = data.parents()
    init = open_init(config, "ar", data)
    parents["init"] = init.fingerprint if init else FROM_SCRATCH
    _require_codec(config)
    streams = data.lowest.num_codebooks + config.model.text_pointer
    if len(config.stream_weights or ()) not in (0, streams):
        raise UsageError(f"expected {streams} stream_weights, got {len(config.stream_weights)}",
                         "one for a text pointer, if there is one, and each codebook; or none: all count alike then")
    return data, init, parents


def _require_codec(config: TrainARConfig) -> None:
    wants = {"its codebooks to start at": (config.codebook_start and not config.init, "-O codebook_start=false"),
             "the aligner of a text pointer":
                 (config.model.text_pointer, "-O model.text_pointer=false -O model.text_prefix=true")}
    wanted = {what: without for what, (needed, without) in wants.items() if needed}
    if wanted and not config.codec:
        raise UsageError(f"expected the codec of the tokens for {' and '.join(wanted)}, got none",
                         f"give --codec CODEC, or {' '.join(wanted.values())}")


def _align(config: TrainARConfig, data: TokenData, process: Run) -> Alignments | None:
    if not has_pointer(config):
        return None
    return find_alignments(config, data, open_codec(config.codec, data).to(process.device), process.processes.on_main)


def _batch_plan(config: TrainARConfig, data: TokenData) -> BatchPlan:
    budget = config.training.batch_tokens // config.training.accumulation
    return BatchPlan(ar_lengths(data, data.train, config.model.text_prefix), budget, config.seed, data.shares)


class ARTask:
    """Cross-entropy of every stream's next code; streams weigh the same, tokens of a stream too (MusicGen)."""

    def __init__(self, config: TrainARConfig, data: TokenData, init: Checkpoint | None, parents: dict[str, str],
                 voice: ARVoice | None = None, alignments: Alignments | None = None):  # fmt: skip
        torch.manual_seed(config.seed)
        self.config, self.data, self.parents, self.alignments = config, data, parents, alignments
        self.model = ARModel(model_config(config, data))
        self.init_report = start_from(self.model, init) if init else None
        self.longest = longest_heard(data, init)
        self.networks = {"model": self.model}
        training = config.training
        speed_up(self.model.transformer, training)
        self.optimizers = language_model_optimizers(self.model, self.model.transformer.blocks, training)
        weights = torch.tensor(config.stream_weights or (1.0,) * self.model.num_streams)
        self.weights = weights / weights.mean()
        self.plan = _batch_plan(config, data)
        self.voice = voice
        self.speech = voice and TrainingSamples(data, voice.codec, training, voice.what,
                                                partial(voice.say, self.model, config.seed))  # fmt: skip

    def prepare(self, run: Run) -> None:
        """Set where codes start, unless weights came; stop a run whose model would not speak as it is trained."""
        if self.config.codebook_start and self.init_report is None and self.voice is not None:
            start_ar(self.model, self.voice.codec.hierarchy.lowest_codebooks(), lowest_counts(self.data))
        batch = self._whole(self.data.validation[:UTTERANCES]).to(run.device)
        checks = ar_checks(self.model, batch.text, batch.text_lengths, batch.codes, batch.frame_lengths)
        run.processes.on_main(partial(require_parity, checks, log))

    def largest_batch(self, run: Run) -> LargestBatch:
        items, width = self.plan.largest()
        own, counted = rank_slice(items, run.rank, run.world_size)
        return LargestBatch(lambda: (self._whole(self.data.train[own], 1).to(run.device), counted), 1,
                            utterances_in_words(len(own), width), smaller_batch(self.config.training))

    def batch(self, step: int, micro: int, run: Run) -> tuple[ARBatch, bool]:
        """Return this process's utterances of the global batch, and whether they count."""
        own, counted = rank_slice(self.plan.items(self._number(step, micro)), run.rank, run.world_size)
        hidden = hidden_texts(self.data.ids(own), self.config.no_text_probability, self.config.seed, step)
        return without_text(self._whole(self.data.train[own], step), hidden).to(run.device), counted

    def utterances(self, step: int, micro: int, rank: int, world_size: int) -> list[str]:
        return self.data.ids(rank_slice(self.plan.items(self._number(step, micro)), rank, world_size)[0])

    def _number(self, step: int, micro: int) -> int:
        return (step - 1) * self.config.training.accumulation + micro

    def train_step(self, batch: tuple[ARBatch, bool], run: Run) -> dict[str, Tensor]:
        own, counted = batch
        sums = self._sums(own, run)
        local = torch.stack([sums.losses.detach(), sums.tokens, sums.correct]) * float(counted)
        losses, tokens, correct = run.sum_over_ranks(local)
        # The loop averages gradients over processes; each adds its share of the mean over all real tokens.
        weighted = self.weights.to(tokens.device) * sums.losses / tokens
        run.backward(weighted.mean() * float(counted) * run.world_size)
        return {"loss": (losses / tokens).mean(), "accuracy": correct.sum() / tokens.sum(),
                "tokens": tokens.sum() * self.config.training.accumulation,  # of a step: micro-batches are averaged
                **self._by_stream("loss", losses / tokens)}  # fmt: skip

    def validate(self, run: Run) -> dict[str, float]:
        """Return loss and accuracy of true codes given true codes before them, also for each codebook."""
        items = self.data.validation[: self.config.training.validation_items]
        total = torch.zeros(3, self.model.num_streams, device=run.device)
        lengths = ar_lengths(self.data, items, self.config.model.text_prefix)
        for part in chunks(lengths, self.config.training.batch_tokens):
            sums = self._sums(self._whole(items[part]).to(run.device), run)
            total += torch.stack([sums.losses, sums.tokens, sums.correct])
        losses, tokens, correct = total
        measures = {"loss": (losses / tokens).mean(), "accuracy": correct.sum() / tokens.sum(),
                    **self._by_stream("loss", losses / tokens),
                    **self._by_stream("accuracy", correct / tokens)}  # fmt: skip
        if self.speech is not None:
            measures |= run.processes.on_main(partial(self.speech.speak, run.step)) or {}
        return {name: float(value) for name, value in measures.items()}

    def samples(self, run: Run) -> list[Sample]:
        return self.speech.sounds if self.speech else []

    def shards(self) -> Sequence[nn.Module]:
        return self.model.transformer.blocks if self.config.training.fsdp else ()

    def identity(self) -> tuple[str, dict, dict]:
        """Return what synthesis needs beside the weights: tokenizer, system, and how long the training data was."""
        architecture = {
            "system": self.data.system,
            "model": self.model.config.model_dump(mode="json"),
            "stream": self.data.lowest.name,
            "frame_rate": self.data.lowest.frame_rate,
            **self.longest,
            "guided": self.config.no_text_probability > 0,
            "loudness_db": self.data.store.loudness_db,
            "text_tokenizer_json": self.data.store.text_tokenizer_path.read_text(encoding="utf-8"),
        }
        return "ar", architecture, self.parents

    def _whole(self, items: Sequence[int], step: int | None = None) -> ARBatch:
        """Return utterances; in training (`step`) a text pointer also learns to go on from a prompt."""
        if self.alignments is None:
            return ar_batch(self.data, items)

        def advances(index: int, name: str):
            random = None if step is None else Random(derive_seed(self.config.seed, "prompt", step, name))
            return self.alignments.advances(index, random)

        return ar_batch(self.data, items, advances)

    def _sums(self, batch: ARBatch, run: Run) -> CodebookSums:
        with run.autocast():
            return self.model.loss(batch.text, batch.text_lengths, batch.codes, batch.frame_lengths)

    def _by_stream(self, name: str, values: Tensor) -> dict[str, Tensor]:
        own = [f"codebook{index}" for index in range(1, self.model.config.num_codebooks + 1)]
        names = ["pointer", *own] if self.model.config.text_pointer else own
        return {f"{name}.{stream}": value for stream, value in zip(names, values, strict=True)}


