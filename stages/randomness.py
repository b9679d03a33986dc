"""Seeds as pure functions of what they are for, so that resuming is a number and not a mechanism."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """Return a seed in 0..2^63 - 1 that depends on every part: `derive_seed(seed, "crop", step, index)`."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "little") >> 1
