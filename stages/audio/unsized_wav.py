"""WAV files whose header cannot say how long they are: written to a pipe, or beyond the 4 GB of its 32-bit sizes."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any


class UnsizedWav(io.RawIOBase):
    """Such a file, read as an RF64 file of its true length; nothing of it is copied.

    `description` is the content of its `fmt ` chunk, and its samples reach from byte `offset` to the file's end.
    """

    def __init__(self, path: Path, description: bytes, offset: int, size: int):
        super().__init__()
        length = size - offset
        block = struct.unpack("<H", description[12:14])[0] or 1  # bytes of a sample of all channels
        chunks = b"fmt " + struct.pack("<I", len(description)) + description + b"data\xff\xff\xff\xff"
        sizes = struct.pack("<IQQQI", 28, 4 + 36 + len(chunks) + length, length, length // block, 0)
        self._header = b"RF64\xff\xff\xff\xffWAVEds64" + sizes + chunks
        self._file, self._offset, self._at = path.open("rb"), offset, 0
        self._size = len(self._header) + length

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from where the last read or seek ended."""
        view = memoryview(buffer).cast("B")
        head = self._header[self._at : self._at + len(view)]
        view[: len(head)] = head
        self._file.seek(self._offset + max(self._at - len(self._header), 0))
        count = len(head) + self._file.readinto(view[len(head) :])
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte, counted from the beginning, from here or from the end."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the next byte to be read."""
        return self._at

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
