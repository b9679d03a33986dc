"""`halle tokenize`: a manifest and a codec to a token store.

Utterances are encoded whole, since a codec's convolutions and bi-LSTMs see all of one. A shard of the store
is the unit of work: a killed run goes on with the missing shards, and processes take turns in them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.lock import LOCK
from stages.artifacts.manifest import Manifest, read_manifest
from stages.artifacts.run_dir import CONFIG, LOG, PROVENANCE, Output, check_output
from stages.artifacts.storage import is_complete, read_json, write_jsonl
from stages.artifacts.token_store import (
    REJECTED_FILE,
    STORE_FILE,
    TEXT_TOKENIZER_FILE,
    StreamInfo,
    TokenStoreWriter,
    TokenUtterance,
)
from stages.codec.base import Codec
from stages.codec.inference import for_inference
from stages.codec.registry import codec_fingerprint, load_codec
from stages.config.stage_configs import TokenizeConfig
from stages.data.encoding import aligned_batches, encode_batches, read_waveforms
from stages.data.likeness import given_tokenizer, learned_tokenizer, refuse_other_codec, with_codec
from stages.errors import BadInputsError, UsageError
from stages.progress import Progress
from stages.text.corpus import Item, Items, apply_policy
from stages.text.normalizer import NORMALIZER_VERSION
from stages.text.tokenizer import TextTokenizer
from stages.training.processes import Processes

log = logging.getLogger("halle.tokenize")

MOST_WORKERS = 8  # each holds the activations of a batch
RUN_FILES = (CONFIG, PROVENANCE, LOG, LOCK)  # about the run, not part of the tokens


@dataclass(frozen=True)
class Work:
    """Everything that is known before the first waveform is read."""

    manifest: Manifest
    items: Items
    loudness: float | None
    codec: Codec
    tokenizer: TextTokenizer
    parents: dict[str, str]
    dropped_characters: dict[str, int]
    shard_utterances: int

    @property
    def num_shards(self) -> int:
        return -(-len(self.items) // self.shard_utterances)

    def shard(self, index: int) -> list[Item]:
        return self.items[index * self.shard_utterances : (index + 1) * self.shard_utterances]


def run(config: TokenizeConfig) -> dict:
    """Write the token store and return its totals; a finished store is left as it is."""
    config = with_codec(config)
    known = _finished_parents(config)
    work = None if known else _read_inputs(config)
    processes = Processes(config.device, patience=timedelta(days=7))  # shards take unequal times
    with processes.claim("tokenize", config, known or work.parents) as output:
        if work is not None and not output.complete:
            writer = TokenStoreWriter(output.path, _stream_infos(work.codec))
            processes.on_main(lambda: work.tokenizer.save(output.path / TEXT_TOKENIZER_FILE))
            write_shards(work, writer, config, processes.device, processes.rank, processes.world_size)
            processes.wait()
            processes.on_main(lambda: _finish(work, writer, config, output))
    return _summary(config)


def plan(config: TokenizeConfig) -> dict:
    """Say what `run` would read and write; raise what it would raise before reading audio."""
    config = with_codec(config)
    work = _read_inputs(config)
    check_output("tokenize", config, work.parents)
    out, reused = Path(config.out), config.like or config.text_tokenizer
    done = sum(TokenStoreWriter(out, []).has_shard(index) for index in range(work.num_shards))
    return {
        "reads": [work.manifest.folder.as_posix(), config.codec],
        "utterances": len(work.items),
        "hours": round(work.manifest.hours, 4),
        "rejected_texts": _count_reasons(item.rejection for item in work.items if item.rejection),
        "streams": [asdict(info) for info in _stream_infos(work.codec)],
        "bits_per_second": work.codec.bits_per_second,
        "text_tokenizer": f"reused: {reused}" if reused else "learned from the texts",
        "shards": {"all": work.num_shards, "done": done},
        "writes": [(out / name).as_posix() for name in (STORE_FILE, TEXT_TOKENIZER_FILE, REJECTED_FILE)],
    }


# ---- what is known before the first waveform is read


def _finished_parents(config: TokenizeConfig) -> dict[str, str] | None:
    """Return the parents of a finished store without a look at the texts: the same ones teach the same tokenizer."""
    out = Path(config.out)
    if config.restart or config.allow_change or not config.data or not (is_complete(out) and (out / CONFIG).is_file()):
        return None
    known, given = read_json(out / CONFIG).get("parents", {}), given_tokenizer(config)
    tokenizer = given.fingerprint if given else known.get("text_tokenizer", "")
    return _parents(load_codec(config.codec), read_manifest(config.data), tokenizer)


def _parents(codec: Codec, manifest: Manifest, tokenizer: str) -> dict[str, str]:
    return {"codec": codec_fingerprint(codec), "data": manifest.fingerprint, "text_tokenizer": tokenizer,
            "text_normalizer": NORMALIZER_VERSION}


def _read_inputs(config: TokenizeConfig) -> Work:
    for option, value in (("--data", config.data), ("--out", config.out)):
        if not value:
            raise UsageError(f"expected a path after {option}, got nothing", "see halle tokenize --help")
    if config.allow_change:
        raise UsageError("tokens made with different settings cannot share a store, so --allow-change does not apply",
                         "choose another --out, or --restart (the old store is moved aside)")
    manifest = read_manifest(config.data)
    codec = load_codec(config.codec)
    items = Items(manifest.utterances)
    tokenizer = given_tokenizer(config) or learned_tokenizer(config, manifest)
    items, dropped = apply_policy(items, tokenizer, config.unknown_characters)
    parents = _parents(codec, manifest, tokenizer.fingerprint)
    loudness = _loudness(manifest)
    refuse_other_codec(config, parents["codec"], loudness)
    return Work(manifest, items, loudness, codec, tokenizer, parents, dropped, config.shard_utterances)


def _loudness(manifest: Manifest) -> float | None:
    """Return the RMS in dB that curation gave all utterances, None when it differs or was left as it is."""
    targets = {utterance.extra.get("loudness_db") for utterance in manifest.utterances}
    return targets.pop() if len(targets) == 1 else None


# ---- shards


def write_shards(work: Work, writer: TokenStoreWriter, config: TokenizeConfig, device: torch.device,
                 rank: int = 0, world_size: int = 1) -> None:
    """Write the missing shards whose turn it is: number `rank`, `rank + world_size` and so on."""
    mine = range(rank, work.num_shards, world_size)
    missing = [index for index in mine if not writer.has_shard(index)]
    total = sum(len(work.shard(index)) for index in mine)
    progress = Progress("encoding", total, start=total - sum(len(work.shard(index)) for index in missing))
    codec = for_inference(work.codec.to(device))
    try:
        for index in missing:
            writer.write_shard(index, *_encode_shard(work.shard(index), codec, work.tokenizer, config, progress))
    finally:
        progress.close()


def _encode_shard(items: list[Item], codec: Codec, tokenizer: TextTokenizer, config: TokenizeConfig,
                  progress: Progress) -> tuple[list[TokenUtterance], list[dict]]:
    """Return the shard's utterances and rejections, both in the manifest's order."""
    rejections = {item.utterance.id: item.rejection for item in items if item.rejection}
    made: dict[str, TokenUtterance] = {}
    workers = config.workers or min(MOST_WORKERS, torch.get_num_threads())
    on_cpu = next(codec.parameters()).device.type == "cpu"
    loaded = read_waveforms(items, codec.sample_rate, rejections, workers)
    batches = aligned_batches(loaded, codec, config.batch_seconds)
    for batch, codes in encode_batches(codec, batches, workers if on_cpu else 1):
        for (item, waveform), streams in zip(batch, codes, strict=True):
            made[item.utterance.id] = _token_utterance(item, len(waveform), codec.sample_rate, tokenizer, streams)
        progress.advance(len(batch))
    progress.advance(len(rejections))
    order = [item.utterance.id for item in items]
    return [made[key] for key in order if key in made], [rejections[key] for key in order if key in rejections]


def _token_utterance(item: Item, num_samples: int, sample_rate: int, tokenizer: TextTokenizer,
                     codes: dict[str, np.ndarray]) -> TokenUtterance:
    utterance = item.utterance
    return TokenUtterance(
        id=utterance.id, duration=round(num_samples / sample_rate, 6), num_samples=num_samples,
        speaker=utterance.speaker, text=item.text, split=utterance.split,
        text_tokens=np.array(tokenizer.encode(item.text), dtype=np.uint16), codes=codes,
    )


# ---- the finished store


def _finish(work: Work, writer: TokenStoreWriter, config: TokenizeConfig, output: Output) -> None:
    """Write rejections and totals, unless too much was rejected: then the shards stay, for a run that allows it."""
    rejected = writer.rejected(work.num_shards)
    write_jsonl(output.path / REJECTED_FILE, rejected)
    reasons, kept = _count_reasons(rejected), len(work.items) - len(rejected)
    if len(rejected) > config.bad_allowed(len(work.items)) or not kept:
        raise BadInputsError(
            f"{len(rejected)} of {len(work.items)} utterances cannot be used "
            f"({', '.join(f'{count} {reason}' for reason, count in reasons.items())}), at most {config.max_bad} may",
            f"see `{(output.path / REJECTED_FILE).as_posix()}`: mend them and use --restart, or go on without them: "
            f"--max-bad {len(rejected)}")
    writer.finish(work.num_shards, {
        "codec_fingerprint": work.parents["codec"],
        "text_tokenizer_fingerprint": work.parents["text_tokenizer"],
        "manifest_fingerprint": work.parents["data"],
        "text_normalizer": NORMALIZER_VERSION,
        "loudness_target": work.loudness,
        "sample_rate": work.codec.sample_rate,
        "bits_per_second": work.codec.bits_per_second,
        "words": sum(len(row["text"].split()) for row in writer.rows(work.num_shards)),
        "rejected": reasons,
        "dropped_characters": work.dropped_characters,
    }, exclude=RUN_FILES)
    log.info("%d utterances kept, %d rejected", kept, len(rejected))


def _count_reasons(rejected: Iterable[dict]) -> dict[str, int]:
    return dict(sorted(Counter(row["reason"] for row in rejected).items()))


def _stream_infos(codec: Codec) -> list[StreamInfo]:
    return [StreamInfo(**asdict(spec)) for spec in codec.streams]


def _summary(config: TokenizeConfig) -> dict:
    """What a user wants to know of a finished store."""
    facts = read_json(Path(config.out) / STORE_FILE)
    totals = facts["totals"]
    return {
        "out": config.out,
        "utterances": totals["utterances"],
        "rejected": facts["rejected"],
        "dropped_characters": facts["dropped_characters"],
        "hours": round(totals["seconds"] / 3600, 4),
        "frames": {stream["name"]: totals[f"{stream['name']}_frames"] for stream in facts["streams"]},
        "bits_per_second": facts["bits_per_second"],
        "text_tokens_per_word": round(totals["text_tokens"] / max(1, facts["words"]), 3),
        "shards": facts["num_shards"],
    }
