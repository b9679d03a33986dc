"""The Slurm script: SIGUSR1 makes all processes save, the job is put back into the queue, and it goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tiny_chain import tiny_config

from stages import train_ar
from stages.artifacts.checkpoint import list_checkpoints
from stages.artifacts.storage import read_journal

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "slurm" / "train.sbatch"
# As srun does: starts the tasks, passes signals on to each, and ends with the largest exit code.
SRUN = """#!{python}
import os, signal, subprocess, sys
command = sys.argv[next(i for i, word in enumerate(sys.argv) if i and not word.startswith("-")):]
tasks = [subprocess.Popen(command, env={{**os.environ, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}})
         for n in range(int(os.environ["SLURM_NTASKS"]))]
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$RECORD"; fi
"""

pytestmark = [pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1"),
              pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")]


@pytest.fixture
def cluster(tmp_path):
    """The environment of a job of two tasks, and where `scontrol` writes what it is asked for."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, content in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (programs / name).write_text(content, encoding="utf-8")
        (programs / name).chmod(0o755)
    record = tmp_path / "scontrol.txt"
    own = {"PATH": f"{programs}:{os.environ['PATH']}", "RECORD": str(record), "HALLE": f"{sys.executable} -m halle_cli",
           "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": str(os.getpid()),
           "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    return {**os.environ, **own}, record


def test_sigusr1_to_a_job_saves_and_requeues_and_the_run_goes_on(chain, cluster, tmp_path):
    environment, record = cluster
    steps = ("training.steps=100000", "training.schedule_steps=100000", "training.log_every=1")
    config = tiny_config("train-ar", *steps, tokens=str(chain.tokens), out=str(tmp_path / "run"))
    settings = config.model_dump(mode="json", exclude={"tokens", "out"})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    job = subprocess.Popen(["bash", SCRIPT, "train-ar", "--tokens", chain.tokens, "--out", "run", "--config",
                            "tiny.yaml"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, encoding="utf-8")
    patience = time.monotonic() + 200
    while not (rows := read_journal(tmp_path / "run" / "metrics.jsonl", mend=False)) and job.poll() is None:
        assert time.monotonic() < patience
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=100)
    assert rows and job.returncode == 128 + signal.SIGUSR1, said
    assert record.read_text(encoding="utf-8") == f"requeue {environment['SLURM_JOB_ID']}\n"
    assert said.count("everything is saved") == 1 and "Traceback" not in said
    saved = list_checkpoints(tmp_path / "run")[-1][0]
    assert saved < 100_000
    more = config.training.model_copy(update={"steps": saved + 1})
    assert train_ar.run(config.model_copy(update={"training": more}))["steps"] == saved + 1


def test_a_job_that_fails_is_not_requeued_and_keeps_the_exit_code(cluster, tmp_path):
    environment, record = cluster
    finished = subprocess.run(["bash", SCRIPT, "train-ar", "--tokens", "nowhere", "--out", "run"], cwd=tmp_path,
                              check=False, capture_output=True, text=True, encoding="utf-8",
                              env={**environment, "HALLE": "false"})
    assert finished.returncode == 1 and not record.exists(), finished.stderr
