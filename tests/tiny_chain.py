"""The chain at the smallest size: its settings, how it is made, and where its artifacts are."""

from __future__ import annotations

import json
import shutil
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


def make_recordings(folder: Path) -> Path:
    """Copy a small audio folder of real (synthetic) speech with transcripts."""
    rows = [json.loads(line) for line in (SPEECH / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if 2.5 < row["duration"] < 5.5][:NUM_RECORDINGS]
    for row in rows:
        target = folder / row["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SPEECH / row["file_name"], target)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def make_chain(recordings: Path, root: Path) -> Chain:
    """Run every stage up to a packed model below `root`."""
    from stages import curate, mreq, pack, tokenize_corpus, train_ar, train_codec, train_nar

    made = Chain(recordings, *(root / name for name in ("data", "codec", "mreq", "tokens", "ar", "nar", "model",
                                                        "plain_tokens")))
    path = {name: str(getattr(made, name)) for name in made.__dataclass_fields__}
    curate.run(tiny_config("curate", source=path["recordings"], out=path["data"]))
    train_codec.run(tiny_config("train-codec", data=path["data"], out=path["codec"]))
    mreq.run(tiny_config("mreq", teacher=str(made.codec / "encodec.pt"), data=path["data"], out=path["mreq"]))
    tokenize_corpus.run(tiny_config("tokenize", codec=path["mreq"], data=path["data"], out=path["tokens"]))
    tokenize_corpus.run(tiny_config("tokenize", codec=path["codec"], data=path["data"], out=path["plain_tokens"],
                                    text_tokenizer=str(made.tokens / "text_tokenizer.json")))
    train_ar.run(tiny_config("train-ar", tokens=path["tokens"], out=path["ar"]))
    train_nar.run(tiny_config("train-nar", tokens=path["tokens"], codec=path["mreq"], out=path["nar"]))
    pack.run(path["mreq"], path["ar"], path["nar"], path["model"])
    return made
