"""Two real processes give what one gives, and one that fails does not leave the other waiting."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tiny_chain import tiny_config

from stages import mreq, tokenize_corpus, train_ar, train_codec, train_nar
from stages.artifacts.checkpoint import load_checkpoint
from stages.artifacts.lock import lock_output
from stages.artifacts.storage import read_json, read_jsonl
from stages.codec.registry import codec_fingerprint, load_codec

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
STAGES = {"tokenize": tokenize_corpus, "train-codec": train_codec, "mreq": mreq, "train-ar": train_ar,
          "train-nar": train_nar}
TRAINERS = [name for name in STAGES if name != "tokenize"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
STEPS = ("training.steps=4", "training.log_every=1", "training.batch_size=4")
LATE = ("quantizer_start_step=1", "discriminator.start_step=2", "training.accumulation=2")

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")


def launch(launcher: tuple[str, ...], *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *launcher, *map(str, arguments)], cwd=cwd, capture_output=True,
                          text=True, encoding="utf-8", check=False, timeout=120, env=ENVIRONMENT)


def config_of(stage: str, chain, out: Path, **options):
    inputs = {
        "tokenize": {"codec": chain.mreq, "data": chain.data},
        "train-codec": {"data": chain.data},
        "mreq": {"teacher": chain.codec / "encodec.pt", "data": chain.data},
        "train-ar": {"tokens": chain.tokens},
        "train-nar": {"tokens": chain.tokens, "codec": chain.mreq},
    }[stage]
    changes = {"tokenize": ("shard_utterances=9",), "train-codec": (*STEPS, *LATE), "mreq": (*STEPS, "frozen_steps=2")}
    changes = changes.get(stage, STEPS[:2])
    return tiny_config(stage, *changes, out=str(out), **{name: str(path) for name, path in inputs.items()}, **options)


@pytest.fixture(scope="module")
def alone(chain, tmp_path_factory) -> Path:
    """A folder with what every stage makes in one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, module in STAGES.items():
        module.run(config_of(name, chain, folder / name))
    return folder


@pytest.fixture(scope="module")
def together(chain, tmp_path_factory) -> Path:
    """A folder with what every stage makes in two processes, started twice, and `train-ar` a third time anew."""
    folder = tmp_path_factory.mktemp("together")
    configs = [(name, config_of(name, chain, folder / name)) for name in STAGES] * 2
    configs += [("train-ar", config_of("train-ar", chain, folder / "train-ar", restart=True))]
    work = [(name, STAGES[name].__name__.split(".")[-1], config.model_dump(mode="json")) for name, config in configs]
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    finished = launch(TORCHRUN, HERE / "stages_in_turn.py", folder / "work.json", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    return folder


def logged(run: Path) -> list[dict]:
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "seconds_per_step" in row]
    return [{name: value for name, value in row.items() if name != "seconds_per_step"} for row in rows]


def tolerance(name: str) -> dict[str, float]:
    """What sums of another order may change. An adversary's gradients of real and decoded audio nearly cancel at
    first, so that Adam turns their rounding into steps; its logits are about 0."""
    if name.startswith("gradient_norm"):
        return {"rel": 1e-3, "abs": 2e-6}
    return {"rel": 1e-4, "abs": 1e-4 if name == "adversarial" else 1e-6}


@pytest.mark.parametrize("stage", TRAINERS)
def test_two_processes_log_what_one_logs(stage, alone, together):
    ours, theirs = logged(together / stage), logged(alone / stage)
    assert [row["step"] for row in ours] == [1, 2, 3, 4]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, value in other.items():
            assert mine[name] == pytest.approx(value, **tolerance(name)), f"{name} at step {other['step']}"


@pytest.mark.parametrize("stage", TRAINERS)
def test_the_checkpoint_of_two_processes_is_whole_and_near_that_of_one(stage, alone, together):
    ours, theirs = load_checkpoint(together / stage), load_checkpoint(alone / stage)
    assert (ours.kind, ours.architecture, ours.parents) == (theirs.kind, theirs.architecture, theirs.parents)
    assert (together / stage / "checksums.json").exists()
    for name, tensor in theirs.tensors.items():
        difference = (ours.tensors[name].double() - tensor.double()).norm()
        assert difference <= 0.05 * tensor.double().norm() + 1e-3, name
    if ours.kind == "codec":
        assert codec_fingerprint(load_codec(together / stage)) == ours.fingerprint


def test_two_processes_write_the_token_store_of_one(alone, together):
    def tokens(store: Path) -> dict[str, bytes]:
        own = {"config.json", "provenance.json", "log.txt"}  # of the run, not of the tokens
        return {file.relative_to(store).as_posix(): file.read_bytes() for file in store.rglob("*")
                if file.is_file() and file.name not in own}

    assert len(list((together / "tokenize").glob("shard-*"))) > 2
    assert tokens(together / "tokenize") == tokens(alone / "tokenize")


def test_a_finished_stage_is_left_alone_by_both_processes(together):
    for index, stage in enumerate(STAGES):
        said = [together / f"rank{rank}-{index + turn * len(STAGES)}.json" for turn in range(2) for rank in range(2)]
        results = [read_json(file) for file in said]
        # the first process may know more: it alone measures speech, and it alone speaks
        assert results[1] == {key: results[0][key] for key in results[1]}
        assert results[3] == {key: results[2][key] for key in results[3]}
        key = "checkpoint" if stage in TRAINERS else "frames"
        assert results[2][key] == results[0][key]
        out = together / ("train-ar.old-1" if stage == "train-ar" else stage)
        ended = min(file.stat().st_mtime_ns for file in said[2:])
        assert max(file.stat().st_mtime_ns for file in out.rglob("*") if file.name != "log.txt") < ended


def test_a_restart_moves_the_old_run_aside_once_and_trains_again(together):
    results = [read_json(together / f"rank{rank}-{2 * len(STAGES)}.json") for rank in range(2)]
    assert results[0] == results[1] and "validation_loss" in results[0]
    assert [path.name for path in together.glob("train-ar.old-*")] == ["train-ar.old-1"]
    assert logged(together / "train-ar") == logged(together / "train-ar.old-1")


def test_accelerate_launches_the_command_in_two_processes(chain, alone, tmp_path):
    settings = config_of("train-ar", chain, tmp_path / "run").model_dump(mode="json", exclude={"tokens", "out"})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    finished = launch(ACCELERATE, "-m", "halle_cli", "train-ar", "--tokens", chain.tokens, "--out", "run", "--config",
                      "tiny.yaml", "--json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["steps"] == 4, "only the main process speaks"
    ours, theirs = logged(tmp_path / "run"), logged(alone / "train-ar")
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-5)


def test_a_locked_output_ends_both_processes_at_once(chain, tmp_path):
    with lock_output(tmp_path / "run"):
        started = time.monotonic()
        finished = launch(TORCHRUN, "-m", "halle_cli", "train-ar", "--tokens", chain.tokens, "--out", "run",
                          "--preset", "smoke", "--device", "cpu", cwd=tmp_path)
    assert finished.returncode != 0
    assert finished.stderr.count("is being written by process") == 1, finished.stderr
    assert "exitcode  : 6" in finished.stderr and "bug in halle" not in finished.stderr
    assert time.monotonic() - started < 30
    assert list((tmp_path / "run").iterdir()) == []


def test_a_process_that_dies_ends_the_other_which_does_not_call_it_a_bug():
    # Without torchrun, which would end the other before it can speak.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
              "LOCAL_WORLD_SIZE": "2"}
    pair = [subprocess.Popen([sys.executable, HERE / "one_dies.py"], stderr=subprocess.PIPE, text=True,
                             encoding="utf-8", env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
                             for rank in range(2)]
    _, said = pair[0].communicate(timeout=120)
    pair[1].communicate(timeout=120)
    assert [process.returncode for process in pair] == [1, 9]
    assert "another process of this run has ended" in said and "bug in halle" not in said
