"""What a person meets at the command line: help, errors, exit codes."""

import contextlib
import json
import logging
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from halle_cli.app import app
from halle_cli.console import Console, _lines
from halle_cli.next_steps import NEXT_STEP, next_step
from stages.config.resolve import CONFIG_OF_STAGE

ROOT = Path(__file__).parent.parent


def halle(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "halle_cli", *arguments], cwd=cwd or ROOT, capture_output=True,
                          text=True, encoding="utf-8", check=False)


@pytest.fixture
def own_logging():
    """Give the logger back as it was: a console in this process takes it over."""
    logger = logging.getLogger("halle")
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate, logger.level = before


def test_help_names_every_stage_and_imports_nothing_heavy():
    code = ("import sys, io, contextlib\n"
            "from halle_cli.app import app\n"
            "out = io.StringIO()\n"
            "with contextlib.redirect_stdout(out):\n"
            "    try: app(['--help'])\n"
            "    except SystemExit as end: assert end.code == 0\n"
            "heavy = {'torch', 'numpy', 'scipy', 'pydantic', 'yaml', 'accelerate'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
            "print(out.getvalue())\n")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                            encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr
    for command in [*CONFIG_OF_STAGE, "pack", "info", "check", "doctor"]:
        assert command in result.stdout
    stages, helpers = result.stdout.split("Helpers")
    assert "tokenize" in stages and "doctor" in helpers, "two groups"

@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux")
@pytest.mark.parametrize(("set_before", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "77"}, "77"),
                                                   ({"OMP_WAIT_POLICY": "passive"}, "0")])
def test_waiting_threads_soon_leave_the_processor_to_others(set_before, spins):
    surroundings = {name: value for name, value in os.environ.items()
                    if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    told = subprocess.run([sys.executable, "-m", "halle_cli", "doctor", "--json"], cwd=ROOT, capture_output=True,
                          env=surroundings | {"OMP_DISPLAY_ENV": "verbose"} | set_before, text=True, encoding="utf-8",
                          check=False)
    if "GOMP_SPINCOUNT" not in told.stderr:
        pytest.skip("torch was built with another OpenMP")
    assert f"GOMP_SPINCOUNT = '{spins}'" in told.stderr, "what OpenMP itself has read"


@pytest.mark.parametrize("stage", CONFIG_OF_STAGE)
def test_every_stage_has_help(stage):
    result = halle(stage, "--help")
    assert result.returncode == 0
    assert "--dry-run" in result.stdout and "--preset" in result.stdout


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as end:
        app(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"halle {metadata.version('halle')}\n"


def test_an_unknown_key_is_refused_with_what_was_meant(tmp_path):
    result = halle("train-codec", "--data", "x", "--out", str(tmp_path / "run"), "-O", "training.learing_rate=1")
    assert result.returncode == 2
    assert "unknown key `training.learing_rate` (did you mean `learning_rate`?)" in result.stderr
    assert "hint:" in result.stderr and "Traceback" not in result.stderr


def test_an_unknown_preset_is_refused():
    result = halle("train-codec", "--data", "x", "--out", "y", "--preset", "smok")
    assert result.returncode == 2
    assert "did you mean `smoke`" in result.stderr


def test_errors_are_json_too_when_asked(tmp_path):
    result = halle("train-codec", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"), "--json")
    assert result.returncode == 2
    error = json.loads(result.stdout)
    assert error["exit_code"] == 2 and "manifest" in error["error"]
    assert not (tmp_path / "run").exists()


def test_a_traceback_is_shown_only_with_debug(tmp_path):
    plain = halle("train-codec", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"))
    debug = halle("train-codec", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"), "--debug")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_a_hostile_file_name_cannot_steer_the_terminal(tmp_path):
    result = halle("train-codec", "--data", "bad\x1b[31m[/x]name", "--out", str(tmp_path / "run"))
    assert result.returncode == 2
    assert "\x1b[31m" not in result.stderr and "[/x]name" in result.stderr


def test_a_result_is_shown_without_programmers_words():
    shown = "\n".join(_lines({"none": None, "empty": {}, "flag": True, "rates": [8.0, 16.0],
                              "pairs": [[1, 1], [2, 3]],
                              "streams": [{"name": "quant1", "rate": 8.0}], "nested": {"count": 3}}))
    assert shown.split("\n") == ["none     -", "empty    -", "flag     yes", "rates    8, 16",
                                "pairs    (1, 1), (2, 3)", "streams", "  name=quant1 rate=8", "nested", "  count  3"]


def test_rows_of_the_same_columns_are_shown_as_a_table():
    shown = "\n".join(_lines({
        "steps": {"check": {"done": 619, "dropped": 0, "speed": 752.1},
                  "vad": {"done": 8, "dropped": 11, "speed": None}},
        "estimate": [{"step": "cut", "measured": "here", "hours": 0.5},
                     {"step": "gate", "measured": "-", "hours": 12}]}))
    assert shown.split("\n") == [
        "steps",
        "         done  dropped  speed",
        "  check   619        0  752.1",
        "  vad       8       11      -",
        "estimate",
        "  step  measured  hours",
        "  cut   here        0.5",
        "  gate  -            12"]


@pytest.mark.parametrize("options, says", [({}, True), ({"verbosity": -1}, False), ({"as_json": True}, False)])
def test_what_comes_next_is_said_on_stderr_when_a_person_is_reading(capsys, own_logging, options, says):
    with pytest.raises(SystemExit) as end:
        Console(**options).run(lambda: {"out": "data"}, "halle mreq")
    printed = capsys.readouterr()
    assert end.value.code == 0 and "halle mreq" not in printed.out
    assert ("next: halle mreq" in printed.err) == says


def test_of_several_processes_the_first_alone_runs_a_helper(monkeypatch, capsys, tmp_path):
    outcomes = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with contextlib.suppress(SystemExit):
            app(["check", str(tmp_path), "--json"], standalone_mode=False)
        told = capsys.readouterr()
        outcomes.append(bool(told.out or told.err))
    assert outcomes == [True, False]


def test_every_stage_but_the_last_names_an_existing_command_to_go_on_with():
    assert set(NEXT_STEP) == {*CONFIG_OF_STAGE, "pack"} - {"synth", "eval"}
    known = {command.name for command in app.registered_commands}
    assert {text.split()[1] for text in NEXT_STEP.values()} <= known


def test_after_tokens_that_suit_a_model_comes_its_fine_tuning(tmp_path):
    (tmp_path / "model.json").touch()
    tokens = {"out": "tokens", "data": "data", "codec": None, "text_tokenizer": None}
    said = next_step("tokenize", {**tokens, "like": None})
    assert said.startswith("halle train-ar --tokens tokens --codec CODEC --out RUN"), "the aligner of mini wants it"
    said = next_step("tokenize", {**tokens, "like": str(tmp_path)})
    assert said.startswith(f"halle train-ar --preset finetune --init {tmp_path} --tokens tokens --out RUN")
    assert "--init MODEL --tokens" in next_step("tokenize", {**tokens, "like": str(tmp_path / "run")})
    assert "--init some-org/model --tokens" in next_step("tokenize", {**tokens, "like": "some-org/model"}), "of the hub"
    run = {"tokens": ["new", "old:0.5"], "out": "run", "init": str(tmp_path), "codec": None}
    assert next_step("train-ar", run, "finetune").startswith(
        f"halle train-nar --preset finetune --init {tmp_path} --tokens new --tokens old:0.5 --out RUN")
    assert next_step("train-nar", run, "finetune") == f"halle pack --codec {tmp_path} --ar RUN --nar run --out MODEL"
    assert "--codec CODEC" in next_step("train-ar", run), "from a VALL-E, say: no fine-tuning"
    codec = {"data": "data", "out": "run", "init": str(tmp_path)}  # a stage that the preset is not for says so itself
    assert next_step("train-codec", codec, "finetune") == "halle mreq --teacher run --data data --out RUN"


@pytest.mark.parametrize("error, code, says", [
    (MemoryError(), 4, "out of memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), 4, "lower the batch size"),
    (ZeroDivisionError("oh"), 1, "bug in halle"),
])
def test_running_out_of_memory_is_no_bug_and_a_bug_is(capsys, own_logging, error, code, says):
    def fail():
        raise error

    with pytest.raises(SystemExit) as end:
        Console().run(fail)
    assert end.value.code == code and says in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["synth", "--prompt", "nowhere", "--say", "Hello."],
                                       ["eval", "--set", "nowhere", "--dry-run"]])
def test_a_single_text_and_a_plan_are_left_to_the_first_process(arguments, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as end:
        app(arguments)
    assert end.value.code == 0
    assert capsys.readouterr() == ("", "")
