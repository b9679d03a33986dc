"""A journal that several processes fill ends as the file of one process, whoever was killed when."""

import pytest

from stages.artifacts.journal import Journal
from stages.artifacts.storage import read_journal
from stages.parallel import Share, in_turn

ITEMS = [{"id": f"item {number}", "value": number / 3} for number in range(11)]


def fill(path, world_size, items=ITEMS, ranks=None):
    for rank in range(world_size) if ranks is None else ranks:
        share = Share(rank, world_size)
        journal = Journal(path, share)
        for item in share.of(items):
            journal.add(item)
            journal.add({**item, "again": True})


@pytest.mark.parametrize("world_size", [2, 3, 20])
def test_the_joined_parts_are_the_bytes_that_one_process_writes(tmp_path, world_size):
    fill(tmp_path / "one.jsonl", 1)
    path = tmp_path / "many.jsonl"
    fill(path, world_size)
    assert not path.exists()
    assert Journal(path).rows() == read_journal(tmp_path / "one.jsonl")
    Journal(path).join()
    assert path.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert not list(tmp_path.glob("many.part-*"))
    Journal(path).join()
    assert path.read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_what_killed_processes_left_counts_for_any_number_of_new_ones(tmp_path):
    path = tmp_path / "items.jsonl"
    fill(path, 3, ranks=[2])
    (tmp_path / "items.part-1.jsonl").write_text('{"place": 1, "row": {"id": "to', encoding="utf-8")
    left = Journal(path).rows()
    assert {row["id"] for row in left} == {f"item {number}" for number in (2, 5, 8)}
    Journal(path).join()
    assert read_journal(path) == left
    fill(path, 2, [item for item in ITEMS if item["id"] not in {row["id"] for row in left}])
    Journal(path).join()
    assert sorted(row["id"] for row in read_journal(path)) == sorted(item["id"] for item in ITEMS * 2)


def test_joining_that_was_killed_before_the_parts_were_deleted_adds_nothing_twice(tmp_path):
    path = tmp_path / "items.jsonl"
    Journal(path).add({"id": "before"})
    fill(path, 2)
    parts = {part: part.read_bytes() for part in tmp_path.glob("items.part-*")}
    Journal(path).join()
    once = path.read_bytes()
    for part, content in parts.items():
        part.write_bytes(content)
    Journal(path).join()
    assert path.read_bytes() == once


def test_what_two_processes_found_alike_is_kept_once_and_the_last_word_on_something_stays_the_last(tmp_path):
    path = tmp_path / "heard.jsonl"
    for value in ("old", "new"):
        Journal(path).add({"sound": "a", "value": value})
    for rank in range(2):
        share = Share(rank, 2)
        share.place = rank
        Journal(path, share).add({"sound": "a", "value": "old"})
    Journal(path).join()
    assert read_journal(path) == [{"sound": "a", "value": "new"}, {"sound": "a", "value": "old"}]


def test_forgetting_removes_the_parts_too(tmp_path):
    fill(tmp_path / "items.jsonl", 2)
    Journal(tmp_path / "items.jsonl", Share()).add({"id": "x"})
    Journal(tmp_path / "items.jsonl").forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 12])
def test_shares_are_put_back_into_the_order_of_the_items(world_size):
    found = [item for rank in range(world_size) for item in Share(rank, world_size).of(ITEMS)]
    assert (found == ITEMS) == (world_size in (1, 12))
    assert in_turn(found, world_size) == ITEMS
