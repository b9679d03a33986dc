"""What a token store must have to suit a model (`halle tokenize --like MODEL`): its text tokenizer and its codec."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from stages.artifacts.checkpoint import STAGE_OF_KIND, describe_checkpoint, part_of_model
from stages.artifacts.manifest import Manifest, Utterances
from stages.artifacts.model_hub import hub_name
from stages.artifacts.storage import read_json
from stages.artifacts.token_store import STORE_FILE, TEXT_TOKENIZER_FILE
from stages.config.stage_configs import TokenizeConfig
from stages.errors import UsageError
from stages.text.corpus import Items
from stages.text.normalizer import NORMALIZER_VERSION
from stages.text.tokenizer import TextTokenizer

log = logging.getLogger("halle.tokenize")


@dataclass(frozen=True)
class Likeness:
    """The text tokenizer, with its lower-casing and normaliser, and the codec that a store or model goes with.

    `loudness_db` is the RMS of the speech that it was made from, None when that is unknown or was left as it was.
    """

    tokenizer: TextTokenizer
    codec: str  # fingerprint
    loudness_db: float | None


def read_likeness(path: str | Path) -> Likeness:
    """Read what a model folder, an AR or NAR run, or a token store says of itself; no weights, no tokens."""
    if (Path(path) / STORE_FILE).is_file():
        facts = read_json(Path(path) / STORE_FILE)
        return Likeness(TextTokenizer.load(path), facts["codec_fingerprint"], facts.get("loudness_target"))
    folder, config = describe_checkpoint(part_of_model(path, "ar"))
    if config.get("kind") not in ("ar", "nar"):
        made_by = STAGE_OF_KIND.get(config.get("kind"), "another program")
        raise UsageError(f"expected a model folder, an AR or NAR run, or a token store, got `{path}`, which {made_by} "
                         "made", "a text tokenizer comes with language models and with tokens")
    architecture = config["architecture"]
    tokenizer = TextTokenizer.from_json(architecture["text_tokenizer_json"], folder)
    return Likeness(tokenizer, config["parents"]["codec"], architecture.get("loudness_db"))


def with_codec(config: TokenizeConfig) -> TokenizeConfig:
    """Return settings that name a codec: without one, that of the model folder after `--like`."""
    if config.codec:
        return config
    if not config.like or part_of_model(config.like, "codec") == Path(config.like):
        raise UsageError("expected a codec after --codec, got none" +
                         (f": `{config.like}` holds none" if config.like else ""),
                         "give --codec CODEC, or a model folder after --like")
    return config.model_copy(update={"codec": config.like})


def refuse_other_codec(config: TokenizeConfig, fingerprint: str, loudness_db: float | None) -> None:
    """Refuse tokens of another codec than the model after `--like` reads; warn when it has heard louder speech."""
    if not config.like:
        return
    like = read_likeness(config.like)
    if like.codec != fingerprint:
        raise UsageError(f"`{config.like}` goes with tokens of codec `{like.codec[:12]}`, but `{config.codec}` is "
                         f"codec `{fingerprint[:12]}`",
                         "give the codec that it was made with; or, to share the text tokenizer alone, "
                         f"--text-tokenizer {config.like} in place of --like")
    if like.loudness_db not in (None, loudness_db):
        ours = "left as it was" if loudness_db is None else f"at {loudness_db:g} dB"
        log.warning("`%s` was made from speech at %g dB RMS, this is %s (halle curate -O loudness_db=%g mends that)",
                    config.like, like.loudness_db, ours, like.loudness_db)


def given_tokenizer(config: TokenizeConfig) -> TextTokenizer | None:
    """Return the text tokenizer to reuse, None when one shall be learned."""
    if config.like and config.text_tokenizer:
        raise UsageError("expected one of --like and --text-tokenizer, got both",
                         "--like takes the text tokenizer too")
    source = config.like or config.text_tokenizer
    if not source:
        return None
    tokenizer = read_likeness(config.like).tokenizer if config.like else _tokenizer_of(config.text_tokenizer)
    if not config.like and tokenizer.vocab_size != config.text_vocab_size:
        raise UsageError(f"expected a text tokenizer of {config.text_vocab_size} entries, got {tokenizer.vocab_size} "
                         f"in `{source}`", f"set -O text_vocab_size={tokenizer.vocab_size}")
    if tokenizer.normalizer != NORMALIZER_VERSION:
        log.warning("the text tokenizer was learned on texts of normaliser %s, these are of %s",
                    tokenizer.normalizer, NORMALIZER_VERSION)
    return tokenizer


def _tokenizer_of(path: str) -> TextTokenizer:
    """Read a tokenizer's file, or that of a store, a language model or a model folder."""
    folder = Path(path)
    is_checkpoint = hub_name(path) or ("@" in folder.name and not folder.exists())
    if is_checkpoint or (folder.is_dir() and not (folder / TEXT_TOKENIZER_FILE).is_file()):
        return read_likeness(path).tokenizer
    return TextTokenizer.load(path)


def learned_tokenizer(config: TokenizeConfig, manifest: Manifest) -> TextTokenizer:
    """Learn a tokenizer from the texts of split `train` (of all, where it says nothing)."""
    texts = _usable_texts(manifest.split("train"))
    first = next(texts, None)
    texts = _usable_texts(manifest.utterances) if first is None else chain([first], texts)
    return TextTokenizer.train(texts, config.text_vocab_size, config.lowercase)


def _usable_texts(utterances: Utterances) -> Iterator[str]:
    return (item.text for item in Items(utterances) if item.rejection is None)
