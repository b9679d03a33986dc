"""A damaged token store, its checksums made to fit: it reads as what it says, or a `HalleError` says what is wrong.

Without new checksums every change is found at once (another test); these are what a faulty writer would leave.
"""

import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import damaged, fuzz, hard_json, json_values, only_halle_errors
from hypothesis import given
from hypothesis import strategies as st

from stages.artifacts.storage import read_json, write_checksums
from stages.artifacts.token_store import TokenStore, TokenStoreWriter

JSON_FILES = ("store.json", "shard-00000/utterances.jsonl", "text_tokenizer.json")


def array_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


shapes = st.sampled_from([(), (0,), (1,), (3, 1), (0, 6), (6, 0), (4, 2), (1, 1, 1), (7, 3)])
kinds = st.sampled_from(["<u2", ">u2", "<i8", "<f4", "?", "O", "S3", "<c8", "<M8[s]"])
arrays = st.tuples(shapes, kinds).map(lambda pair: array_bytes(np.zeros(*pair)))
hard_arrays = st.sampled_from(
    [
        b"\x93NUMPY",
        b"PK\x03\x04",
        array_bytes(np.array([2**62, -5])),
        b"\x93NUMPY\x01\x00\xff\xff{'descr'",
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999, 9999), }\n",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"\x93NUMPY\x01\x00\x10\x00__import__('os')",
    ]
)


@pytest.fixture(scope="module")
def store(halle_tokens):
    return halle_tokens[0]


def read_all(store: TokenStore) -> None:
    """Read everything that a trainer reads, and hold it to what the store says of it."""
    widths = {stream.name: stream.num_codebooks for stream in store.streams}
    assert len(store.rows) == len(store)
    for name in ("text", *widths):
        assert len(store.lengths(name)) == len(store) and (store.lengths(name) >= 0).all()
    for index in range(len(store)):
        utterance = store[index]
        assert utterance.text_tokens.dtype == np.uint16 and utterance.text_tokens.ndim == 1
        for name, width in widths.items():
            assert utterance.codes[name].shape == (store.lengths(name)[index], width)
            assert utterance.codes[name].dtype == np.uint16
    assert isinstance(store.fingerprint, str) and isinstance(store.codec_fingerprint, str)


def check_with(store: Path, file: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "store"
        shutil.copytree(store, copy)
        (copy / file).write_bytes(content)
        for folder in (*copy.glob("shard-*"), copy):
            (folder / "checksums.json").unlink()
            write_checksums(folder)
        with only_halle_errors():
            opened = TokenStore(copy)
            read_all(opened)
            writer = TokenStoreWriter(Path(name) / "again", list(opened.streams))
            writer.write_shard(0, [opened[index] for index in range(len(opened))])
            writer.finish(1, {key: opened.facts[key] for key in ("codec_fingerprint", "text_tokenizer_fingerprint")})
            again = TokenStore(Path(name) / "again")
            assert all(_same(again[index], opened[index]) for index in range(len(opened)))


def _same(ours, theirs) -> bool:
    return (
        ours.id == theirs.id
        and np.array_equal(ours.text_tokens, theirs.text_tokens)
        and all(np.array_equal(codes, theirs.codes[name]) for name, codes in ours.codes.items())
    )


@fuzz
@given(st.data(), st.sampled_from(JSON_FILES))
def test_any_bytes_in_place_of_what_describes_a_store(store, data, file):
    there = (store / file).read_bytes()
    check_with(
        store,
        file,
        data.draw(
            st.one_of(
                damaged(there),
                hard_json,
                st.binary(max_size=40),
                json_values.map(lambda value: json.dumps(value).encode()),
            )
        ),
    )


@fuzz
@given(st.data())
def test_any_values_in_what_describes_a_store(store, data):
    facts = read_json(store / "store.json")
    key = data.draw(st.sampled_from(sorted(facts)))
    if key == "streams" and data.draw(st.booleans()):
        stream = data.draw(st.sampled_from(facts["streams"]))
        stream[data.draw(st.sampled_from(sorted(stream)))] = data.draw(json_values)
    else:
        facts[key] = data.draw(json_values)
    check_with(store, "store.json", json.dumps(facts).encode())


@fuzz
@given(st.data())
def test_any_values_in_the_rows_of_a_shard(store, data):
    text = (store / "shard-00000/utterances.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    row = data.draw(st.sampled_from(rows))
    row[data.draw(st.one_of(st.sampled_from(sorted(row)), st.text(max_size=4)))] = data.draw(json_values)
    check_with(store, "shard-00000/utterances.jsonl", "\n".join(map(json.dumps, rows)).encode())


@fuzz
@given(st.data())
def test_any_bytes_in_place_of_an_array(store, data):
    names = sorted(file.name for file in (store / "shard-00000").glob("*.npy"))
    file = "shard-00000/" + data.draw(st.sampled_from(names))
    there = (store / file).read_bytes()
    check_with(store, file, data.draw(st.one_of(damaged(there), arrays, hard_arrays, st.binary(max_size=40))))


@fuzz
@given(st.data())
def test_any_offsets(store, data):
    file = store / "shard-00000" / "offsets.npy"
    offsets = np.load(file)
    place = tuple(data.draw(st.integers(0, size - 1)) for size in offsets.shape)
    offsets[place] = data.draw(st.one_of(st.integers(-3, 300), st.sampled_from([2**62, -(2**62)])))
    check_with(store, "shard-00000/offsets.npy", array_bytes(offsets))
