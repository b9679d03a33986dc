"""Small models that packages carry as ONNX files, run on one thread.

One thread makes results independent of the machine, and workers share processors: onnxruntime alone would take all.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Return those of the packages that are not installed; none is imported."""
    return [package for package in packages if find_spec(package) is None]


def package_file(package: str, name: str) -> Path:
    """Return where a file of an installed package lies, without running the package's own code."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / name


def open_session(file: Path) -> InferenceSession:
    """Load an ONNX model for the processor."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(file, options, providers=["CPUExecutionProvider"])
