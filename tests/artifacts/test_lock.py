"""One writer an output folder; the dead hold nothing."""

import errno
import json
import os
import socket

import psutil
import pytest

from stages.artifacts import lock
from stages.artifacts.lock import LOCK, lock_output
from stages.errors import LockedError


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    with lock_output(tmp_path):
        with pytest.raises(LockedError) as caught, lock_output(tmp_path):
            pass
        assert str(psutil.Process().pid) in caught.value.message and caught.value.exit_code == 6
    assert not (tmp_path / LOCK).exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    owner = {"pid": 2**22 + 12345, "started": 0.0, "host": socket.gethostname()}
    (tmp_path / LOCK).write_text(json.dumps(owner), encoding="utf-8")
    with lock_output(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["pid"] == psutil.Process().pid


def test_a_reused_process_number_is_not_mistaken_for_the_owner(tmp_path):
    parent = psutil.Process().parent()
    owner = {"pid": parent.pid, "started": parent.create_time() - 1000, "host": socket.gethostname()}
    (tmp_path / LOCK).write_text(json.dumps(owner), encoding="utf-8")
    with lock_output(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["pid"] == psutil.Process().pid


def test_the_lock_of_another_machine_is_respected(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"pid": 1, "started": 0.0, "host": "elsewhere"}), encoding="utf-8")
    with pytest.raises(LockedError, match="elsewhere"), lock_output(tmp_path):
        pass


def test_a_lock_of_ones_own_number_from_before_a_restart_is_taken_over(tmp_path):
    """In a container every process may be number 1."""
    me = psutil.Process()
    owner = {"pid": me.pid, "started": me.create_time() - 1000, "host": socket.gethostname()}
    (tmp_path / LOCK).write_text(json.dumps(owner), encoding="utf-8")
    with lock_output(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["started"] == me.create_time()


def test_of_two_that_find_the_same_dead_lock_one_takes_it_over(tmp_path, monkeypatch):
    stale = json.dumps({"pid": 2**22 + 12345, "started": 0.0, "host": socket.gethostname()})
    path = tmp_path / LOCK
    path.write_text(stale, encoding="utf-8")
    living = json.dumps({"pid": 1, "started": psutil.Process(1).create_time(), "host": socket.gethostname()})
    is_running = lock._is_running

    def be_late(owner):
        if owner["pid"] != 1:
            path.write_text(living, encoding="utf-8")  # the other one is faster
        return is_running(owner)

    monkeypatch.setattr(lock, "_is_running", be_late)
    with pytest.raises(LockedError, match="process 1 "), lock_output(tmp_path):
        pass
    assert path.read_text(encoding="utf-8") == living and [item.name for item in tmp_path.iterdir()] == [LOCK]


def test_a_lock_is_made_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with lock_output(tmp_path), pytest.raises(LockedError), lock_output(tmp_path):
        pass
    (tmp_path / LOCK).write_text('{"pid": 12', encoding="utf-8")  # a kill may tear it there
    with lock_output(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["pid"] == os.getpid()
