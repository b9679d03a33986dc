"""Token stores: write-read inverse, restartable shards, damage found."""

import numpy as np
import pytest

from stages.artifacts.token_store import StreamInfo, TokenStoreWriter, TokenUtterance, open_store
from stages.errors import StorageError, UsageError

STREAMS = [StreamInfo("quant1", "transmitted", 6, 8.0, 3000, 1024), StreamInfo("post1", "input", 1, 48.0, 500, 1024)]


def utterance(number: int, frames: int) -> TokenUtterance:
    random = np.random.default_rng(number)
    return TokenUtterance(
        id=f"u{number}", duration=frames / 8, num_samples=frames * 3000, speaker="s", text="t", split="train",
        text_tokens=random.integers(0, 258, 5 + number).astype(np.uint16),
        codes={"quant1": random.integers(0, 1024, (frames, 6)).astype(np.uint16),
               "post1": random.integers(0, 1024, (frames * 6, 1)).astype(np.uint16)},
    )


def write_store(folder, shards):
    writer = TokenStoreWriter(folder, STREAMS)
    for index, utterances in enumerate(shards):
        writer.write_shard(index, utterances)
    writer.finish(len(shards), {"codec_fingerprint": "c" * 64, "text_tokenizer_fingerprint": "t" * 64})
    return open_store(folder)


def test_what_is_written_is_read_across_shards(tmp_path):
    items = [utterance(n, frames) for n, frames in enumerate([3, 1, 7, 2])]
    store = write_store(tmp_path, [items[:2], [], items[2:]])
    assert len(store) == 4
    for index, item in enumerate(items):
        read = store[index]
        assert read.id == item.id and np.array_equal(read.text_tokens, item.text_tokens)
        for name in item.codes:
            assert np.array_equal(read.codes[name], item.codes[name])
    assert store.lengths("quant1").tolist() == [3, 1, 7, 2]
    assert store.lengths("text").tolist() == [5, 6, 7, 8]
    assert store.facts["totals"]["post1_frames"] == 13 * 6


def test_the_fingerprint_follows_the_tokens_and_not_the_place(tmp_path):
    items = [utterance(n, 4) for n in range(3)]
    first = write_store(tmp_path / "a", [items])
    same = write_store(tmp_path / "b", [items])
    other = write_store(tmp_path / "c", [items[::-1]])
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_a_finished_shard_is_known(tmp_path):
    writer = TokenStoreWriter(tmp_path, STREAMS)
    writer.write_shard(1, [utterance(0, 2)])
    assert writer.has_shard(1) and not writer.has_shard(0)


def test_an_unfinished_store_is_refused_with_the_command_that_makes_one(tmp_path):
    TokenStoreWriter(tmp_path / "begun", STREAMS).write_shard(0, [utterance(0, 2)])
    write_store(tmp_path / "unsealed", [[utterance(0, 2)]])
    (tmp_path / "unsealed" / "checksums.json").unlink()
    for name in ("begun", "unsealed"):
        with pytest.raises(UsageError, match="finished token store") as caught:
            open_store(tmp_path / name)
        assert "halle tokenize" in caught.value.hint


@pytest.mark.parametrize("name", ["quant1.npy", "offsets.npy", "utterances.jsonl"])
def test_one_flipped_bit_is_found_and_the_file_named(tmp_path, name):
    write_store(tmp_path, [[utterance(0, 20)]])
    file = tmp_path / "shard-00000" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(StorageError, match=name):
        open_store(tmp_path)


def test_codes_that_do_not_fit_are_refused(tmp_path):
    bad = utterance(0, 2)
    bad.codes["quant1"] = np.full((2, 6), 70_000)
    with pytest.raises(StorageError, match="quant1"):
        TokenStoreWriter(tmp_path, STREAMS).write_shard(0, [bad])
