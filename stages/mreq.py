"""`halle mreq`: a codec to its multi-resolution successor, taught by the codec itself (section 4)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.artifacts.manifest import Manifest, read_manifest
from stages.artifacts.run_dir import check_output
from stages.codec.losses import fld_loss, hsr_loss
from stages.codec.mrvq import MRVQOutput, MultiResolutionCodec
from stages.codec.quantizer import Ranks
from stages.codec.reconstruction import adversarial_recipe, measure_reconstruction
from stages.codec.registry import codec_fingerprint, export_codec, load_codec, load_teacher
from stages.codec.residual import ResidualCodec
from stages.config.stage_configs import MReQConfig
from stages.data.waveforms import WaveformCrops, crop_length, own_items, training_and_validation_crops
from stages.errors import DivergedError, UsageError
from stages.training.loop import Run, train_once

STAGE = "mreq"
EXPORT = "mreq.pt"
IGNORED_PERPLEXITY = 1.05  # a codebook whose codes are this predictable carries nothing
log = logging.getLogger("halle.mreq")


@dataclass(frozen=True)
class Inputs:
    """What a run reads, opened and checked."""

    teacher: ResidualCodec
    manifest: Manifest
    crops: WaveformCrops
    held_out: WaveformCrops
    parents: dict[str, str]


def run(config: MReQConfig) -> dict:
    """Train to `training.steps`, continuing what `out` holds, and export `mreq.pt`."""
    inputs = _open(config)
    process = Run(config)
    rates = _check_bit_rate(_student(config, inputs.teacher), inputs.teacher)
    export = Path(config.out) / EXPORT
    result, _ = train_once(process, STAGE, config, inputs.parents, lambda: MReQTask(config, inputs, process),
                           lambda checkpoint: export_codec(load_codec(checkpoint), export))
    return {
        "run": config.out,
        "codec": export.as_posix(),
        "checkpoint": result.checkpoint.as_posix(),
        "steps": result.step,
        **rates,
        **{f"validation_{name}": round(result.measures[name], 5) for name in ("l1", "mel", "si_sdr")
           if name in result.measures},
    }  # fmt: skip


def plan(config: MReQConfig) -> dict:
    """Check the inputs and return what would be read, built and written."""
    inputs = _open(config)
    check_output(STAGE, config, inputs.parents)
    student = _student(config, inputs.teacher)
    return {
        "teacher": config.teacher,
        "data": config.data,
        "train_utterances": len(inputs.crops),
        "validation_utterances": len(inputs.held_out),
        "too_short_utterances": inputs.crops.num_left_out,
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        **_check_bit_rate(student, inputs.teacher),
        "streams": {spec.name: f"{spec.num_codebooks} x {spec.frame_rate:g} Hz" for spec in student.transmitted},
        "distillation_pairs": [list(pair) for pair in config.mrvq.fld_pairs],
        "steps": config.training.steps,
        "writes": [config.out, (Path(config.out) / EXPORT).as_posix()],
    }


def _open(config: MReQConfig) -> Inputs:
    if not config.teacher:
        raise UsageError("expected a codec after --teacher, got none", "make one with: halle train-codec")
    if not config.data:
        raise UsageError("expected a manifest folder after --data, got none", "make one with: halle curate")
    fld_weights(config)
    hsr_weights(config)
    own_items(config.training.batch_size, config.training.accumulation, 0, 0, 1)
    teacher = load_teacher(config.teacher)
    manifest = read_manifest(config.data)
    alignment = teacher.hop_length * config.mrvq.alignment_frames
    least = max(config.discriminator.fft_sizes)
    samples = crop_length(config.crop_seconds, teacher.sample_rate, alignment, least)
    crops = training_and_validation_crops(manifest, teacher.sample_rate, samples, config.seed, config.max_bad)
    parents = {"data": manifest.fingerprint, "teacher": codec_fingerprint(teacher)}
    return Inputs(teacher, manifest, *crops, parents)


def fld_weights(config: MReQConfig) -> tuple[float, ...]:
    """Return the weight of every pair of equation 14."""
    return _each(config.losses.fld, len(config.mrvq.fld_pairs), "losses.fld", "student-teacher pair")


def hsr_weights(config: MReQConfig) -> tuple[float, ...]:
    """Return the weight of every block of equation 17 but the last, whose term is zero."""
    return _each(config.losses.hsr, config.mrvq.num_blocks - 1, "losses.hsr", "block but the last")


def _each(weights: tuple[float, ...] | float, number: int, key: str, what: str) -> tuple[float, ...]:
    found = weights if isinstance(weights, tuple) else (weights,) * number
    if len(found) != number:
        raise UsageError(f"expected one weight for each {what} ({number}) in `{key}`, got `{len(found)}`",
                         f"give one number for all, or {number}")  # fmt: skip
    return found


def _student(config: MReQConfig, teacher: ResidualCodec) -> MultiResolutionCodec:
    return MultiResolutionCodec.from_teacher(teacher, config.mrvq, config.init_codebooks)


def _check_bit_rate(student: MultiResolutionCodec, teacher: ResidualCodec) -> dict[str, float]:
    """Return the bit rates of both, from the streams; warn when they differ, which the paper's blocks do not."""
    ours, theirs = student.bits_per_second, teacher.bits_per_second
    if ours != student.config.bits_per_second:
        raise AssertionError(f"streams carry {ours} bit/s, the blocks say {student.config.bits_per_second}")
    log.info("bit rate %g bit/s, teacher %g; lowest %g Hz", ours, theirs, student.streams[0].frame_rate)
    if ours != theirs:
        log.warning("the student's bit rate %g bit/s differs from the teacher's %g bit/s", ours, theirs)
    return {"bits_per_second": ours, "teacher_bits_per_second": theirs}


class MReQTask:
    """L_NAC + L_FLD + L_HSR for the student; the teacher is frozen. FLD, HSR and commitment act on latents, so they
    bypass the balancer."""

    def __init__(self, config: MReQConfig, inputs: Inputs, process: Run):
        torch.manual_seed(config.seed)
        self.config, self.inputs = config, inputs
        self.teacher = inputs.teacher.to(process.device)
        self.codec = _student(config, inputs.teacher)
        self.fld_weights, self.hsr_weights = fld_weights(config), hsr_weights(config)
        recipe = adversarial_recipe(self.codec, config.losses, config.discriminator, config.training, process.device)
        self.objective, self.networks, self.optimizers = recipe.objective, recipe.networks, recipe.optimizers

    @torch.no_grad()
    def prepare(self, run: Run) -> None:
        """Start the Quant codebooks from k-means: the lowest block needs as many vectors as any, at its own rate."""
        quantizer = self.codec.config.quantizer
        frames = quantizer.kmeans_vectors_per_code * quantizer.codebook_size * self.config.mrvq.blocks[0].stride
        num_crops = -(-frames * self.codec.hop_length // self.inputs.crops.crop_samples)
        parts = [self.codec.encode_latents(part.to(run.device)) for part in self.inputs.crops.batches(0, num_crops)]
        self.codec.mrvq.initialise(torch.cat(parts), self.config.init_codebooks, self.config.seed, _ranks(run))
        log.info("codebooks of %d blocks start from %d crops", self.config.mrvq.num_blocks, num_crops)

    def batch(self, step: int, micro: int, run: Run) -> Tensor:
        training = self.config.training
        items = own_items(training.batch_size, training.accumulation, micro, run.rank, run.world_size)
        return self.inputs.crops.batch(step, items).to(run.device)

    def train_step(self, batch: Tensor, run: Run) -> dict[str, Tensor]:
        ranks = _ranks(run)
        with run.autocast():
            output = self.codec.mrvq(self.codec.encode_latents(batch), ranks)
            estimate = self.codec.decode_latents(output.quantized)
        losses = self.objective(estimate.float(), batch, ranks, run.step)
        fld = fld_loss(self.distillation_pairs(output, batch, run), self.fld_weights)
        hsr = hsr_loss(output.hsr_pairs, self.hsr_weights)
        commitment = torch.cat(list(output.commitments.values())).mean()
        extra = {}
        if run.step % self.config.training.log_every == 0:
            extra = _gradients_at_blocks(output, {"nac": losses.balanced, "fld": fld, "hsr": hsr}, ranks)
        if losses.discriminator is not None:
            extra["discriminator"] = losses.discriminator
            run.backward(losses.discriminator)
        run.backward(losses.balanced + self.config.losses.commitment * commitment + fld + hsr)
        return {**losses.values, "commitment": commitment, "fld": fld, "hsr": hsr, **extra}

    def distillation_pairs(self, output: MRVQOutput, batch: Tensor, run: Run) -> list[tuple[Tensor, Tensor]]:
        """Return (student h_s, teacher h_t) of equations 15 and 16 for every pair of P."""
        with torch.no_grad(), run.autocast():
            taught = self.teacher.quantize(self.teacher.encode_latents(batch)).partial_sums
        return [(output.partial_sums[s - 1], taught[t - 1]) for s, t in self.config.mrvq.fld_pairs]

    def validate(self, run: Run) -> dict[str, float]:
        waveforms = self.inputs.held_out.batch(0, range(self.config.training.validation_items)).to(run.device)
        measures = measure_reconstruction(self.codec, waveforms, self.objective.mel)
        lowest = self.codec.hierarchy.lowest
        perplexities = [measures[f"perplexity.{lowest.name}.{i + 1}"] for i in range(lowest.num_codebooks)]
        if max(perplexities) < IGNORED_PERPLEXITY:
            raise DivergedError(
                f"the {lowest.frame_rate:g} Hz block is ignored: all its codes are the same "
                f"(perplexity `{max(perplexities):.3f}` of {lowest.codebook_size})",
                "start from a trained teacher, or raise `losses.fld` and `losses.hsr`")  # fmt: skip
        return measures

    def identity(self) -> tuple[str, dict, dict]:
        return "codec", self.codec.export_config(), self.inputs.parents


def _gradients_at_blocks(output: MRVQOutput, losses: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return the gradient norm of each term at what the blocks give: with it, weights can be set from a ratio.

    NAC is taken at h; FLD at c~_1, which is in every h_s as it is in h; HSR at all D_k(b~_k) together.
    """
    places = {"nac": [output.quantized], "fld": [output.partial_sums[0]],
              "hsr": [reconstruction for _, reconstruction in output.hsr_pairs]}  # fmt: skip
    norms = {}
    for name, loss in losses.items():
        if not loss.requires_grad:
            continue
        gradients = torch.autograd.grad(loss, places[name], retain_graph=True)
        squares = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        # each process differentiates the mean over its own items, a world_size-th of all
        norms[f"gradient_at_h.{name}"] = ranks.sum(squares).sqrt() / ranks.world_size
    return norms


def _ranks(run: Run) -> Ranks:
    return Ranks(run.rank, run.world_size, run.sum_over_ranks)
