"""The chain at the smallest size: its settings, and where its artifacts are. `conftest.py` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.config.resolve import resolve

SPEECH = Path(__file__).parent.parent / "examples" / "speech"
NUM_RECORDINGS = 40

TINY = {
    "curate": ("min_seconds=2", "test_share=0.2", "validation_share=0.1"),
    "train-codec": ("codec.seanet.base_filters=2", "codec.seanet.latent_dim=8", "codec.quantizer.codebook_size=16",
                    "codec.quantizer.kmeans_iterations=2", "discriminator.filters=2", "discriminator.fft_sizes=[256]",
                    "discriminator.warmup_steps=0", "crop_seconds=0.5", "training.batch_size=2", "training.steps=2",
                    "training.validation_items=1", "training.validation_utterances=1"),
    "mreq": ("discriminator.filters=2", "discriminator.fft_sizes=[256]", "discriminator.warmup_steps=0",
             "crop_seconds=0.5", "training.batch_size=2", "training.steps=2", "training.validation_items=1",
             "training.validation_utterances=1"),
    "tokenize": ("shard_utterances=16",),
    "train-ar": ("model.transformer.dim=16", "model.transformer.num_layers=1", "model.transformer.ffn_dim=32",
                 "training.batch_tokens=400", "training.steps=2", "training.validation_items=1"),
    "train-nar": ("model.transformer.dim=16", "model.transformer.num_layers=1", "model.transformer.ffn_dim=32",
                  "window_seconds=2", "prompt_seconds=1", "training.batch_tokens=1200", "training.steps=2",
                  "training.validation_items=1", "training.validation_utterances=1", "training.transcriber=null"),
}


def tiny_config(stage: str, *overrides: str, **options):
    """Return the settings of a stage at the smallest size; `options` are paths and other top-level settings."""
    return resolve(stage, "smoke", overrides=(*TINY.get(stage, ()), *overrides), options={"device": "cpu", **options})


@dataclass(frozen=True)
class Chain:
    """Paths of every artifact of the tiny chain."""

    recordings: Path
    data: Path
    codec: Path
    mreq: Path
    tokens: Path
    ar: Path
    nar: Path
    model: Path
    plain_tokens: Path  # of the plain codec: what VALL-E is trained on
