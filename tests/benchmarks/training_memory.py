"""How much GPU memory a training step of a language model takes, counted without a GPU: `python training_memory.py`.

A real step (forward, loss, backward, AdamW) runs on fake tensors, which have shapes and no data, while every
storage is counted from its making to its end. So activations, weights in fp32 and their bf16 copies, gradients and
the optimizer's moments are in it; the CUDA context, the allocator's slack and the codec of the NAR are not.

Attention is counted as the fused kernels compute it: linear in the length.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.config.resolve import resolve
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel

GIB = 2**30
LATENT_RATE = 48.0
TEXT_TOKENS_A_SECOND = 933 / 90  # Table 2: the longest text of train-90s


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all storages that are made within and still alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a step and between steps, for so many parameters and tokens."""

    peak: int
    resident: int
    parameters: int
    tokens: int


def count(build: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], tokens: int) -> Memory:
    """Return the memory of the second step, when the optimizer has its moments."""
    # without inputs that are real: a constant of the model's code is one
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as memory:
        model = build()
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            memory.peak = memory.live
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(model)
            value.backward()
            optimizer.step()
            del value
            optimizer.zero_grad()
        return Memory(memory.peak, memory.live, sum(p.numel() for p in model.parameters()), tokens)


def count_ar(config, batch_tokens: int, seconds: float, frame_rate: float, num_codebooks: int) -> Memory:
    """Count a batch of utterances of `seconds`, as many as the budget takes."""
    text = round(TEXT_TOKENS_A_SECOND * seconds)
    frames = round(frame_rate * seconds)
    width = text + frames + num_codebooks
    batch = max(1, batch_tokens // width)

    def loss(model: nn.Module) -> Tensor:
        lengths = torch.full((batch,), text), torch.full((batch,), frames)
        codes = torch.zeros(batch, num_codebooks, frames, dtype=torch.long)
        return model.loss(torch.zeros(batch, text, dtype=torch.long), lengths[0], codes, lengths[1]).losses.sum()

    model_config = config.model_copy(update={"num_codebooks": num_codebooks})
    return count(lambda: ARModel(model_config), loss, batch * width)


def count_nar(config, batch_tokens: int, seconds: float, window_seconds: float | None) -> Memory:
    """Count clips of `window_seconds` behind prompts of 3 s, or whole utterances behind their text (VALL-E)."""
    text, prompt = round(TEXT_TOKENS_A_SECOND * seconds), round(3 * LATENT_RATE)
    frames = round(LATENT_RATE * min(seconds - 3, window_seconds or seconds))
    width = text + prompt + frames
    batch = max(1, batch_tokens // width)

    def loss(model: nn.Module) -> Tensor:
        def full(length: int) -> Tensor:
            return torch.full((batch,), length)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape)

        latent = config.latent_dim
        sums = model.loss(
            zeros(frames).long(), full(frames), full(1), feature=zeros(latent, frames), text=zeros(text).long(),
            text_lengths=full(text), prompt=zeros(latent, prompt), prompt_lengths=full(prompt))  # fmt: skip
        return sums.losses.sum()

    model_config = config.model_copy(update={"text_mode": "cross" if window_seconds else "prefix"})
    return count(lambda: NARModel(model_config), loss, batch * width)


def count_preset(preset: str, processes: int = 1) -> dict[str, Memory]:
    """Return the memory of one process for each model of a preset, at its longest utterances."""
    ar, nar = resolve("train-ar", preset), resolve("train-nar", preset)
    ar_tokens, nar_tokens = (each.training.batch_tokens // each.training.accumulation // processes
                             for each in (ar, nar))
    return {
        "HALL-E AR, 90 s": count_ar(ar.model, ar_tokens, 90.0, 8.0, 6),
        "VALL-E AR, 28 s": count_ar(ar.model, ar_tokens, 28.0, 48.0, 1),
        "VALL-E AR, 90 s": count_ar(ar.model, ar_tokens, 90.0, 48.0, 1),
        "HALL-E NAR, clips of 90 s": count_nar(nar.model, nar_tokens, 90.0, nar.window_seconds),
        "VALL-E NAR, 28 s": count_nar(nar.model, nar_tokens, 28.0, None),
    }


def main() -> None:
    for preset, processes in (("single-gpu", 1), ("paper", 4)):
        print(f"\n{preset}, one of {processes} processes\n")
        print("| model | parameters, M | tokens | peak, GiB | of it between steps |\n|---|---|---|---|---|")
        for name, memory in count_preset(preset, processes).items():
            print(f"| {name} | {memory.parameters / 1e6:.0f} | {memory.tokens:,} | {memory.peak / GIB:.1f} "
                  f"| {memory.resident / GIB:.1f} |")


if __name__ == "__main__":
    main()
