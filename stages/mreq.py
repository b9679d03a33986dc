"""`halle mreq`: a codec to its multi-resolution successor, taught by the codec itself (section 4)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from stages.artifacts.manifest import Manifest, read_manifest
from stages.artifacts.samples import Sample
from stages.codec.dropout import Crops, draw_depths, sums_at
from stages.codec.health import revived_codes, training_health
from stages.codec.losses import fld_loss, gradient_norms, hsr_loss
from stages.codec.mrvq import MRVQOutput, MultiResolutionCodec
from stages.codec.post_training import (
    block_shares,
    check_bit_rate,
    fld_weights,
    going_on,
    hsr_weights,
    start_codebooks,
    student_of,
    with_finer_first_block,
)
from stages.codec.probe import IgnoredBlockWatch, in_words, probe_blocks
from stages.codec.quantizer import Ranks
from stages.codec.reconstruction import adversarial_recipe, measure_reconstruction, reconstruct_whole
from stages.codec.registry import PlainCodec, codec_fingerprint, export_codec, load_codec, load_teacher
from stages.config.hierarchy_rates import describe_blocks, resolve_blocks
from stages.config.stage_configs import MReQConfig
from stages.data.read_ahead import CropReader
from stages.data.starting_model import FROM_SCRATCH
from stages.data.waveforms import WaveformCrops, crop_length, own_items, training_and_validation_crops
from stages.errors import UsageError
from stages.metrics.validation import held_out_speech, require_transcriber
from stages.planning.codecs import mreq_workload
from stages.planning.cost import planned_cost
from stages.reports.run import update_report
from stages.training.largest_batch import LargestBatch, largest_crops
from stages.training.loop import Run, check_run, train_once

STAGE = "mreq"
EXPORT = "mreq.pt"
PROBED_ITEMS = 8  # each is decoded twice as often as there are blocks
log = logging.getLogger("halle.mreq")


@dataclass(frozen=True)
class Inputs:
    """What a run reads, opened and checked; `config` has the blocks that `rates` and `alphas` stand for."""

    config: MReQConfig
    teacher: PlainCodec | None
    source: PlainCodec | MultiResolutionCodec  # whose successor the student is, or which it goes on from
    manifest: Manifest
    crops: WaveformCrops
    held_out: WaveformCrops
    parents: dict[str, str]


def run(config: MReQConfig) -> dict:
    """Train to `training.steps`, continuing what `out` holds, and export `mreq.pt`."""
    inputs = _open(config)
    config, process = inputs.config, Run(inputs.config)
    rates = check_bit_rate(student_of(config, inputs.source), inputs.source)
    export = Path(config.out) / EXPORT
    result, _ = train_once(process, STAGE, config, inputs.parents, lambda: MReQTask(config, inputs, process),
                           lambda checkpoint: export_codec(load_codec(checkpoint), export), update_report)
    return {
        "run": config.out, "codec": export.as_posix(), "checkpoint": result.checkpoint.as_posix(),
        "steps": result.step, **rates,
        **{f"validation_{name}": round(value, 5) for name, value in result.measures.items() if "." not in name},
        **{name: round(value, 5) for name, value in result.measures.items() if name.startswith("probe.")},
    }  # fmt: skip


def plan(config: MReQConfig, probe: bool = False) -> dict:
    """Check the inputs and return what would be read, built and written, and an estimate, or a probe, of its cost."""
    inputs = _open(config)
    config = inputs.config
    check_run(STAGE, config, inputs.parents)
    require_transcriber(config.training)
    student = student_of(config, inputs.source)
    return {
        "teacher": config.teacher, "init": config.init, "data": config.data,
        "train_utterances": len(inputs.crops), "validation_utterances": len(inputs.held_out),
        "too_short_utterances": inputs.crops.num_left_out,
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        **check_bit_rate(student, inputs.source),
        "blocks": describe_blocks(config.mrvq.blocks, _latent_rate(inputs.source)),
        "streams": {spec.name: f"{spec.num_codebooks} x {spec.frame_rate:g} Hz" for spec in student.transmitted},
        "distillation_pairs": [list(pair) for pair in config.mrvq.fld_pairs] if config.teacher else [],
        "steps": config.training.steps, "writes": [config.out, (Path(config.out) / EXPORT).as_posix()],
        **planned_cost(config, mreq_workload(config, student, inputs.teacher, inputs.crops.crop_samples),
                       probe and (lambda own, process: MReQTask(own, inputs, process))),
    }


def _open(config: MReQConfig) -> Inputs:
    if not (config.teacher or config.init):
        raise UsageError("expected a codec after --teacher, got none", "make one with: halle train-codec")
    if not config.data:
        raise UsageError("expected a manifest folder after --data, got none", "make one with: halle curate")
    own_items(config.training.batch_size, config.training.accumulation, 0, 0, 1)
    teacher = load_teacher(config.teacher) if config.teacher else None
    if config.init:
        config, source = going_on(config)
    else:
        config, source = resolve_blocks(config, _latent_rate(teacher), teacher.num_codebooks), teacher
    config = with_finer_first_block(config)
    for check in (fld_weights, hsr_weights, block_shares):
        check(config)
    manifest = read_manifest(config.data)
    alignment = source.hop_length * config.mrvq.alignment_frames
    samples = crop_length(config.crop_seconds, source.sample_rate, alignment, max(config.discriminator.fft_sizes))
    crops = training_and_validation_crops(manifest, source.sample_rate, samples, config.seed, config.max_bad)
    parents = {"data": manifest.fingerprint}
    for name, given, codec in (("teacher", config.teacher, teacher), ("init", config.init, source)):
        parents[name] = codec_fingerprint(codec) if given else FROM_SCRATCH
    return Inputs(config, teacher, source, manifest, *crops, parents)


def _latent_rate(codec: PlainCodec | MultiResolutionCodec) -> Fraction:
    return Fraction(codec.sample_rate, codec.hop_length)


class MReQTask:
    """L_NAC + L_FLD + L_HSR for the student; the teacher is frozen. FLD, HSR and commitment act on latents, so they
    bypass the balancer."""

    def __init__(self, config: MReQConfig, inputs: Inputs, process: Run):
        torch.manual_seed(config.seed)
        self.config, self.inputs = config, inputs
        self.teacher = None if inputs.teacher is None else inputs.teacher.to(process.device)
        self.codec = student_of(config, inputs.source)
        self.fld_weights, self.hsr_weights = fld_weights(config), hsr_weights(config)
        discriminator = config.discriminator.after(config.frozen_steps)  # before, there is nothing to judge
        recipe = adversarial_recipe(self.codec, config.losses, discriminator, config.training, process.device)
        self.objective, self.networks, self.optimizers = recipe.objective, recipe.networks, recipe.optimizers
        self.reader = CropReader.of_run(inputs.crops, config.training, process.rank, process.world_size)
        self.utterances = self.reader.utterances
        self.speech = process.processes.on_main(partial(held_out_speech, inputs.held_out.utterances,
                                                        self.codec.sample_rate, config.training))
        self.watch = self.networks["ignored_block"] = IgnoredBlockWatch(config.ignored_block)

    @torch.no_grad()
    def prepare(self, run: Run) -> None:
        start_codebooks(self.codec, self.inputs.crops, self.config, run.device, _ranks(run))

    def largest_batch(self, run: Run) -> LargestBatch:
        largest = largest_crops(self.config.training, self.inputs.crops.crop_samples, self.codec.sample_rate, run)
        return replace(largest, make=lambda: Crops.whole(largest.make(), self.config.mrvq.num_blocks))

    def batch(self, step: int, micro: int, run: Run) -> Crops:
        crops = self.reader.items(micro)
        depths = draw_depths(block_shares(self.config), self.config.seed, step, crops)
        return Crops(self.reader.batch(step, micro).to(run.device, non_blocking=True), depths.to(run.device))

    def train_step(self, batch: Crops, run: Run) -> dict[str, Tensor]:
        ranks, frozen = _ranks(run), run.step <= self.config.frozen_steps
        waveforms, depths = batch
        with run.autocast():
            with torch.set_grad_enabled(not frozen):
                latents = self.codec.encode_latents(waveforms)
            output = self.codec.mrvq(latents, ranks)
        losses = self.losses_at_latents(output, waveforms, run)
        weighted = {**losses, "commitment": self.config.losses.commitment * losses["commitment"]}
        if frozen:
            extra = self.diagnostics(latents, output, output.quantized, weighted, run)
            run.backward(sum(weighted.values()))
            return {**losses, **extra}
        decoded = sums_at(output.partial_sums, depths) if self.config.block_dropout else output.quantized
        with run.autocast():
            estimate = self.codec.decode_latents(decoded)
        judged = self.objective(estimate.float(), waveforms, ranks, run.step)
        weighted["nac"] = judged.balanced
        extra = self.diagnostics(latents, output, decoded, weighted, run)
        if judged.discriminator is not None:
            extra["discriminator"] = judged.discriminator
            run.backward(judged.discriminator)
        run.backward(sum(weighted.values()))
        return {**judged.values, **losses, **extra}

    def losses_at_latents(self, output: MRVQOutput, batch: Tensor, run: Run) -> dict[str, Tensor]:
        """Return FLD (with a teacher) and HSR, weighted, and the mean commitment, which is not."""
        taught = {} if self.teacher is None else {
            "fld": fld_loss(self.distillation_pairs(output, batch, run), self.fld_weights)}  # fmt: skip
        return {
            **taught,
            "hsr": hsr_loss(output.hsr_pairs, self.hsr_weights),
            "commitment": torch.cat(list(output.commitments.values())).mean(),
        }

    def diagnostics(self, latents: Tensor, output: MRVQOutput, decoded: Tensor, losses: dict[str, Tensor],
                    run: Run) -> dict[str, Tensor]:  # fmt: skip
        """Return, at steps that are logged, each loss's gradient norm and the codebooks' health."""
        if run.step % self.config.training.log_every:
            return {}
        # NAC at h; FLD at c~_1, which is in every h_s as it is in h; the others where they reach everything
        places = {"nac": [decoded], "fld": [output.partial_sums[0]],
                  "hsr": [restored for _, restored in output.hsr_pairs], "commitment": [latents]}  # fmt: skip
        reached = {name: (loss, places[name]) for name, loss in losses.items() if places[name][0].requires_grad}
        norms = gradient_norms(reached, _ranks(run))
        return {**{f"gradient_at_h.{name}": norm for name, norm in norms.items()},
                **training_health(self.codec.quantizers())}  # fmt: skip

    def distillation_pairs(self, output: MRVQOutput, batch: Tensor, run: Run) -> list[tuple[Tensor, Tensor]]:
        """Return (student h_s, teacher h_t) of equations 15 and 16 for every pair of P."""
        with torch.no_grad(), run.autocast():
            taught = self.teacher.quantize(self.teacher.encode_latents(batch)).partial_sums
        return [(output.partial_sums[s - 1], taught[t - 1]) for s, t in self.config.mrvq.fld_pairs]

    def validate(self, run: Run) -> dict[str, float]:
        waveforms = self.inputs.held_out.batch(0, range(self.config.training.validation_items)).to(run.device)
        measures = measure_reconstruction(self.codec, waveforms, self.objective.mel)
        measures |= run.processes.on_main(lambda: self.speech.measure(partial(reconstruct_whole, self.codec))) or {}
        measures |= probe_blocks(self.codec, self.teacher, [waveforms[:PROBED_ITEMS]])
        measures |= {name: float(count) for name, count in revived_codes(self.codec.quantizers()).items()}
        log.info("step %d, %s", run.step, in_words(measures))
        self.watch.look(measures, self.codec.hierarchy.lowest, run.step, _ranks(run))
        return measures

    def samples(self, run: Run) -> list[Sample]:
        return self.speech.samples(partial(reconstruct_whole, self.codec))

    def identity(self) -> tuple[str, dict, dict]:
        return "codec", self.codec.export_config(), self.inputs.parents


def _ranks(run: Run) -> Ranks:
    return Ranks(run.rank, run.world_size, run.sum_over_ranks)
