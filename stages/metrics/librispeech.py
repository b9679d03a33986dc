"""LibriSpeech test-clean as it lies on this disk, held against what is known of it.

`sets/librispeech-test-clean.tsv` has the samples and a hash of the text of every utterance, not the audio: what is
built from a corpus that agrees with it is the same everywhere, as far as counts and texts can tell.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from stages.artifacts.storage import decode_utf8
from stages.errors import UsageError
from stages.progress import Progress

SAMPLE_RATE = 16_000
TABLE = Path(__file__).parent / "sets" / "librispeech-test-clean.tsv"
SHA256 = "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"  # of test-clean.tar.gz
URL = "https://www.openslr.org/resources/12/test-clean.tar.gz"

_HASH_DIGITS = 16  # of a sha256: 64 bits tell 2620 texts and their misprints apart
_FLAC_MD5 = slice(26, 42)  # a FLAC file carries the MD5 of its samples, as little-endian integers; zeros: not known
_HUB_DATASET = "openslr/librispeech_asr"


@dataclass(frozen=True)
class Known:
    """What is known of an utterance without its audio."""

    samples: int
    text_hash: str


@dataclass(frozen=True)
class Corpus:
    """Utterances found on this disk: their texts, and `load`, which returns the FLAC file of one."""

    where: str
    texts: Mapping[str, str]
    load: Callable[[str], bytes]


def read_table(path: Path = TABLE) -> dict[str, Known]:
    """Return what is known of every utterance, chapters and utterances in order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["id"]: Known(int(row["samples"]), row["text_sha256"]) for row in rows}


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:_HASH_DIGITS]


def places(root: Path) -> tuple[Path, ...]:
    """Return where the corpus is looked for below the data root: two places of the tree, two of a dataset."""
    return (root / "LibriSpeech" / "test-clean", root / "test-clean", root / "librispeech_asr", root / _HUB_DATASET)


def find_corpus(root: Path) -> Corpus | None:
    """Return the corpus below the data root, else what the Hugging Face hub left in its cache, else None."""
    *trees, plain, owned = places(root)
    for tree in trees:
        if tree.is_dir():
            return read_tree(tree)
    cached = _hub_cache()
    for folder in (plain, owned, *([cached] if cached else [])):
        if folder.is_dir() and (tables := list(_tables(folder))):
            return read_tables(str(folder), tables)
    return None


def read_tree(folder: Path) -> Corpus:
    """List a tree SPEAKER/CHAPTER/*.trans.txt with lines `id TEXT` and *.flac beside them."""
    texts, files = {}, {}
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for line in filter(None, decode_utf8(transcript.read_bytes(), transcript).splitlines()):
            utterance, _, text = line.strip().partition(" ")
            texts[utterance] = text
            files[utterance] = transcript.parent / f"{utterance}.flac"
    return Corpus(str(folder), texts, lambda utterance: files[utterance].read_bytes())


def read_tables(where: str, tables: list[Any]) -> Corpus:
    """List rows `id text audio` of tables of the `datasets` library. Their audio is not decoded, which needs more."""
    texts: dict[str, str] = {}
    rows: dict[str, tuple[Any, int]] = {}
    for table in tables:
        for index, (utterance, text) in enumerate(zip(table["id"], table["text"], strict=True)):
            texts[utterance] = text
            rows[utterance] = (table, index)

    def load(utterance: str) -> bytes:
        table, index = rows[utterance]
        audio = table[index]["audio"]
        return audio["bytes"] if audio["bytes"] is not None else Path(audio["path"]).read_bytes()

    return Corpus(where, texts, load)


def _tables(folder: Path) -> Iterator[Any]:
    """Yield the tables of test-clean in a dataset saved to disk or in parquet files (`clean/test/0000.parquet`)."""
    import datasets

    undecoded = datasets.Audio(decode=False)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        saved = datasets.load_from_disk(str(folder))
        named = saved.items() if isinstance(saved, dict) else [("test", saved)]
        yield from (table.cast_column("audio", undecoded) for name, table in named if _is_test_clean(name))
    files = [file for file in sorted(folder.rglob("*.parquet")) if _is_test_clean(file.relative_to(folder).as_posix())]
    for file in files:
        yield datasets.Dataset.from_parquet(str(file)).cast_column("audio", undecoded)


def _is_test_clean(name: str) -> bool:
    return "test" in name and "other" not in name


def _hub_cache() -> Path | None:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(_HUB_DATASET, repo_type="dataset", local_files_only=True))
    except (OSError, ValueError):  # nothing of it was ever fetched
        return None


def check_corpus(corpus: Corpus, known: Mapping[str, Known]) -> None:
    """Read every utterance; raise `UsageError` that names those which differ from what is known, and how."""
    progress = Progress("check LibriSpeech test-clean", len(known))
    problems = [f"`{utterance}` is not part of it" for utterance in corpus.texts if utterance not in known]
    for utterance, expected in known.items():
        problem = _difference(corpus, utterance, expected)
        problems += [f"`{utterance}`: {problem}"] if problem else []
        progress.advance(note=utterance)
    progress.close()
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UsageError(f"`{corpus.where}` is not LibriSpeech test-clean as it was published: "
                         + "; ".join(problems[:5]) + more, hint=f"unpack {URL} again (its sha256 is {SHA256})")


def _difference(corpus: Corpus, utterance: str, expected: Known) -> str:
    if utterance not in corpus.texts:
        return "it has no transcript"
    if text_hash(corpus.texts[utterance]) != expected.text_hash:
        return f"another text, which begins `{corpus.texts[utterance][:40]}`"
    try:
        samples = load_samples(corpus, utterance)
    except UsageError as error:
        return error.message
    return "" if len(samples) == expected.samples else f"expected {expected.samples} samples, got {len(samples)}"


def load_samples(corpus: Corpus, utterance: str) -> np.ndarray:
    """Return the 16-bit samples [samples] of an utterance exactly as they were recorded."""
    try:
        data = corpus.load(utterance)
        samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="int16")
    except (OSError, soundfile.LibsndfileError) as error:
        raise UsageError(f"its audio cannot be read ({str(error) or type(error).__name__})") from error
    if sample_rate != SAMPLE_RATE or samples.ndim != 1:
        raise UsageError(f"expected mono audio of {SAMPLE_RATE} Hz, got {sample_rate} Hz")
    own = data[_FLAC_MD5] if data[:4] == b"fLaC" else b""
    if any(own) and hashlib.md5(samples.astype("<i2").tobytes(), usedforsecurity=False).digest() != own:
        raise UsageError("its audio is damaged: the samples are not those that the file was made of")
    return samples
