"""Which memory allocator is in use is told, and how to have a faster one."""

import sys

import pytest

from stages.training import allocator


def test_a_loaded_allocator_is_named(monkeypatch, tmp_path):
    (tmp_path / "maps").write_text("7f00-7f01 r-xp 00000000 08:01 1  /usr/lib/x/libjemalloc.so.2\n", encoding="utf-8")
    monkeypatch.setattr(allocator, "LOADED", tmp_path / "maps")
    assert allocator.allocator_in_use() == allocator.describe_allocator() == "jemalloc"


@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
def test_one_that_is_installed_is_named_with_its_library_else_how_to_install_it(monkeypatch):
    monkeypatch.setattr(allocator, "allocator_in_use", lambda: None)
    there = {"tcmalloc_minimal": "libtcmalloc_minimal.so.4"}
    monkeypatch.setattr(allocator, "find_library", there.get)
    assert allocator.describe_allocator().endswith("LD_PRELOAD=libtcmalloc_minimal.so.4")
    there.clear()
    assert "apt install libjemalloc2" in allocator.describe_allocator()
