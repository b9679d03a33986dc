"""Codes and text tokens of a corpus, memory-mapped, in shards that are made and verified one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.artifacts.storage import (
    FORMAT_VERSION,
    fingerprint_of,
    is_complete,
    read_json,
    read_jsonl,
    staged_folder,
    verify_checksums,
    write_checksums,
    write_json,
    write_jsonl,
)
from stages.errors import StorageError, UsageError

STORE_FILE = "store.json"
TEXT_TOKENIZER_FILE = "text_tokenizer.json"
REJECTED_FILE = "rejected.jsonl"


@dataclass(frozen=True)
class StreamInfo:
    """A stream as the store records it (see `stages.codec.base.StreamSpec`)."""

    name: str
    role: str
    num_codebooks: int
    frame_rate: float
    hop_length: int
    codebook_size: int


@dataclass(frozen=True)
class TokenUtterance:
    """Tokens of one utterance: `text_tokens` [tokens] and `codes[stream]` [frames, codebooks], both uint16."""

    id: str
    duration: float
    num_samples: int
    speaker: str
    text: str
    split: str
    text_tokens: np.ndarray
    codes: dict[str, np.ndarray]


class TokenStoreWriter:
    """Write shards in any order, then `finish`. A shard that exists is never written again."""

    def __init__(self, folder: str | Path, streams: list[StreamInfo]):
        self.folder = Path(folder)
        self.streams = streams

    def has_shard(self, index: int) -> bool:
        return is_complete(self._shard(index))

    def write_shard(self, index: int, utterances: list[TokenUtterance], rejected: Sequence[dict] = ()) -> None:
        """Write one shard in a single rename; `utterances` may be empty, `rejected` says what was left out of it."""
        columns = ["text", *(stream.name for stream in self.streams)]
        arrays = {name: [] for name in columns}
        for utterance in utterances:
            arrays["text"].append(as_uint16(utterance.text_tokens, "text")[:, None])
            for stream in self.streams:
                arrays[stream.name].append(as_uint16(utterance.codes[stream.name], stream.name))
        offsets = np.zeros((len(utterances) + 1, len(columns)), dtype=np.int64)
        for column, name in enumerate(columns):
            offsets[1:, column] = np.cumsum([len(array) for array in arrays[name]], dtype=np.int64)
        with staged_folder(self._shard(index)) as temporary:
            for name, width in self._widths():
                rows = arrays[name] or [np.zeros((0, width), np.uint16)]
                np.save(temporary / f"{name}.npy", np.concatenate(rows))
            np.save(temporary / "offsets.npy", offsets)
            write_jsonl(temporary / "utterances.jsonl", [_facts(utterance) for utterance in utterances])
            if rejected:
                write_jsonl(temporary / REJECTED_FILE, list(rejected))

    def rejected(self, num_shards: int) -> list[dict]:
        """Return what was left out of the first `num_shards` shards, in order."""
        files = (self._shard(index) / REJECTED_FILE for index in range(num_shards))
        return [row for file in files if file.is_file() for row in read_jsonl(file)]

    def rows(self, num_shards: int) -> Iterator[dict]:
        """Yield the facts of every utterance written so far, in order."""
        for index in range(num_shards):
            yield from read_jsonl(self._shard(index) / "utterances.jsonl")

    def finish(self, num_shards: int, facts: dict, exclude: tuple[str, ...] = ()) -> None:
        """Write `store.json` (streams, totals, fingerprints and what else `facts` says) and the checksums.

        `exclude` names files that may change later, such as the log.
        """
        totals = {"utterances": 0, "seconds": 0.0, "text_tokens": 0, **{f"{s.name}_frames": 0 for s in self.streams}}
        digests = []
        for index in range(num_shards):
            shard = self._shard(index)
            last = np.load(shard / "offsets.npy")[-1]
            totals["text_tokens"] += int(last[0])
            for column, stream in enumerate(self.streams, start=1):
                totals[f"{stream.name}_frames"] += int(last[column])
            rows = read_jsonl(shard / "utterances.jsonl")
            totals["utterances"] += len(rows)
            totals["seconds"] += sum(row["duration"] for row in rows)
            digests.append(read_json(shard / "checksums.json")["files"])
        totals["seconds"] = round(totals["seconds"], 6)
        write_json(self.folder / STORE_FILE, {
            "format_version": FORMAT_VERSION,
            "streams": [asdict(stream) for stream in self.streams],
            "num_shards": num_shards,
            "totals": totals,
            "fingerprint": fingerprint_of([digests, facts]),
            **facts,
        })
        write_checksums(self.folder, exclude)

    def _shard(self, index: int) -> Path:
        return self.folder / f"shard-{index:05d}"

    def _widths(self) -> list[tuple[str, int]]:
        return [("text", 1), *((stream.name, stream.num_codebooks) for stream in self.streams)]


def _facts(utterance: TokenUtterance) -> dict:
    return {"id": utterance.id, "duration": utterance.duration, "num_samples": utterance.num_samples,
            "speaker": utterance.speaker, "text": utterance.text, "split": utterance.split}


def as_uint16(array: np.ndarray, name: str) -> np.ndarray:
    """Return the tokens of a stream as they are stored. Raises `StorageError` for those that are no 16 bits."""
    array = np.asarray(array)
    if array.size and (array.min() < 0 or array.max() > np.iinfo(np.uint16).max):
        raise StorageError(f"stream `{name}` holds tokens outside 0..65535: {array.min()}..{array.max()}")
    return array.astype(np.uint16)


class TokenStore:
    """Read access: `store[i]`, `len(store)`, `lengths(name)`. Shards are verified when the store is opened."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / STORE_FILE).is_file() or not is_complete(self.path):
            raise UsageError(f"expected a finished token store (with `{STORE_FILE}`), got `{self.path}`",
                             f"make one with: halle tokenize --codec CODEC --data DIR --out {self.path}")
        verify_checksums(self.path)
        self.facts = _read_facts(self.path / STORE_FILE)
        self.streams = tuple(StreamInfo(**stream) for stream in self.facts["streams"])
        self._shards = [_Shard(self.path / f"shard-{i:05d}", self.streams) for i in range(self.facts["num_shards"])]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])

    @property
    def fingerprint(self) -> str:
        return self.facts["fingerprint"]

    @property
    def codec_fingerprint(self) -> str:
        return self.facts["codec_fingerprint"]

    @property
    def text_tokenizer_fingerprint(self) -> str:
        return self.facts["text_tokenizer_fingerprint"]

    @property
    def text_tokenizer_path(self) -> Path:
        return self.path / TEXT_TOKENIZER_FILE

    def stream(self, name: str) -> StreamInfo | None:
        """Return the stream called `name`, or None when this store has none."""
        return next((stream for stream in self.streams if stream.name == name), None)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> TokenUtterance:
        return self.utterance(index)

    def utterance(self, index: int) -> TokenUtterance:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._shards[shard].utterance(index - int(self._starts[shard]))

    @cached_property
    def rows(self) -> list[dict]:
        """Facts of every utterance (id, duration, num_samples, speaker, text, split), in order."""
        return [row for shard in self._shards for row in shard.rows]

    def lengths(self, name: str) -> np.ndarray:
        """Return the number of tokens (`text`) or frames (a stream's name) of every utterance, int64."""
        return np.concatenate([shard.lengths(name) for shard in self._shards])


_FACTS = {"num_shards": int, "fingerprint": str, "codec_fingerprint": str, "text_tokenizer_fingerprint": str}
_STREAM = {"name": str, "role": str, "num_codebooks": int, "frame_rate": float, "hop_length": int, "codebook_size": int}
_ROW = {"id": str, "duration": float, "num_samples": int, "speaker": str, "text": str, "split": str}


def _read_facts(file: Path) -> dict:
    facts = read_json(file)
    problems = _wrong_fields(facts, _FACTS)
    streams = facts.get("streams")
    if not isinstance(streams, list) or not streams:
        problems.append("`streams` should be a list")
        streams = []
    problems += [f"stream {number}: {problem}" for number, stream in enumerate(streams, 1)
                 for problem in _wrong_fields(stream, _STREAM, exactly=True) or _wrong_stream(stream)]
    if problems:
        raise StorageError(f"`{file}`: {'; '.join(problems[:5])}", "run halle tokenize again")
    names = ["text", "offsets", *(stream["name"] for stream in streams)]
    if len(set(names)) < len(names):
        raise StorageError(f"`{file}`: two streams have one name, or that of another file", "run halle tokenize again")
    return facts


def _wrong_stream(stream: dict) -> list[str]:
    """Say what cannot be of a stream whose fields have the right kinds."""
    problems = [f"`{name}` should be at least 1, got `{stream[name]}`" for name, kind in _STREAM.items()
                if kind is int and stream[name] < 1]
    if stream["frame_rate"] <= 0:
        problems.append(f"`frame_rate` should be above 0, got `{stream['frame_rate']}`")
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", stream["name"]):
        problems.append(f"`name` should be a word, got `{stream['name']}`")
    return problems


def _read_rows(file: Path) -> list[dict]:
    rows = read_jsonl(file)
    problems = [f"row {number}: {problem}" for number, row in enumerate(rows, 1)
                for problem in _wrong_fields(row, _ROW)]
    if problems:
        raise StorageError(f"`{file}`: {'; '.join(problems[:5])}", "run halle tokenize again")
    return rows


def _wrong_fields(value: object, kinds: dict[str, type], exactly: bool = False) -> list[str]:
    """Say which fields are missing or of another kind; `exactly` wants no others."""
    if not isinstance(value, dict):
        return [f"expected an object, got `{value}`"]
    problems = [f"`{name}` should be {_KINDS[kind]}, got `{value.get(name)}`" for name, kind in kinds.items()
                if not _is_kind(value.get(name), kind)]
    return problems + [f"`{name}` is not known" for name in value if exactly and name not in kinds]


_KINDS = {int: "a whole number of 0 or more", float: "a number of 0 or more", str: "text"}


def _is_kind(value: object, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    kinds = int if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < 2**53


class _Shard:
    def __init__(self, path: Path, streams: tuple[StreamInfo, ...]):
        self.rows = _read_rows(path / "utterances.jsonl")
        self._columns = ["text", *(stream.name for stream in streams)]
        self._path, self._sizes = path, {stream.name: stream.codebook_size for stream in streams}
        self._offsets = _load_array(path / "offsets.npy")
        self._arrays = {name: _load_array(path / f"{name}.npy", mmap_mode="r") for name in self._columns}
        self._check(path, streams)

    def _check(self, path: Path, streams: tuple[StreamInfo, ...]) -> None:
        expected = (len(self.rows) + 1, len(self._columns))
        offsets = self._offsets
        if offsets.shape != expected or offsets.dtype != np.int64:
            raise StorageError(f"`{path / 'offsets.npy'}`: expected offsets int64 {expected}, got {offsets.dtype} "
                               f"{offsets.shape}", "run halle tokenize again")
        if offsets[0].any() or (falls := np.argwhere(np.diff(offsets, axis=0) < 0)).size:
            row = int(falls[0, 0]) + 1 if not offsets[0].any() else 0
            raise StorageError(f"`{path / 'offsets.npy'}`: expected offsets that begin at 0 and never fall, got "
                               f"{offsets[row].tolist()} in row {row}", "run halle tokenize again")
        widths = {"text": 1, **{stream.name: stream.num_codebooks for stream in streams}}
        for column, name in enumerate(self._columns):
            shape = (int(self._offsets[-1, column]), widths[name])
            array = self._arrays[name]
            if array.shape != shape or array.dtype != np.uint16:
                raise StorageError(f"`{path / name}.npy`: expected uint16 {shape}, got {array.dtype} {array.shape}",
                                   "run halle tokenize again")

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self, name: str) -> np.ndarray:
        return np.diff(self._offsets[:, self._columns.index(name)])

    def utterance(self, index: int) -> TokenUtterance:
        start, stop = self._offsets[index], self._offsets[index + 1]
        codes = {name: np.array(self._arrays[name][start[column]:stop[column]])
                 for column, name in enumerate(self._columns)}
        text_tokens = codes.pop("text")[:, 0]
        for name, array in codes.items():
            if array.size and array.max() >= self._sizes[name]:
                raise StorageError(f"`{self._path / name}.npy`: expected codes below {self._sizes[name]}, got "
                                   f"{array.max()} in utterance `{self.rows[index]['id']}`", "run halle tokenize again")
        facts = {name: self.rows[index][name] for name in _ROW}
        return TokenUtterance(**facts, text_tokens=text_tokens, codes=codes)


def _load_array(path: Path, mmap_mode: str | None = None) -> np.ndarray:
    """Load a plain array; whatever else lies there is refused, without running what it may hold."""
    try:
        found = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except Exception as error:  # numpy reads the header as Python's source, or a zip: each has errors of its own
        reason = " ".join(str(error).split())
        raise StorageError(f"`{path}` is no array of numbers: {reason}", "run halle tokenize again") from error
    if not isinstance(found, np.ndarray):  # an archive of several
        raise StorageError(f"expected one array in `{path}`, got an archive", "run halle tokenize again")
    return found


def open_store(path: str | Path) -> TokenStore:
    """Open a finished token store, verifying its files."""
    return TokenStore(path)
