"""What the header of a safetensors file says: names, types and shapes, without reading a number."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from stages.errors import StorageError

_LONGEST_HEADER = 100 * 2**20  # bytes; the library's own limit


def tensor_shapes(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name -> (type, shape) of every tensor; raise `StorageError` when the header is damaged."""
    try:
        with file.open("rb") as content:
            (size,) = struct.unpack("<Q", content.read(8))
            if size > _LONGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(content.read(size))
        header.pop("__metadata__", None)
        return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise StorageError(f"`{file}` is damaged or not a safetensors file: {error}") from error


def describe_tensors(file: Path) -> dict:
    """Return how many tensors and numbers a file holds, and in which types."""
    shapes = tensor_shapes(file)
    kinds: dict[str, int] = {}
    for kind, shape in shapes.values():
        kinds[kind] = kinds.get(kind, 0) + math.prod(shape)
    return {"tensors": len(shapes), "numbers": sum(kinds.values()), "types": kinds}
