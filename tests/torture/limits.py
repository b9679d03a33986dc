"""R4 to R6 and R12 to R17: costs, limits, and what several processes or settings do to each other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from children import Ended, in_child
from small_stages import NUM_STEPS, TRAINERS, result_of
from tiny_chain import tiny_config
from tiny_tokens import tiny_tokens

from stages import curate, tokenize_corpus, train_ar
from stages.artifacts.checkpoint import list_checkpoints
from stages.artifacts.lock import lock_output
from stages.artifacts.storage import read_jsonl
from stages.audio.io import read_audio
from stages.config.resolve import resolve
from stages.data.batching import rank_slice
from stages.errors import StorageError
from stages.training import loop, state

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def measured(told: str, problems: list[str]):
    from torture_figures import Measured

    return Measured(told, problems)


def _failed(ended: Ended, what: str, code: int = 0) -> list[str]:
    return [] if ended.code == code else [f"{what}: exit {ended.code}, not {code}: {ended.said[-600:]}"]


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


# ---- R4: elastic


def elastic(bench):
    """Train 50 steps in one process, and 12, 24, 36 and 50 in 1, 2, 4 and 1."""
    problems = _slices_differ(bench)
    steps = (12, 24, 36, 50) if bench.kills >= 10 else (2, 4, 6, 8)
    settings = ("training.log_every=1", "training.validate_every=1000", "training.validation_utterances=0",
                f"training.schedule_steps={steps[-1]}")
    alone, together = bench.work / "R4-alone", bench.work / "R4-together"
    config = tiny_config("train-ar", *settings, f"training.steps={steps[-1]}", out=str(alone),
                         tokens=str(bench.chain.tokens))
    problems += _failed(in_child(lambda: train_ar.run(config), bench.work / "R4.txt"), "one process")
    for processes, until in zip((1, 2, 4, 1), steps, strict=True):
        options = {"out": str(together), "tokens": str(bench.chain.tokens)}
        part = tiny_config("train-ar", *settings, f"training.steps={until}", **options)
        problems += _launch(part, processes, bench.work)
    ours, theirs = ({row["step"]: row["loss"] for row in read_jsonl(run / "metrics.jsonl") if "learning_rate" in row}
                    for run in (alone, together))
    if ours.keys() != theirs.keys():
        return measured("steps differ", [*problems, f"{sorted(ours)} and {sorted(theirs)}"])
    worst = max(abs(theirs[step] / loss - 1) for step, loss in ours.items())
    if worst > 2e-6:  # metrics.jsonl has six digits
        problems.append(f"losses differ by {worst:.2g}")
    return measured(f"50 global batches the same; losses of {len(ours)} steps differ by at most {worst:.1g}", problems)


def _slices_differ(bench) -> list[str]:
    data = train_ar.open_tokens(str(bench.chain.tokens), None)
    plan = train_ar._batch_plan(tiny_config("train-ar", tokens=str(bench.chain.tokens)), data)
    problems = []
    for number in range(50):
        items = sorted(plan.items(number).tolist())
        for world_size in (2, 4):
            parts = [rank_slice(plan.items(number), rank, world_size) for rank in range(world_size)]
            if sorted(item for own, counted in parts if counted for item in own.tolist()) != items:
                problems.append(f"batch {number}: {world_size} processes hear something else")
    return problems


def _launch(config, processes: int, work: Path) -> list[str]:
    file = work / "R4-work.json"
    file.write_text(json.dumps([("train-ar", "train_ar", config.model_dump(mode="json"))]), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               ROOT / "tests" / "distributed" / "stages_in_turn.py", file]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, env=ENVIRONMENT,
                           timeout=600)
    return [] if ended.returncode == 0 else [f"{processes} processes: {ended.stderr[-600:]}"]


# ---- R5, R6: checkpoints


def checkpoint_cost(bench):
    """Time the saving and the steps of the AR model of `mini` on the tiny store."""
    told = bench.work / "R5.json"
    options = {"tokens": str(bench.chain.tokens), "out": str(bench.work / "R5-run"), "device": "cpu"}
    overrides = ("model.text_pointer=false", "model.text_prefix=true", "codebook_start=false", "training.steps=3",
                 "training.save_every=1", "training.validate_every=99", "training.validation_items=1")
    config = resolve("train-ar", "mini", overrides=overrides, options=options)

    def timing() -> dict:
        seconds = {"_save": [], "_step": []}
        for name, found in seconds.items():
            _time_method(name, found)
        result = train_ar.run(config)
        size = sum(file.stat().st_size for file in Path(result["checkpoint"]).rglob("*") if file.is_file())
        told.write_text(json.dumps({**seconds, "bytes": size}), encoding="utf-8")
        return {}

    problems = _failed(in_child(timing, bench.work / "R5.txt"), "train-ar --preset mini")
    found = json.loads(told.read_text(encoding="utf-8"))
    save, step = statistics.median(found["_save"]), statistics.median(found["_step"])
    share = save / (1000 * step + save)
    problems += [] if share < 0.02 else [f"saving takes {share:.2%}"]
    problems += _room_problems(bench)
    return measured(f"{share:.3%}: {save:.2f} s for {found['bytes'] / 1e6:.0f} MB, {step:.2f} s a step (AR of mini); "
                    "3.2 checkpoints of room are asked for before step 1", problems)


def _time_method(name: str, found: list[float]) -> None:
    method = getattr(loop._Trainer, name)

    def timing(*arguments):
        started = time.monotonic()
        result = method(*arguments)
        found.append(time.monotonic() - started)
        return result

    setattr(loop._Trainer, name, timing)


def _room_problems(bench) -> list[str]:
    needed = (2 + state.ROOM) * 8.7e9
    usage, problems = shutil.disk_usage, []
    for free, refused in ((needed * 0.99, True), (needed * 1.01, False)):
        state.shutil.disk_usage = lambda path, free=free: usage(path)._replace(free=int(free))
        try:
            folder = bench.work / "R5-room"
            folder.mkdir(exist_ok=True)
            state.require_room(folder, int(8.7e9), 2)
            problems += ["too little space was not refused"] if refused else []
        except StorageError as error:
            problems += [] if refused and "27.8 GB" in error.message else [error.message]
        finally:
            state.shutil.disk_usage = usage
    return problems


def recovery(bench):
    """Stop by signals, and time the first step after going on."""
    stage, problems, waits, firsts = bench.stages.get("train-ar") or bench.trainers[0], [], [], []
    for place, number in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) * max(1, bench.kills // 6)):
        out, step = bench.work / f"R6-{place}", 1 + place % (NUM_STEPS - 1)
        told = bench.work / f"R6-{place}.json"
        ended = in_child(lambda out=out: stage.run(out), bench.work / "R6.txt",
                         lambda step=step, number=number, told=told: _signal_and_time(step, number, told))
        problems += _failed(ended, f"signal {number} at step {step}", 128 + number)
        found = [number for number, _ in list_checkpoints(out)]
        problems += [] if found[-1:] == [step] else [f"signal at step {step}: the last checkpoint is {found[-1:]}"]
        waits.append(time.time() - float(told.read_text(encoding="utf-8")))
        begun = time.time()
        ended = in_child(lambda out=out: stage.run(out), bench.work / "R6.txt",
                         lambda told=told: _time_first_step(told))
        problems += _failed(ended, "going on")
        firsts.append(float(told.read_text(encoding="utf-8")) - begun)
    plan = train_ar._batch_plan(tiny_config("train-ar", tokens=str(bench.chain.tokens)),
                                train_ar.open_tokens(str(bench.chain.tokens), None))
    far = timed(lambda: plan.items(10**9))
    problems += [] if max(waits) < 60 and max(firsts) < 60 and far < 1 else ["too slow"]
    return measured(f"{len(waits)} signals: 0 steps lost, ended within {max(waits):.1f} s; first step {max(firsts):.1f}"
                    f" s after the start; the batch of step 1,000,000,000 in {1000 * far:.0f} ms", problems)


def _signal_and_time(step: int, number: int, told: Path) -> None:
    begin = loop.Run.begin_step

    def begin_and_signal(run, current: int) -> None:
        begin(run, current)
        if current == step and not told.exists():  # the largest batch is tried as a step, too: one signal only
            told.write_text(str(time.time()), encoding="utf-8")
            signal.raise_signal(number)

    loop.Run.begin_step = begin_and_signal


def _time_first_step(told: Path) -> None:
    step = loop._Trainer._step

    def timing(trainer, number: int):
        values = step(trainer, number)
        if not trainer.__dict__.setdefault("timed", False):
            trainer.timed = True
            told.write_text(str(time.time()), encoding="utf-8")
        return values

    loop._Trainer._step = timing


# ---- R12: no rank hangs


def no_hang(bench):
    problems, longest = [], 0.0
    for what, codes in (("dies", (1, 9)), ("save", (4, 4))):
        started = time.monotonic()
        found = _pair(what, bench)
        longest = max(longest, time.monotonic() - started)
        problems += [] if found == codes else [f"{what}: exit codes {found}, expected {codes}"]
    return measured(f"both ended with an error within {longest:.0f} s, start included", problems)


def _pair(what: str, bench) -> tuple[int, ...]:
    """Run two processes without a launcher, which would end one when the other does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = {"dies": [ROOT / "tests" / "distributed" / "one_dies.py"],
              "save": [Path(__file__).with_name("save_fails.py"), bench.chain.tokens, bench.work / "R12-run"]}[what]
    shared = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
              "LOCAL_WORLD_SIZE": "2"}
    pair = [subprocess.Popen([sys.executable, *map(str, script)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    try:
        return tuple(process.wait(timeout=120) for process in pair)
    finally:
        for process in pair:
            process.kill()


# ---- R13: memory


def memory(bench):
    minutes, clips = bench.share(60), bench.share(10_000)
    folder = bench.work / "R13-long"
    folder.mkdir()
    _long_wav(folder / "long.wav", minutes)
    config = tiny_config("curate", "steps=[check]", "workers=1", source=str(folder), layout="recordings",
                         out=str(bench.work / "R13-out"))
    ended = in_child(lambda: curate.run(config), bench.work / "R13.txt", timeout=1200)
    problems = _failed(ended, "curate")
    clip = next(bench.chain.data.rglob("*.flac"))
    grown = _growth(clip, clips)
    problems += [] if ended.peak_bytes < 2e9 and grown < 50e6 else ["too much memory"]
    return measured(f"{minutes} min of 6 channels at 96 kHz: {ended.peak_bytes / 1e9:.2f} GB; {clips} clips: "
                    f"{grown / 1e6:.1f} MB more", problems)


def _long_wav(path: Path, minutes: int) -> None:
    """Write noise of a second at the start, and silence that a disk need not hold."""
    rate, channels = 96_000, 6
    length = minutes * 60 * rate * channels * 2
    head = b"RF64\xff\xff\xff\xffWAVEds64" + np.array([28], "<u4").tobytes() + np.array(
        [length + 72, length, length // 12], "<u8").tobytes() + bytes(4)
    head += b"fmt " + np.array([16], "<u4").tobytes() + np.array([1, channels], "<u2").tobytes() + np.array(
        [rate, rate * channels * 2], "<u4").tobytes() + np.array([channels * 2, 16], "<u2").tobytes()
    head += b"data\xff\xff\xff\xff"
    with path.open("wb") as file:
        file.write(head)
        file.write(np.random.default_rng(0).integers(-9000, 9000, rate * channels, dtype="<i2").tobytes())
        file.truncate(len(head) + length)


def _growth(clip: Path, clips: int) -> int:
    process = psutil.Process()
    for _ in range(min(50, clips)):
        read_audio(clip, 24_000)
    before = process.memory_info().rss
    for _ in range(clips):
        read_audio(clip, 24_000)
    return process.memory_info().rss - before


# ---- R14 to R17: runs of one stage beside each other


def two_writers(bench):
    stage, out = bench.stages.get("train-ar") or next(iter(bench.stages.values())), bench.work / "R14-run"
    holder = os.fork()
    if holder == 0:
        with lock_output(out):
            time.sleep(300)
        os._exit(0)
    while not (out / ".lock").exists() or not (out / ".lock").read_text(encoding="utf-8").endswith("}"):
        time.sleep(0.01)
    ended = in_child(lambda: stage.run(out), bench.work / "R14.txt")
    problems = _failed(ended, "the second writer", 6)
    problems += [] if str(holder) in ended.said else ["the holder is not named"]
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    problems += _failed(in_child(lambda: stage.run(out), bench.work / "R14.txt"), "after the first was killed")
    problems += [] if ended.cpu_seconds < 2 else ["too slow"]
    return measured(f"exit {ended.code} after {ended.wall_seconds:.2f} s ({ended.cpu_seconds:.2f} s of computing); the "
                    "dead one's lock was taken", problems)


def workers(bench):
    problems, compared = [], 0
    for name in ("curate", "tokenize"):
        if name not in bench.stages:
            continue
        results = []
        for count in (1, 2, 8):
            out = bench.work / f"R15-{name}-{count}"
            ended = in_child(lambda out=out, name=name, count=count: bench.stages[name].run(out, f"workers={count}"),
                             bench.work / "R15.txt")
            problems += _failed(ended, f"{name} with {count} workers")
            results.append(result_of(name, out))
        compared += len(results[0])
        problems += [f"{name}: `{key}` differs" for other in results[1:] for key in results[0]
                     if other.get(key) != results[0][key]]
    return measured(f"{compared} files of curate and tokenize: {len(problems)} differ", problems)


def idempotent(bench):
    """Run finished stages again, and open what is large."""
    problems, slowest = [], 0.0
    for name, stage in bench.stages.items():
        out, calls = bench.work / f"R16-{name}", bench.work / "R16-calls"
        problems += _failed(in_child(lambda stage=stage, out=out: stage.run(out), bench.work / "R16.txt"), name)
        ended = in_child(lambda stage=stage, out=out: stage.run(out), bench.work / "R16.txt",
                         lambda calls=calls: _count_model_work(calls))
        problems += _failed(ended, f"{name} again")
        problems += [f"{name}: a model was at work"] if calls.exists() else []
        slowest = max(slowest, ended.cpu_seconds)
        shutil.rmtree(out)
    items = bench.share(20_000)
    store, seconds = tiny_tokens(bench.work / "R16-tokens", "halle", items)[0], 0.0
    config = tiny_config("train-ar", "training.steps=1", tokens=str(store), out=str(bench.work / "R16-run"))
    problems += _failed(in_child(lambda: train_ar.run(config), bench.work / "R16.txt", timeout=1800), "a large store")
    seconds = in_child(lambda: train_ar.run(config), bench.work / "R16.txt", timeout=600).cpu_seconds * 100_000 / items
    few, many = (_seconds_of_texts(bench, count) for count in (items // 10, items))
    texts = few + max(0.0, many - few) * 100_000 / (items - items // 10)
    problems += [] if seconds < 5 else [f"train-ar takes {seconds:.1f} s for 100,000"]
    problems += [] if texts < 5 else [f"tokenize takes {texts:.1f} s for 100,000"]
    return measured(f"no model work; {slowest:.2f} s of computing at most for the small stages; for 100,000 items, "
                    f"from {items}: train-ar {seconds:.1f} s, tokenize {texts:.1f} s", problems)


def _count_model_work(calls: Path) -> None:
    torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: calls.touch())


def _seconds_of_texts(bench, items: int) -> float:
    """Return what `tokenize` computes until it knows that a store of so many utterances is finished."""
    folder, out = bench.work / f"R16-data{items}", bench.work / f"R16-store{items}"
    folder.mkdir()
    row = read_jsonl(bench.chain.data / "manifest.jsonl")[0]
    lines = (json.dumps({**row, "id": f"u{index}", "text": f"{row['text']} take {index % 97} of some"})
             for index in range(items))
    (folder / "manifest.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    shutil.copytree(bench.chain.tokens, out)  # finished, of other data: refused when that is known
    config = tiny_config("tokenize", codec=str(bench.chain.mreq), data=str(folder), out=str(out))
    ended = in_child(lambda: tokenize_corpus.run(config), bench.work / "R16.txt", timeout=1800)
    if "`data` was" not in ended.said:
        raise AssertionError(ended.said)
    return ended.cpu_seconds


def drift(bench):
    problems, count = [], 0
    for name, stage in bench.stages.items():
        out, log = bench.work / f"R17-{name}", bench.work / "R17.txt"
        problems += _failed(in_child(lambda stage=stage, out=out: stage.run(out), log), name)
        refused = in_child(lambda stage=stage, out=out: stage.run(out, "seed=7"), log)
        problems += _failed(refused, f"{name} with another seed", 2)
        problems += [] if "`seed` was `0`, is `7`" in refused.said else [f"{name}: the difference is not shown"]
        count += 1
        if name in TRAINERS:
            more = (f"training.steps={NUM_STEPS + 1}", "seed=7")
            allowed = in_child(lambda stage=stage, out=out, more=more: stage.run(out, *more, allow_change=["seed"]),
                               log)
            problems += _failed(allowed, f"{name} with --allow-change seed")
        shutil.rmtree(out)
    return measured(f"{count} stages refuse another seed and show it; trainers go on with --allow-change", problems)
