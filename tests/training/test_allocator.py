"""Which memory allocator is in use is told, and how to have a faster one."""

import sys

import pytest

from stages.training import allocator


def test_a_preloaded_allocator_is_named(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libsomething.so:/usr/lib/x/libjemalloc.so.2")
    assert allocator.allocator_in_use() == allocator.describe_allocator() == "jemalloc"


@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
def test_one_that_is_installed_is_named_with_its_library_else_how_to_install_it(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    there = {"tcmalloc_minimal": "libtcmalloc_minimal.so.4"}
    monkeypatch.setattr(allocator, "find_library", there.get)
    assert allocator.allocator_in_use() is None
    assert allocator.describe_allocator().endswith("LD_PRELOAD=libtcmalloc_minimal.so.4")
    there.clear()
    assert "apt install libjemalloc2" in allocator.describe_allocator()
