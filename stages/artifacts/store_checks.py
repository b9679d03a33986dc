"""What must hold of a token store beyond its checksums: offsets, ranges, sums, and what its files say of each other."""

from __future__ import annotations

from collections import Counter
from math import lcm
from pathlib import Path

import numpy as np

from stages.artifacts.findings import Findings
from stages.artifacts.storage import CHECKSUMS, fingerprint_of, read_json, read_jsonl, verify_checksums
from stages.artifacts.token_store import STORE_FILE, StreamInfo
from stages.errors import StorageError

ROWS_AT_ONCE = 1 << 20  # rows of an array held in memory while it is searched
_NOT_FACTS = ("format_version", "streams", "num_shards", "totals", "fingerprint")  # of store.json
_ROW = {"id": str, "duration": (int, float), "num_samples": int, "speaker": str, "text": str, "split": str}


def check_store(folder: Path, findings: Findings, text_vocab_size: int | None) -> None:
    """Note every problem of a finished store. Text tokens must be below `text_vocab_size`, if that is known."""
    facts = read_json(folder / STORE_FILE)
    streams = [StreamInfo(**stream) for stream in facts["streams"]]
    totals = {"utterances": 0, "seconds": 0.0, "text_tokens": 0, **{f"{s.name}_frames": 0 for s in streams}}
    digests, ids = [], Counter()
    for index in range(facts["num_shards"]):
        shard = folder / f"shard-{index:05d}"
        with findings.noting():
            rows, offsets = _check_shard(shard, streams, text_vocab_size, findings)
            _add(totals, rows, offsets, streams)
            ids.update(row["id"] for row in rows)
        with findings.noting():
            digests.append(read_json(shard / CHECKSUMS)["files"])
    for name, number in ids.items():
        if number > 1:
            findings.damaged(f"`{folder}`: utterance `{name}` is there {number} times")
    _check_summary(folder, facts, totals, digests, findings)


def _check_summary(folder: Path, facts: dict, totals: dict, digests: list[dict], findings: Findings) -> None:
    """Compare what `store.json` says of the shards with what they are."""
    file = folder / STORE_FILE
    totals["seconds"] = round(totals["seconds"], 6)
    for name, found in totals.items():
        if facts["totals"].get(name) != found:
            findings.damaged(f"`{file}`: expected {found} {name} in `totals`, as in the shards, "
                             f"got {facts['totals'].get(name)}")
    said = {name: value for name, value in facts.items() if name not in _NOT_FACTS}
    if fingerprint_of([digests, said]) != facts["fingerprint"]:
        findings.damaged(f"`{file}`: its fingerprint is not that of the shards and facts")
    known = {f"shard-{index:05d}" for index in range(facts["num_shards"])}
    for shard in sorted(folder.glob("shard-*")):
        if shard.name not in known:
            findings.damaged(f"`{shard}` is none of the {len(known)} shards of this store")


def _check_shard(shard: Path, streams: list[StreamInfo], text_vocab_size: int | None, findings: Findings
                 ) -> tuple[list[dict], np.ndarray]:
    """Return the rows and offsets of a shard once its problems are noted; raise when they cannot be read."""
    with findings.noting():
        verify_checksums(shard)
    rows = read_jsonl(shard / "utterances.jsonl")
    _check_rows(shard, rows, findings)
    offsets = _load(shard / "offsets.npy")
    limits = [("text", 1, text_vocab_size), *((s.name, s.num_codebooks, s.codebook_size) for s in streams)]
    shape = (len(rows) + 1, len(limits))
    if offsets.shape != shape or offsets.dtype != np.int64:
        raise StorageError(f"`{shard / 'offsets.npy'}`: expected int64 {shape}, got {offsets.dtype} {offsets.shape}")
    for column, (name, width, limit) in enumerate(limits):
        with findings.noting():
            array = _load(shard / f"{name}.npy")
            _check_offsets(shard, name, offsets[:, column], len(array), rows, findings)
            _check_codes(shard, name, array, width, limit, findings)
    _check_lengths(shard, rows, offsets, streams, findings)
    findings.count("utterances", len(rows))
    findings.count("shards")
    return rows, offsets


def _load(file: Path) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds, of pickles, zip files, short files and missing ones
        raise StorageError(f"`{file}` is not an array: {' '.join(str(error).split())}") from error
    if not isinstance(array, np.ndarray):
        raise StorageError(f"`{file}` is not an array but an archive of some")
    return array


def _check_rows(shard: Path, rows: list[dict], findings: Findings) -> None:
    for number, row in enumerate(rows, start=1):
        bad = [name for name, kind in _ROW.items() if not isinstance(row.get(name), kind)]
        if bad:
            findings.damaged(f"`{shard / 'utterances.jsonl'}`: row {number} lacks or mistypes {', '.join(bad)}")


def _check_offsets(shard: Path, name: str, offsets: np.ndarray, size: int, rows: list[dict],
                   findings: Findings) -> None:
    """Offsets begin with 0, never fall, and end where the array does."""
    where = f"`{shard / 'offsets.npy'}`, column `{name}`"
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if len(falls):
        first = int(falls[0])
        more = f", and {len(falls) - 1} more" if len(falls) > 1 else ""
        findings.damaged(f"{where}: expected offsets that rise, got {offsets[first]} and then {offsets[first + 1]} at "
                         f"utterance `{rows[first]['id']}`{more}")
    if offsets[0] != 0 or offsets[-1] != size:
        findings.damaged(f"{where}: expected 0 to {size}, the rows of `{name}.npy`, got {offsets[0]} to {offsets[-1]}")


def _check_codes(shard: Path, name: str, array: np.ndarray, width: int, limit: int | None,
                 findings: Findings) -> None:
    """Codes are uint16 [frames, codebooks] below the codebook's size."""
    file = shard / f"{name}.npy"
    if array.dtype != np.uint16 or array.ndim != 2 or array.shape[1] != width:
        findings.damaged(f"`{file}`: expected uint16 [frames, {width}], got {array.dtype} {list(array.shape)}")
        return
    findings.count("codes", array.size)
    if limit is None:
        return
    beyond, first, largest = 0, -1, 0
    for start in range(0, len(array), ROWS_AT_ONCE):
        part = array[start : start + ROWS_AT_ONCE]
        bad = np.flatnonzero((part >= limit).any(axis=1))
        if len(bad):
            first = first if first >= 0 else start + int(bad[0])
            beyond, largest = beyond + len(bad), max(largest, int(part.max()))
    if beyond:
        findings.damaged(f"`{file}`: expected codes below {limit}, got {largest} at most, in {beyond} rows, the first "
                         f"of which is {first}")


def _check_lengths(shard: Path, rows: list[dict], offsets: np.ndarray, streams: list[StreamInfo],
                   findings: Findings) -> None:
    """All streams of an utterance last as long as its samples, padded to where the streams line up."""
    alignment = lcm(*(stream.hop_length for stream in streams))
    samples = np.array([row["num_samples"] for row in rows], dtype=np.int64)
    expected = -(-samples // alignment) * alignment
    for column, stream in enumerate(streams, start=1):
        found = np.diff(offsets[:, column]) * stream.hop_length
        wrong = np.flatnonzero(found != expected)
        if len(wrong):
            row = int(wrong[0])
            findings.damaged(f"`{shard}`: utterance `{rows[row]['id']}` has {samples[row]} samples, so expected "
                             f"{expected[row] // stream.hop_length} frames of `{stream.name}`, got "
                             f"{found[row] // stream.hop_length}"
                             + (f"; likewise {len(wrong) - 1} more" if len(wrong) > 1 else ""))


def _add(totals: dict, rows: list[dict], offsets: np.ndarray, streams: list[StreamInfo]) -> None:
    totals["utterances"] += len(rows)
    totals["seconds"] += sum(row["duration"] for row in rows)
    totals["text_tokens"] += int(offsets[-1, 0])
    for column, stream in enumerate(streams, start=1):
        totals[f"{stream.name}_frames"] += int(offsets[-1, column])
