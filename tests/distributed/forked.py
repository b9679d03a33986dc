"""Several processes of one run, forked from this one, which has imported torch: they start in no time."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState

from halle_cli.console import Console
from stages.training import processes


def run_ranks(world_size: int, work: Callable[[], object], log: Path, seconds: float = 300) -> list[int]:
    """Do `work` in each of `world_size` processes and return their exit codes, negative for signals.

    What they say goes to `log`, a folder. Those that are not done after `seconds` are killed.
    """
    log.mkdir(parents=True, exist_ok=True)
    port = free_port()
    children = []
    for rank in range(world_size):
        child = os.fork()
        if child == 0:
            _be_rank(rank, world_size, port, work, log / f"rank{rank}.txt")
        children.append(child)
    return _collect(children, time.monotonic() + seconds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def said(log: Path) -> str:
    """Return what all processes said, for the message of a failed test."""
    return "\n".join(f"== {file.stem}\n{file.read_text(encoding='utf-8')}" for file in sorted(log.glob("rank*.txt")))


def _be_rank(rank: int, world_size: int, port: int, work: Callable[[], object], output: Path) -> None:
    """Become one process of a run, as torchrun would start it, and never return."""
    code = 1
    try:
        sys.stdout = sys.stderr = output.open("w", encoding="utf-8", buffering=1)
        if world_size > 1:
            os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
                               "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1",
                               "MASTER_PORT": str(port)})
        PartialState._reset_state()
        torch.set_num_threads(1)
        try:
            Console().run(lambda: work() or {})
        except SystemExit as end:
            code = end.code
        processes._leave()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _collect(children: list[int], deadline: float) -> list[int]:
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return [codes[child] for child in children]
