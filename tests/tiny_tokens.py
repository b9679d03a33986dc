"""Tiny codecs and token stores, written by the real writer, for the tests of what reads tokens."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.token_store import TEXT_TOKENIZER_FILE, StreamInfo, TokenStoreWriter, TokenUtterance
from stages.codec.base import Codec
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.registry import codec_fingerprint, export_codec
from stages.codec.residual import ResidualCodec
from stages.config.models import BlockConfig, CodecConfig, MRVQConfig, QuantizerConfig, SEANetConfig
from stages.text.tokenizer import TextTokenizer

BLOCKS = (BlockConfig(stride=2, pre=1, quant=2, post=1), BlockConfig(stride=1, pre=2, quant=0, post=0))
TEXTS = [f"speaker number {n} says the {word} line" for n, word in enumerate("first next other last long dark".split())]


def tiny_codec(system: str, seed: int = 0) -> Codec:
    """A codec of 48 Hz with 16 entries a codebook; for HALL-E two blocks, 24 and 48 Hz, with two levels."""
    torch.manual_seed(seed)
    config = CodecConfig(
        seanet=SEANetConfig(base_filters=2, latent_dim=8, lstm_layers=1),
        quantizer=QuantizerConfig(codebook_size=16, kmeans_iterations=3),
        num_codebooks=3,
    )
    teacher = ResidualCodec(config)
    teacher.quantizer.initialise(torch.randn(400, 8))
    if system == "valle":
        return teacher.eval()
    codec = MultiResolutionCodec.from_teacher(teacher, MRVQConfig(blocks=BLOCKS, lstm_layers=1))
    codec.mrvq.initialise(torch.randn(16, 8, 48))
    return codec.eval()


def random_codes(codec: Codec, units: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return codes of every stream [frames, codebooks] that belong together: what is refined follows from the rest."""
    hierarchy, samples = codec.hierarchy, units * codec.alignment
    lowest = random.integers(0, 16, (1, hierarchy.lowest.num_codebooks, samples // hierarchy.lowest.hop_length))
    state = hierarchy.start(torch.from_numpy(lowest))
    while state.level <= hierarchy.num_levels:
        state = hierarchy.accept(state, torch.from_numpy(random.integers(0, 16, (1, samples // codec.hop_length))))
    return {spec.name: state.streams[spec.name][0].T.numpy() for spec in codec.streams}


def tiny_tokens(folder: Path, system: str, num_utterances: int = 12) -> tuple[Path, Path]:
    """Write `codec.pt` and a store of random codes; return both paths. Every fourth utterance is for validation."""
    codec = tiny_codec(system)
    folder.mkdir(parents=True, exist_ok=True)
    export_codec(codec, folder / "codec.pt")
    tokenizer = TextTokenizer.train(TEXTS, vocab_size=40)
    random = np.random.default_rng(0)
    utterances = []
    for index in range(num_utterances):
        units = int(random.integers(8, 40))
        text = TEXTS[index % len(TEXTS)]
        codes = random_codes(codec, units, random)
        samples = units * codec.alignment
        utterances.append(
            TokenUtterance(
                id=f"utterance-{index}",
                duration=samples / codec.sample_rate,
                num_samples=samples,
                speaker=f"s{index % 3}",
                text=text,
                split="validation" if index % 4 == 3 else "train",
                text_tokens=np.array(tokenizer.encode(text)),
                codes=codes,
            )
        )
    writer = TokenStoreWriter(folder / "store", [StreamInfo(**asdict(spec)) for spec in codec.streams])
    writer.write_shard(0, utterances[:5])
    writer.write_shard(1, utterances[5:])
    tokenizer.save(folder / "store" / TEXT_TOKENIZER_FILE)
    facts = {
        "codec_fingerprint": codec_fingerprint(codec),
        "text_tokenizer_fingerprint": tokenizer.fingerprint,
    }
    writer.finish(2, facts)
    return folder / "store", folder / "codec.pt"
