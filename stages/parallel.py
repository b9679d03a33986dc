"""Work on many items at once: in threads, in worker processes, or divided among the processes of a run."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from typing import TypeVar

from stages.signals import ignore_interrupts, signal_name

Item = TypeVar("Item")
Result = TypeVar("Result")


class Share:
    """Which of several processes this is (`rank` of `world_size`), and at which of all items it is (`place`)."""

    def __init__(self, rank: int = 0, world_size: int = 1):
        self.rank, self.world_size, self.place = rank, world_size, 0

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield this process's items: every `world_size`th."""
        for place, item in enumerate(items):
            if place % self.world_size == self.rank:
                self.place = place
                yield item


ALONE = Share()


def in_turn(found: Sequence[Result], world_size: int) -> list[Result]:
    """Return in the order of the items what processes found of their shares, given one process after the other."""
    places = sorted(range(len(found)), key=lambda place: place % world_size)
    return [found[number] for number in sorted(range(len(found)), key=places.__getitem__)]


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0) -> Iterator[Result]:
    """Yield `function(item)` in the order of the items, `workers` at a time (0: one a processor).

    Threads suffice: decoding, resampling and hashing release the interpreter. At most four items a worker wait
    in memory, and what was not begun is dropped when the caller stops early.
    """
    workers = workers or os.cpu_count() or 1
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Workers:
    """Processes, each at one item at a time: for what holds the interpreter, or a model that serves one caller.

    They compute with one thread each, so that results do not depend on their number. A single worker is this process.
    """

    def __init__(self, count: int):
        self.count = count
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor | None:
        context = multiprocessing.get_context("spawn")  # a fork inherits locks of threads that it does not have
        return ProcessPoolExecutor(self.count, context, _begin_worker) if self.count > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if self._pool and failure:
            for worker in multiprocessing.active_children():  # what they are at may take hours
                worker.terminate()
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def restart(self) -> None:
        """Begin with new processes, after one of the old ones was killed."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._start()

    def map(self, function: Callable[[Item], Result], items: list[Item]) -> Iterator[tuple[Item, Result]]:
        """Yield (item, `function(item)`) as they are done. Raises `BrokenProcessPool` when a worker is killed."""
        if self._pool is None:
            yield from ((item, function(item)) for item in items)
            return
        waiting = {self._pool.submit(function, item): item for item in items}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            for future in waiting:
                future.cancel()


class CrashError(Exception):
    """A process that ended before it answered; `signal` is what killed it, 0 if it ended by itself."""

    def __init__(self, number: int):
        super().__init__(signal_name(number) if number else "it ended without an answer")
        self.signal = number


def run_alone(function: Callable[[Item], Result], item: Item) -> Result:
    """Return `function(item)`, computed in a process of its own. Raises `CrashError` when that one dies of it."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, item))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise CrashError(max(0, -(process.exitcode or 0))) from None
    process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(sender: multiprocessing.connection.Connection, function: Callable, item: object) -> None:
    _begin_worker()
    try:
        sender.send(function(item))
    except Exception as error:
        sender.send(error)


def _begin_worker() -> None:
    ignore_interrupts()  # the parent stops the pool
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent is killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
