"""How much of a machine's arithmetic a training step of the AR model uses, and how much memory: `python training.py`.

    MFU    model FLOPs of a step (forward and backward, each product counted once) over its time and the peak rate

A step is what `halle train-ar` does with a batch of equally long utterances: bf16 autocast, loss of every stream,
backward, clipping, AdamW. FLOPs follow Chowdhery et al. (2022, PaLM, appendix B): 6 for each weight of a matrix and
token, 12 x layers x width x length for attention, of which causal attention needs half. What checkpointed
activations cost again does not count as use. The peak rate is that of the card's data sheet (bf16, dense), or
--peak-tflops; on a CPU it is what a large product of matrices reaches in the same run. There attention in bf16 is
compared with torch's too: forward and backward, both in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.config.lm_training import LMTrainingConfig
from stages.config.models import ARConfig, TransformerConfig
from stages.lm import cpu_attention
from stages.lm.ar import ARModel
from stages.lm.training_speed import require_torch, speed_up
from stages.planning.machines import PEAKS, product_flops
from stages.training.optim import gradient_norm, parameter_groups, scale_gradients

TEXT_TOKENS_A_SECOND = 933 / 90  # Table 2
RATES = {"halle": (8.0, 6), "valle": (48.0, 1)}  # frame rate in Hz, codebooks
SIZES = {
    "paper": TransformerConfig(),
    "single-gpu": TransformerConfig(dim=1024, num_heads=16, num_layers=16, ffn_dim=4096),
    "small": TransformerConfig(dim=512, num_heads=8, num_layers=4, ffn_dim=2048),
}
VARIANTS = {
    "plain": {}, "checkpointed": {"checkpoint_activations": True}, "compiled": {"compile": True},
    "compiled, checkpointed": {"compile": True, "checkpoint_activations": True},
}  # fmt: skip


ATTENTION_SHAPES = ((11, 90), (10, 258), (4, 624), (1, 1400), (1, 2800))  # utterances, positions
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


@dataclass(frozen=True)
class Batch:
    """Equally long utterances: text [batch, tokens], codes [batch, codebooks, frames], and both lengths [batch]."""

    text: Tensor
    text_lengths: Tensor
    codes: Tensor
    frame_lengths: Tensor

    @property
    def length(self) -> int:
        """Positions of an utterance: text, frames and the delay with its start."""
        return self.text.shape[1] + self.codes.shape[2] + self.codes.shape[1]


def make_batch(config: ARConfig, system: str, seconds: float, batch_tokens: int, device: torch.device) -> Batch:
    """Return as many utterances of `seconds` as the budget takes, at least one."""
    text, frames = round(TEXT_TOKENS_A_SECOND * seconds), round(RATES[system][0] * seconds)
    size = max(1, batch_tokens // (text + frames + config.num_codebooks))

    def draw(most: int, *shape: int) -> Tensor:
        return torch.randint(most, (size, *shape), device=device)

    def full(value: int) -> Tensor:
        return torch.full((size,), value, device=device)

    codes = draw(config.codebook_size, config.num_codebooks, frames)
    return Batch(draw(config.text_vocab_size, text), full(text), codes, full(frames))


def flops_of_step(model: ARModel, batch: Batch) -> float:
    """Return the model FLOPs of forward and backward; heads read the steps of the audio alone."""
    blocks = sum(p.numel() for p in model.transformer.blocks.parameters() if p.dim() == 2)
    heads, config = sum(head.weight.numel() for head in model.heads), model.config.transformer
    attention = 12.0 * config.num_layers * config.dim * batch.length / 2
    steps = batch.length - batch.text.shape[1]
    return len(batch.text) * (batch.length * (6.0 * blocks + attention) + steps * 6.0 * heads)


def peak_flops(device: torch.device, given_tflops: float | None) -> float:
    """Return the most FLOPs a second that the machine can do."""
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type != "cuda":
        return product_flops(device)
    name = torch.cuda.get_device_name(device)
    known = next((tflops for part, tflops in PEAKS.items() if part in name), None)
    if known is None:
        raise SystemExit(f"the peak of `{name}` is not known here: give --peak-tflops")
    return known * 1e12


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes, the device's part included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def step_of(model: ARModel, batch: Batch, precision: str, device: torch.device) -> Callable[[], None]:
    """Return a function that does one training step."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-4, betas=(0.9, 0.95))

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            sums = model.loss(batch.text, batch.text_lengths, batch.codes, batch.frame_lengths)
        (sums.losses / sums.tokens).mean().backward()
        parameters = list(model.parameters())
        scale_gradients(parameters, torch.clamp(1 / (gradient_norm(parameters) + 1e-6), max=1.0))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def attention_step(attention: Attention, items: int, length: int, causal: bool) -> Callable[[], None]:
    """Return a function that attends to `length` positions, the last of which is padding unless causal, and back."""
    parts = [torch.randn(items, length, 4, 64, dtype=torch.bfloat16).transpose(1, 2).requires_grad_() for _ in range(3)]
    mask = None if causal else (torch.arange(length) < length - 1).expand(items, 1, 1, -1)
    gradient = torch.ones_like(parts[0])
    return lambda: attention(*parts, mask, causal).backward(gradient)


def torch_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=causal)


def compare_attention(turns: int) -> Iterator[tuple]:
    """Yield items, length, whether it is causal, milliseconds of ours and torch's, and the ratio of medians."""
    for items, length in ATTENTION_SHAPES:
        for causal in (False, True):
            steps = [attention_step(attention, items, length, causal)
                     for attention in (cpu_attention.attend, torch_attention)]
            taken = [[timed(step, torch.device("cpu")) for step in steps] for _ in range(turns + 1)][1:]
            ours, theirs = (1000 * statistics.median(side) for side in zip(*taken, strict=True))
            yield items, length, causal, ours, theirs, theirs / ours


def peak_memory(device: torch.device) -> float:
    """Return GiB: the most that tensors took on a GPU, the process's memory now on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


def measure(options: argparse.Namespace, device: torch.device, peak: float) -> Iterator[tuple]:
    """Yield each variant's name, seconds a step, MFU and memory in GiB."""
    codebooks = RATES[options.system][1]
    config = ARConfig(transformer=SIZES[options.size], num_codebooks=codebooks)
    for name in options.variants:
        settings = LMTrainingConfig(**VARIANTS[name])
        require_torch(settings, device)
        torch.manual_seed(0)
        with device:
            model = ARModel(config)
        speed_up(model.transformer, settings)
        batch = make_batch(config, options.system, options.seconds, options.batch_tokens, device)
        step = step_of(model, batch, options.precision, device)
        for _ in range(options.warmup):
            step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = statistics.median(timed(step, device) for _ in range(options.turns))
        yield name, seconds, flops_of_step(model, batch) / seconds / peak, peak_memory(device)
        del model, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, help="by default paper on a GPU, small on a CPU")
    parser.add_argument("--system", choices=RATES, default="halle")
    parser.add_argument("--seconds", type=float, help="of an utterance; by default 90 on a GPU, 10 on a CPU")
    parser.add_argument("--batch-tokens", type=int, help="by default 16000 on a GPU, 1000 on a CPU")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="by default bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="by default all on a GPU, two on a CPU")
    parser.add_argument("--turns", type=int, default=5, help="steps that are measured")
    parser.add_argument("--warmup", type=int, default=2, help="steps before")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak-tflops", type=float, help="of the card, bf16, dense")
    options = parser.parse_args()
    on_gpu = (device := torch.device(options.device)).type == "cuda"
    defaults = {"size": "paper" if on_gpu else "small", "seconds": 90.0 if on_gpu else 10.0,
                "batch_tokens": 16_000 if on_gpu else 1000, "precision": "bf16" if on_gpu else "fp32",
                "variants": list(VARIANTS) if on_gpu else ["plain", "checkpointed"]}  # fmt: skip
    for key, value in defaults.items():
        setattr(options, key, getattr(options, key) or value)
    peak = peak_flops(device, options.peak_tflops)
    where = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"training step, AR of {options.system} at {options.size} size, {options.precision}, utterances of "
          f"{options.seconds:g} s, {options.batch_tokens} tokens; {where}, peak {peak / 1e12:.3g} TFLOP/s")
    print("| variant | ms a step | MFU | memory, GiB |\n|---|---|---|---|")
    for name, seconds, used, memory in measure(options, device, peak):
        print(f"| {name} | {1000 * seconds:.0f} | {used:.2f} | {memory:.1f} |", flush=True)
    if not on_gpu:
        print("\n| attention in bf16, 4 heads of 64 | ours, ms | torch's, ms | ratio |\n|---|---|---|---|")
        for items, length, causal, ours, theirs, ratio in compare_attention(options.turns):
            kind = "causal" if causal else "padded"
            print(f"| {items} x {length}, {kind} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
