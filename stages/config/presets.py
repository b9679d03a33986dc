"""Named sizes. `paper` is the paper's; the others are the paper's with fields replaced.

`single-gpu` fits one 24 GB card, `mini` trains on two CPU cores in hours, `smoke` in a minute a stage
(it shows that the chain runs; it does not learn to speak). `finetune` has no size: that is the model's after `--init`.
"""

from __future__ import annotations

from typing import Any

_SMOKE_SEANET = {"base_filters": 8, "latent_dim": 32, "lstm_layers": 1}
# a hundred steps are too few for averages over a hundred: measured, mel distance 0.53 -> 0.36 with 0.9
_SMOKE_QUANTIZER = {"codebook_size": 128, "kmeans_iterations": 10, "kmeans_vectors_per_code": 4, "decay": 0.9}
_SMOKE_DISCRIMINATOR = {"filters": 4, "fft_sizes": [1024, 512, 256]}
_SMOKE_TRANSFORMER = {"dim": 128, "num_heads": 2, "num_layers": 3, "ffn_dim": 512}
_SMOKE_TRAINING = {"log_every": 10, "validate_every": 100, "validation_items": 8, "save_every": 50}
_SMOKE_CODEC_TRAINING = {**_SMOKE_TRAINING, "validation_utterances": 4}
_SMOKE_LM_TRAINING = {**_SMOKE_TRAINING, "validation_utterances": 2}

# small codecs learn quiet recordings badly; the paper says nothing of loudness
_EVENLY_LOUD = {"loudness_db": -20.0}
_SQUIM_GATE = {"gate": {"estimator": "squim-pesq"}}  # section 6; its weights have to be fetched

_MINI_SEANET = {"base_filters": 16, "latent_dim": 64}
_MINI_LOSSES = {"mel_windows": [2048, 640, 256]}
_MINI_DISCRIMINATOR = {"filters": 4, "fft_sizes": [1024, 512, 256], "warmup_steps": 200}
_MINI_TRANSFORMER = {"dim": 256, "num_heads": 4, "num_layers": 6, "ffn_dim": 1024}
# Of one core with bf16, the AR takes 45 minutes and the NAR three hours (fp32 twice that). With 24 h of speech that is
# nearly 7 epochs of the AR, against whose learning by heart there is dropout; each of the NAR's levels hears 21 h.
_MINI_TRAINING = {"optimizer": "muon", "batch_tokens": 2600, "learning_rate": 1e-3, "warmup_steps": 200,
                  "save_every": 200, "validate_every": 500}
_MINI_CODEC_TRAINING = {"batch_size": 8, "betas": [0.8, 0.99], "schedule": "cosine", "log_every": 50,
                        "validate_every": 500, "save_every": 250, "keep_checkpoints": 3}

# ours, untried at size: a fifth of the paper's rate, and checkpoints enough to take one from before it overfits. Some
# texts are hidden, so that a model which can be guided stays so
_FINETUNE_TRAINING = {"learning_rate": 2e-5, "warmup_steps": 50, "validate_every": 100, "save_every": 100,
                      "validation_items": 64, "keep_checkpoints": 5}

_PAPER_LM_TRAINING = {"precision": "bf16", "warmup_steps": 4000, "batch_tokens": 120_000}
# 24,000 tokens a step stay below 22 GiB; the test of `tests/benchmarks/training_memory.py` counts it
_SINGLE_GPU_LM_TRAINING = {"precision": "bf16", "warmup_steps": 2000, "batch_tokens": 24_000}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # precision and warm-up are not in the paper: fp32 is several times slower on the H100s that it used, and MusicGen's
    # recipe, which its language models build on, has 4000 steps. Batches filled the memory of four (section 7.1):
    # 30,000 tokens of the AR take 59 GiB of 80 (tests/benchmarks/training_memory.py counts them).
    "paper": {
        "curate": _SQUIM_GATE,
        "train-ar": {"training": _PAPER_LM_TRAINING},
        "train-nar": {"training": _PAPER_LM_TRAINING},
    },
    "single-gpu": {
        "curate": {**_SQUIM_GATE, **_EVENLY_LOUD},
        "train-codec": {"training": {"batch_size": 64, "learning_rate": 3e-4}},
        "mreq": {"training": {"batch_size": 64}},
        "train-ar": {
            "model": {"transformer": {"dim": 1024, "num_heads": 16, "num_layers": 16, "ffn_dim": 4096}},
            "training": _SINGLE_GPU_LM_TRAINING,
        },
        "train-nar": {
            "model": {"transformer": {"dim": 768, "num_heads": 12, "num_layers": 12, "ffn_dim": 3072}},
            "training": _SINGLE_GPU_LM_TRAINING,
        },
    },
    "mini": {
        "curate": _EVENLY_LOUD,
        # first an autoencoder, then codebooks. So small a discriminator made the distance of spectra worse by a fifth
        # and words no clearer (examples/mini/RESULTS.md): it starts where the steps end, for those who train longer.
        # At this learning rate `encodec` collapses to a constant output: examples/mini/encodec.yaml is for it
        "train-codec": {
            "codec": {"arch": "spectral", "seanet": _MINI_SEANET}, "quantizer_start_step": 3000,
            "losses": _MINI_LOSSES, "discriminator": {**_MINI_DISCRIMINATOR, "start_step": 30_000},
            "training": {"steps": 30_000, "learning_rate": 1e-3, "warmup_steps": 200, **_MINI_CODEC_TRAINING},
        },
        "mreq": {
            # latents of `spectral` are so large that at a weight of 1 FLD and HSR pull 10 to 15 times as hard as L_NAC
            "frozen_steps": 2500, "crop_seconds": 2.0, "losses": {**_MINI_LOSSES, "fld": 0.05, "hsr": 0.05},
            # small language models guess the upper blocks badly: speech should not depend on them
            "block_dropout": [0.4, 0.1, 0.1], "first_block_codebooks": 4,
            "discriminator": {**_MINI_DISCRIMINATOR, "start_step": 10_800},
            "training": {"steps": 10_800, "learning_rate": 5e-4, "warmup_steps": 100, **_MINI_CODEC_TRAINING},
        },
        # an interrupted shard is begun again, so shards are small enough for a run of minutes
        "tokenize": {"shard_utterances": 100},
        "train-ar": {
            # in thousands of steps of this size attention alone did not find its place in the text
            "model": {"transformer": {**_MINI_TRANSFORMER, "dropout": 0.1}, "text_pointer": True, "text_prefix": False},
            "codebook_start": True, "no_text_probability": 0.1,
            "training": {"steps": 12_000, **_MINI_TRAINING, "batch_tokens": 1000},
        },
        "train-nar": {
            "model": {"transformer": _MINI_TRANSFORMER, "text_mode": "pointer"}, "window_seconds": 10.0,
            "codebook_start": True, "no_text_probability": 0.1,
            "training": {"steps": 14_000, **_MINI_TRAINING},
        },
    },
    "smoke": {
        "curate": {"min_seconds": 2.0, **_EVENLY_LOUD},
        # the adversary waits until there is something to judge
        "train-codec": {
            "codec": {"seanet": _SMOKE_SEANET, "quantizer": _SMOKE_QUANTIZER}, "crop_seconds": 0.5,
            "discriminator": {**_SMOKE_DISCRIMINATOR, "warmup_steps": 300},
            "training": {"steps": 500, "batch_size": 8, "learning_rate": 3e-3, "ema_decay": 0.9,
                         **_SMOKE_CODEC_TRAINING},
        },
        "mreq": {
            "discriminator": {**_SMOKE_DISCRIMINATOR, "warmup_steps": 100}, "crop_seconds": 1.0,
            "training": {"steps": 200, "batch_size": 4, "learning_rate": 1e-3, "ema_decay": 0.9,
                         **_SMOKE_CODEC_TRAINING},
        },
        "tokenize": {"shard_utterances": 50},
        "train-ar": {
            "model": {"transformer": _SMOKE_TRANSFORMER},
            "training": {"steps": 800, "batch_tokens": 2000, "learning_rate": 1e-3, "warmup_steps": 20,
                         **_SMOKE_LM_TRAINING},
        },
        "train-nar": {
            "model": {"transformer": _SMOKE_TRANSFORMER}, "window_seconds": 4.0,
            "training": {"steps": 150, "batch_tokens": 3000, "learning_rate": 1e-3, "warmup_steps": 10,
                         **_SMOKE_LM_TRAINING},
        },
    },
    "finetune": {
        "curate": {"validation_share": 0.05, **_EVENLY_LOUD},
        "tokenize": {"shard_utterances": 100},
        "train-ar": {
            "keep_architecture": True, "model": {"transformer": {"dropout": 0.1}}, "no_text_probability": 0.1,
            "training": {"steps": 500, "batch_tokens": 4000, **_FINETUNE_TRAINING},
        },
        "train-nar": {
            "keep_architecture": True, "no_text_probability": 0.1,
            "training": {"steps": 500, "batch_tokens": 8000, **_FINETUNE_TRAINING},
        },
    },
}
