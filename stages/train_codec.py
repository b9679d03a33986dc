"""`halle train-codec`: a manifest to a 48 Hz residual-VQ codec (section 7.1, appendix A.1)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.artifacts.manifest import read_manifest
from stages.artifacts.samples import Sample
from stages.codec.dropout import Crops, depth_shares, draw_depths, sums_at
from stages.codec.health import revived_codes, training_health
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.quantizer import QuantizerOutput, Ranks
from stages.codec.reconstruction import (
    adversarial_recipe,
    codec_optimizer,
    measure_reconstruction,
    reconstruct_whole,
)
from stages.codec.registry import codec_fingerprint, export_codec, load_codec
from stages.codec.residual import ResidualCodec
from stages.codec.speech_tokenizer import SemanticDistillation, gradients_at_latents
from stages.config.resolve import flatten
from stages.config.stage_configs import TrainCodecConfig
from stages.data.read_ahead import CropReader
from stages.data.starting_model import FROM_SCRATCH
from stages.data.waveforms import WaveformCrops, crop_length, own_items, training_and_validation_crops
from stages.errors import UsageError
from stages.metrics.validation import held_out_speech, require_transcriber
from stages.planning.codecs import codec_workload
from stages.planning.cost import planned_cost
from stages.reports.run import update_report
from stages.speech.ssl import AlignedFeatures, load_hubert
from stages.training.largest_batch import LargestBatch, largest_crops
from stages.training.loop import Run, check_run, train_once

STAGE = "train-codec"
log = logging.getLogger("halle.train_codec")


@dataclass(frozen=True)
class Inputs:
    """What a run reads, opened and checked. `teacher` is a `speechtokenizer`'s alone."""

    crops: WaveformCrops
    held_out: WaveformCrops
    teacher: AlignedFeatures | None
    init: nn.Module | None  # an autoencoder to start from
    parents: dict[str, str]


def run(config: TrainCodecConfig) -> dict:
    """Train to `training.steps`, continuing what `out` holds, and export one file named after the `arch`."""
    inputs = _open(config)
    process = Run(config)
    export = Path(config.out) / f"{config.codec.arch}.pt"
    result, _ = train_once(process, STAGE, config, inputs.parents, lambda: CodecTask(config, inputs, process),
                           lambda checkpoint: export_codec(load_codec(checkpoint), export), update_report)
    return {
        "run": config.out,
        "codec": export.as_posix(),
        "checkpoint": result.checkpoint.as_posix(),
        "steps": result.step,
        "bits_per_second": config.codec.bits_per_second,
        "frame_rate": config.codec.autoencoder.frame_rate,
        **{f"validation_{name}": round(value, 5) for name, value in result.measures.items() if "." not in name},
    }  # fmt: skip


def plan(config: TrainCodecConfig, probe: bool = False) -> dict:
    """Check the inputs and return what would be read, built and written, and an estimate, or a probe, of its cost."""
    inputs = _open(config)
    check_run(STAGE, config, inputs.parents)
    require_transcriber(config.training)
    with torch.device("meta"):
        codec = ResidualCodec(config.codec)
    return {
        "data": config.data,
        "train_utterances": len(inputs.crops),
        "validation_utterances": len(inputs.held_out),
        "too_short_utterances": inputs.crops.num_left_out,
        "parameters": sum(parameter.numel() for parameter in codec.parameters()),
        "bits_per_second": codec.bits_per_second,
        "frame_rate": config.codec.autoencoder.frame_rate,
        "steps": config.training.steps,
        "writes": [config.out, (Path(config.out) / f"{config.codec.arch}.pt").as_posix()],
        **planned_cost(config, codec_workload(config, inputs.crops.crop_samples),
                       probe and (lambda own, process: CodecTask(own, inputs, process))),
    }


def _open(config: TrainCodecConfig) -> Inputs:
    if not config.data:
        raise UsageError("expected a manifest folder after --data, got none", "make one with: halle curate")
    if config.codec.mrvq is not None:
        raise UsageError("`codec.mrvq` is set, but this stage trains a plain codec", "train it, then run halle mreq")
    autoencoder, training = config.codec.autoencoder, config.training
    least = max(config.discriminator.fft_sizes)
    samples = crop_length(config.crop_seconds, autoencoder.sample_rate, autoencoder.hop_length, least)
    if config.quantizer_start_step >= training.steps:
        raise UsageError(f"the codebooks never start: expected fewer than {training.steps} steps without them, "
                         f"got `{config.quantizer_start_step}`", "lower quantizer_start_step, or raise --steps")
    own_items(training.batch_size, training.accumulation, 0, 0, 1)
    _shares(config)
    manifest = read_manifest(config.data)
    crops = training_and_validation_crops(manifest, autoencoder.sample_rate, samples, config.seed, config.max_bad)
    teacher, init = _teacher(config), _init(config)
    parents = {"data": manifest.fingerprint, "init": codec_fingerprint(init) if init else FROM_SCRATCH}
    if teacher is not None:
        parents["semantic"] = teacher.model.fingerprint
    return Inputs(*crops, teacher, init and init.autoencoder, parents)


def _teacher(config: TrainCodecConfig) -> AlignedFeatures | None:
    if config.codec.arch != "speechtokenizer":
        return None
    autoencoder, semantic = config.codec.autoencoder, config.semantic
    return AlignedFeatures(load_hubert(semantic.model, semantic.layer), autoencoder.sample_rate,
                           autoencoder.hop_length)  # fmt: skip


def _init(config: TrainCodecConfig) -> ResidualCodec | MultiResolutionCodec | None:
    """Return the codec to start from; refuse one whose encoder and decoder are of another architecture."""
    if config.init is None:
        return None
    found = load_codec(config.init)
    ours, theirs = config.codec, found.config
    if theirs.arch != ours.arch:
        raise UsageError(f"expected a codec of arch `{ours.arch}` to start from, got `{theirs.arch}` in "
                         f"`{config.init}`", f"give --arch {theirs.arch}")
    wanted, got = flatten(ours.autoencoder), flatten(theirs.autoencoder)
    different = [f"`{name}` {got[name]} instead of {wanted[name]}" for name in wanted if wanted[name] != got[name]]
    if different:
        raise UsageError(f"`{config.init}` has another autoencoder: {', '.join(different)}",
                         "take its sizes with -O, or leave --init out")
    return found


class CodecTask:
    """EnCodec's recipe: reconstruction against a discriminator, both updated every step, commitment outside the
    balancer, codebooks by moving averages. A `speechtokenizer`'s first codebook is taught beside it."""

    def __init__(self, config: TrainCodecConfig, inputs: Inputs, process: Run):
        torch.manual_seed(config.seed)
        self.config, self.inputs = config, inputs
        self.codec = ResidualCodec(config.codec)
        if inputs.init is not None:
            self.codec.autoencoder.load_state_dict(inputs.init.state_dict())
        recipe = adversarial_recipe(self.codec, config.losses, config.discriminator, config.training, process.device)
        self.objective, self.networks, self.optimizers = recipe.objective, recipe.networks, recipe.optimizers
        if inputs.teacher is not None:
            inputs.teacher.to(process.device)
            self.distillation = SemanticDistillation(self.codec.latent_dim, inputs.teacher.model.dim)
            self.networks["semantic"] = self.distillation
            self.optimizers["semantic"] = codec_optimizer(self.distillation, config.training)
        self.reader = CropReader.of_run(inputs.crops, config.training, process.rank, process.world_size)
        self.utterances = self.reader.utterances
        self.speech = process.processes.on_main(partial(held_out_speech, inputs.held_out.utterances,
                                                        self.codec.sample_rate, config.training))
        self.started = False  # asks the device only once whether the codebooks are there

    def prepare(self, run: Run) -> None:
        """Nothing: the codebooks start when `quantizer_start_step` is over."""

    def largest_batch(self, run: Run) -> LargestBatch:
        largest = largest_crops(self.config.training, self.inputs.crops.crop_samples, self.codec.sample_rate, run)
        return replace(largest, make=lambda: Crops.whole(largest.make(), self.codec.num_codebooks))

    def batch(self, step: int, micro: int, run: Run) -> Crops:
        depths = draw_depths(_shares(self.config), self.config.seed, step, self.reader.items(micro))
        return Crops(self.reader.batch(step, micro).to(run.device, non_blocking=True), depths.to(run.device))

    def train_step(self, batch: Crops, run: Run) -> dict[str, Tensor]:
        ranks, (waveforms, depths) = _ranks(run), batch
        quantized = run.step > self.config.quantizer_start_step
        if quantized and not (self.started or run.trying or self.codec.quantizer.initialised):
            self.start_codebooks(run)
        # a rollback may lead to before the start
        self.started = not run.trying and run.step > self.config.quantizer_start_step + 1
        with run.autocast():
            latents = self.codec.encode_latents(waveforms)
            output = self.codec.quantizer(latents, ranks) if quantized else None
            estimate = self.codec.decode_latents(self.decoded(output, depths) if quantized else latents)
        losses = self.objective(estimate.float(), waveforms, ranks, run.step)
        logged, total = dict(losses.values), losses.balanced
        if quantized:
            taught = self.losses_at_latents(output, waveforms)
            weighted = {name: getattr(self.config.losses, name) * loss for name, loss in taught.items()}
            if run.step % self.config.training.log_every == 0:
                logged |= gradients_at_latents(latents, {"nac": losses.balanced, **weighted}, ranks)
                logged |= training_health(self.codec.quantizers())
            logged |= taught
            total = total + sum(weighted.values())
        if losses.discriminator is not None:
            logged["discriminator"] = losses.discriminator
            run.backward(losses.discriminator)
        run.backward(total)
        return logged

    def decoded(self, output: QuantizerOutput, depths: Tensor) -> Tensor:
        """Return what the decoder gets: the sum of all codebooks, or of each crop's first ones alone."""
        return sums_at(output.partial_sums, depths) if self.config.codebook_dropout else output.quantized

    def losses_at_latents(self, output: QuantizerOutput, batch: Tensor) -> dict[str, Tensor]:
        """Return the losses that bypass the balancer, by the name of their weight."""
        losses = {"commitment": output.commitment.mean()}
        if self.inputs.teacher is not None:
            losses["semantic"] = self.distillation(output.partial_sums[0], self.inputs.teacher(batch))
        return losses

    @torch.no_grad()
    def start_codebooks(self, run: Run) -> None:
        """Start the codebooks from k-means on enough crops; every process gathers the same ones."""
        quantizer = self.config.codec.quantizer
        wanted = quantizer.kmeans_vectors_per_code * quantizer.codebook_size
        num_crops = -(-wanted * self.codec.hop_length // self.inputs.crops.crop_samples)
        parts = [self.codec.encode_latents(part.to(run.device)) for part in self.inputs.crops.batches(0, num_crops)]
        latents = torch.cat(parts)
        vectors = latents.transpose(1, 2).reshape(-1, self.codec.latent_dim)
        self.codec.quantizer.initialise(vectors, self.config.seed, _ranks(run))
        log.info("%d codebooks start from k-means on %d vectors", self.codec.num_codebooks, len(vectors))

    def validate(self, run: Run) -> dict[str, float]:
        waveforms = self.inputs.held_out.batch(0, range(self.config.training.validation_items)).to(run.device)
        quantized = run.step > self.config.quantizer_start_step
        measures = measure_reconstruction(self.codec, waveforms, self.objective.mel, quantized)
        decode = partial(reconstruct_whole, self.codec, quantized=quantized)
        measures |= run.processes.on_main(lambda: self.speech.measure(decode)) or {}
        revived = revived_codes(self.codec.quantizers()) if quantized else {}
        return {**measures, **{name: float(count) for name, count in revived.items()}}

    def samples(self, run: Run) -> list[Sample]:
        quantized = run.step > self.config.quantizer_start_step
        return self.speech.samples(partial(reconstruct_whole, self.codec, quantized=quantized))

    def identity(self) -> tuple[str, dict, dict]:
        return "codec", self.codec.export_config(), self.inputs.parents


def _shares(config: TrainCodecConfig) -> tuple[float, ...]:
    return depth_shares(config.codebook_dropout, config.codec.num_codebooks, "codebook_dropout", "codebooks")


def _ranks(run: Run) -> Ranks:
    return Ranks(run.rank, run.world_size, run.sum_over_ranks)
