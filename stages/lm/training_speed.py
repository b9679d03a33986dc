"""Less memory or less time for a training step of the same model: activation checkpointing and compiled blocks.

Both act on what a step computes with gradients. Validation, generation and checkpoints see the model as it is.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from stages.config.lm_training import LMTrainingConfig
from stages.errors import MissingModelError
from stages.lm.transformer import Transformer, apply_block

BACKEND = "inductor"


def speed_up(transformer: Transformer, training: LMTrainingConfig) -> None:
    """Train the blocks as the settings say: compiled, and computed again in the backward pass.

    One block is compiled and serves all layers, for any batch and length: a long stack costs no more than a short
    one, and batches of other shapes do not compile again (a batch of one does, once).
    """
    run_block = torch.compile(apply_block, dynamic=True, backend=BACKEND) if training.compile else apply_block
    if training.checkpoint_activations:
        run_block = partial(checkpoint, run_block, use_reentrant=False)
    transformer.train_block = run_block


def require_torch(training: LMTrainingConfig, device: torch.device) -> None:
    """Raise `MissingModelError` when torch, or this machine, lacks what settings ask for: Muon, or compiling blocks."""
    if training.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise MissingModelError(f"expected torch 2.9 or newer for training.optimizer muon, got {torch.__version__}",
                                "pip install --upgrade torch torchaudio, or -O training.optimizer=adamw")
    if not training.compile:
        return
    try:
        torch.compile(lambda x: x.cos() + 1, backend=BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # dynamo has a kind of its own for each thing that is missing
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingModelError(f"`training.compile` does not work on device `{device}`: {reason}",
                                "install a C++ compiler (on Debian: apt install g++; on a GPU also Triton), "
                                "or train without: -O training.compile=false") from error
