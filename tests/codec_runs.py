"""A tiny manifest and tiny settings to train codecs in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stages.artifacts.checkpoint import load_trainer_state, newest_checkpoint
from stages.artifacts.manifest import write_manifest
from stages.audio.io import write_audio
from stages.config.resolve import resolve

TINY_TRAINING = (
    "training.batch_size=2", "training.validation_items=2", "training.log_every=2", "training.validate_every=100",
    "training.validation_utterances=0",
    "training.save_every=5", "training.learning_rate=0.001", "discriminator.filters=2",
    "discriminator.fft_sizes=[512, 256]", "discriminator.warmup_steps=0",
)  # fmt: skip
TINY_CODEC = (
    "codec.seanet.base_filters=2", "codec.seanet.latent_dim=16", "codec.seanet.lstm_layers=1",
    "codec.quantizer.codebook_size=16", "codec.quantizer.kmeans_iterations=5", "crop_seconds=0.5",
)  # fmt: skip


def make_manifest(folder: Path) -> Path:
    time = np.arange(36_000) / 24_000
    rows = []
    for number in range(4):
        noise = np.random.default_rng(number).normal(size=len(time))
        tone = sum(np.sin(2 * np.pi * (110 + 40 * number) * k * time) / k for k in range(1, 5))
        write_audio(folder / f"{number}.wav", 0.2 * tone * np.sin(9 * time) + 0.01 * noise, 24_000)
        rows.append({"id": f"u{number}", "audio": f"{number}.wav", "duration": 1.5, "speaker": "a", "text": "x",
                     "split": "validation" if number == 3 else "train"})  # fmt: skip
    write_manifest(folder, rows)
    return folder


def codec_config(data: Path, out: Path, steps: int, *overrides: str):
    options = {"data": str(data), "out": str(out), "training.steps": steps, "device": "cpu"}
    return resolve("train-codec", "smoke", overrides=(*TINY_TRAINING, *TINY_CODEC, *overrides), options=options)


def mreq_config(data: Path, teacher: Path, out: Path, steps: int, *overrides: str):
    options = {"data": str(data), "teacher": str(teacher), "out": str(out), "training.steps": steps, "device": "cpu"}
    return resolve("mreq", "smoke", overrides=(*TINY_TRAINING, "crop_seconds=0.5", *overrides), options=options)


def assert_same_state(first: Path, second: Path) -> None:
    """Compare everything that two runs would continue from, bit for bit."""
    ours, theirs = (load_trainer_state(newest_checkpoint(run)) for run in (first, second))
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    different = [name for name, tensor in ours[0].items() if not torch.equal(tensor, theirs[0][name])]
    assert different == []
