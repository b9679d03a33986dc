"""One writer an output folder; the dead hold nothing."""

import json
import socket

import psutil
import pytest

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
