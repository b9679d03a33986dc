"""The borders between folders hold, and the checker that says so would notice a breach."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Interpreter, entry point of import-linter
LINT = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command; "
        "sys.exit(lint_imports_command())", "--no-cache"]


def _lint(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(LINT, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def copy_of_the_source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name in ("halle_cli", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_imports_go_downward_only():
    result = _lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert "5 kept, 0 broken" in result.stdout


@pytest.mark.parametrize("module, planted, contract", [
    ("stages/codec/losses.py", "import stages.lm.ar", "Imports go downward only"),
    ("stages/synth.py", "import stages.curate", "Imports go downward only"),
    ("stages/config/models.py", "import torch", "Settings and errors import no numerical library"),
    ("stages/training/optim.py", "import stages.codec.base", "Training knows no model and no dataset"),
    ("stages/lm/nar.py", "import stages.codec.mrvq", "Language models see codecs through their interface only"),
    ("stages/curate.py", "import rich", "Stages never see the command line"),
])
def test_a_planted_violation_is_caught(copy_of_the_source, module, planted, contract):
    file = copy_of_the_source / module
    original = file.read_text(encoding="utf-8")
    file.write_text(original + f"\n{planted}\n", encoding="utf-8")
    try:
        result = _lint(copy_of_the_source)
    finally:
        file.write_text(original, encoding="utf-8")
    assert result.returncode != 0
    assert f"{contract} BROKEN" in result.stdout


def test_modules_and_functions_keep_their_size():
    too_long = []
    for file in [*(ROOT / "stages").rglob("*.py"), *(ROOT / "halle_cli").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            too_long.append(f"{file.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 80:
                too_long.append(f"{file.name}: {node.name}")
    assert too_long == []
