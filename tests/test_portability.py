"""The code keeps to what Linux, macOS and Windows share, by reading it; and no file is replaced that is mapped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kept_artifacts import V1, kept_copy

from stages import pack
from stages.artifacts.manifest import read_manifest, write_manifest
from stages.artifacts.storage import read_jsonl, staged_folder, write_bytes
from stages.artifacts.token_store import open_store

ROOT = Path(__file__).parent.parent
SHIPPED = [*(ROOT / "stages").rglob("*.py"), *(ROOT / "halle_cli").rglob("*.py")]
OURS = [*SHIPPED, *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
# what differs between systems, and the one module of the package that may use it
ONLY_IN = {"signal": "stages/signals.py", "fcntl": None, "os.fork": None, "msvcrt": None, "pwd": None, "resource": None}
_READS_TEXT = {"open": 1, "read_text": 0, "write_text": 1, "NamedTemporaryFile": 1, "TemporaryFile": 1}  # place of mode


def uses(tree: ast.AST) -> set[str]:
    """Return the modules that code imports, and the functions of `os` that it calls."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            found.add(f"os.{node.attr}")
    return found


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that read or write text in whatever encoding a machine prefers."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function, keywords = node.func, {keyword.arg: keyword.value for keyword in node.keywords}
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = getattr(function.value, "id", "") if isinstance(function, ast.Attribute) else ""
        if "encoding" in keywords or None in keywords:
            continue
        if owner == "subprocess" and (is_true(keywords.get("text")) or is_true(keywords.get("universal_newlines"))):
            yield node.lineno
        elif name in ("read_text", "write_text") and isinstance(function, ast.Attribute) and owner != "source":
            if len(node.args) <= _READS_TEXT[name]:
                yield node.lineno
        elif name == "open" and owner not in ("os", "av", "wave", "tarfile", "zipfile", "webbrowser"):
            places = node.args[1:] if isinstance(function, ast.Name) else node.args
            mode = keywords.get("mode", places[0] if places else ast.Constant("r"))
            if isinstance(mode, ast.Constant) and isinstance(mode.value, str) and re.fullmatch("[rwax+t]+", mode.value):
                yield node.lineno


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def parsed(file: Path) -> ast.AST:
    return ast.parse(file.read_text(encoding="utf-8"))


def test_what_differs_between_systems_is_in_one_module_each():
    found = [f"{file.relative_to(ROOT).as_posix()} uses {name}" for file in SHIPPED for name in uses(parsed(file))
             if name in ONLY_IN and file.relative_to(ROOT).as_posix() != ONLY_IN[name]]
    assert found == []


@pytest.mark.parametrize("code, expected", [
    ("import signal", {"signal"}), ("from signal import SIGINT", {"signal", "signal.SIGINT"}),
    ("import os\nos.fork()", {"os", "os.fork"}), ("import fcntl", {"fcntl"}),
])  # fmt: skip
def test_the_search_would_find_it(code, expected):
    assert uses(ast.parse(code)) == expected


def test_every_text_names_its_encoding():
    found = [f"{file.relative_to(ROOT).as_posix()}:{line}" for file in OURS for line in without_encoding(parsed(file))]
    assert found == []


@pytest.mark.parametrize("code, missing", [
    ("path.open()", True), ("path.open('w')", True), ("open(p, mode='a')", True), ("p.read_text()", True),
    ("p.write_text('x')", True), ("subprocess.run(c, text=True)", True), ("p.open('rb')", False),
    ("p.open('w', encoding='utf-8')", False), ("p.read_text('utf-8')", False), ("os.open(p, 1)", False),
    ("p.write_text('x', 'utf-8')", False), ("subprocess.run(c)", False), ("write_text(p, 'x')", False),
])  # fmt: skip
def test_the_search_for_encodings_would_find_it(code, missing):
    assert bool(list(without_encoding(ast.parse(code)))) == missing


def test_a_default_encoding_of_our_code_is_an_error_where_tests_are_told_to_look():
    program = "from pathlib import Path; import stages.errors; exec(compile('Path(p).read_text()', 'x', 'exec'), " \
              "{'Path': Path, 'p': __import__('sys').argv[1], '__name__': 'stages.somewhere'})"
    done = subprocess.run([sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning", "-c", program,
                           str(V1 / "speech.json")], cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
                          check=False)  # fmt: skip
    assert done.returncode and "EncodingWarning" in done.stderr
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"error::EncodingWarning:(stages|halle_cli' in settings
    assert "PYTHONWARNDEFAULTENCODING" in (ROOT / "Makefile").read_text(encoding="utf-8")


def path_texts(tree: ast.AST) -> Iterator[int]:
    """Yield the lines where a path becomes text, for a dict or a list, with the separators of the machine."""
    for node in ast.walk(tree):
        values = node.values if isinstance(node, ast.Dict) else node.elts if isinstance(node, ast.List) else ()
        values = [*values, *([node.elt] if isinstance(node, ast.ListComp) else ())]
        for value in values:
            if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "str" and value.args \
                    and looks_like_a_path(value.args[0]):
                yield value.lineno


def looks_like_a_path(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Div)
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return name in ("Path", "with_suffix", "with_name", "resolve", "relative_to")
    name = getattr(node, "attr", getattr(node, "id", ""))
    return bool(re.search(r"(^|_)(path|folder|file|target|out|root|dir|place)$", name))


def test_paths_in_json_are_posix():
    found = [f"{file.relative_to(ROOT).as_posix()}:{line}" for file in SHIPPED for line in path_texts(parsed(file))]
    assert found == []


@pytest.mark.parametrize("code, found", [
    ("{'a': str(job.out / NAME)}", True), ("[str(file) for file in files]", True), ("{'a': str(target)}", True),
    ("{'a': target.as_posix()}", False), ("{'a': str(number)}", False), ("open(str(path))", False),
])  # fmt: skip
def test_the_search_for_paths_would_find_it(code, found):
    assert bool(list(path_texts(ast.parse(code)))) == found


def test_artifacts_name_files_with_slashes():
    for file in V1.rglob("*.json*"):
        rows = read_jsonl(file) if file.suffix == ".jsonl" else [file.read_text(encoding="utf-8")]
        assert "\\\\" not in str(rows) or "text_tokenizer" in str(rows), file


def test_the_workflow_runs_the_suite_on_three_systems_without_make():
    found = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    job = found["jobs"]["suite"]
    assert {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    commands = [step.get("run", "") for step in job["steps"]]
    assert sum("pytest" in command for command in commands) == 2 and not any("make " in text for text in commands)
    assert job["env"]["PYTHONWARNDEFAULTENCODING"] == "1"
    ignored = [ROOT / word.split("=")[1] for text in commands for word in text.split() if word.startswith("--ignore=")]
    assert ignored and all(folder.is_dir() for folder in ignored)


# ---- memory maps


def mapped_files() -> set[Path]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if line.count("/") and len(line.split(maxsplit=5)) == 6}


@pytest.fixture
def no_rename_over_a_map(monkeypatch):
    """Fail when a file is replaced, moved or deleted while this process has it mapped, which Windows refuses."""
    if sys.platform != "linux":
        pytest.skip("reads /proc; on Windows the system itself refuses")

    def guarded(method):
        def call(self, *arguments, **options):
            places = [self.resolve(), *(Path(argument).resolve() for argument in arguments[:1])]
            held = [file for file in mapped_files() if any(file == place or place in file.parents for place in places)]
            assert not held, f"{held} are mapped while {places} are renamed"
            return method(self, *arguments, **options)
        return call

    for name in ("replace", "rename"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))


@pytest.mark.usefixtures("no_rename_over_a_map")
def test_nothing_is_renamed_over_a_memory_map(tmp_path):
    store = open_store(kept_copy("store", tmp_path))
    assert store[0].codes and any(tmp_path in file.parents for file in mapped_files()), "a store is mapped"
    model = kept_copy("model", tmp_path)
    pack.run(str(model / "codec"), str(V1 / "run"), str(model / "nar"), str(model))  # made of what it replaces
    assert (model / "model.json").is_file()
    rows = [{"id": f"u{i}", "audio": "a.wav", "duration": 1.0, "text": "x"} for i in range(10_001)]
    write_manifest(tmp_path / "large", rows)
    assert len(read_manifest(tmp_path / "large").utterances) == 10_001
    write_manifest(tmp_path / "large", rows[:10_000])


@pytest.mark.usefixtures("no_rename_over_a_map")
def test_the_guard_would_notice(tmp_path):
    store = open_store(kept_copy("store", tmp_path))
    with pytest.raises(AssertionError, match="are mapped while"):
        write_bytes(store.path / "shard-00000" / "quant1.npy", b"new")
    with pytest.raises(AssertionError, match="are mapped while"), staged_folder(store.path / "shard-00000"):
        pass
