"""Reading tables: what is wrong with the machine is not told as a mistake in the file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from stages.errors import StorageError, UsageError
from stages.text.tables import read_text


@pytest.mark.parametrize(("number", "kind", "code"), [
    (errno.EMFILE, StorageError, 4), (errno.EIO, StorageError, 4), (errno.ENOENT, UsageError, 2)])
def test_what_the_machine_cannot_do_is_no_wrong_file(tmp_path, monkeypatch, number, kind, code):
    def fail(path):
        raise OSError(number, "cannot", str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(kind, match="could not read") as caught:
        read_text(tmp_path / "manifest.jsonl")
    assert caught.value.exit_code == code
