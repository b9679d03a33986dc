"""Where the artifacts lie that every later version must read; tests/artifacts/make_kept.py says how they were made."""

import shutil
from pathlib import Path

KEPT = Path(__file__).parent / "artifacts" / "kept"
V1 = KEPT / "v1"


def kept_copy(name: str, folder: Path) -> Path:
    """Return a copy, to be damaged, of one artifact of format 1."""
    source, target = V1 / name, folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target))
