"""The border to the terminal: results, errors, progress, logs. The only place that ends the process."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from stages import progress
from stages.errors import HalleError, InterruptedRunError, PeerError, is_out_of_memory

PLAIN_SECONDS = 30.0


def is_first_process() -> bool:
    """Tell whether this is the first process of a run, or the only one."""
    return os.environ.get("RANK", "0") == "0"


class Console:
    """Results on stdout, everything else on stderr; of a distributed run the main process speaks, others of errors."""

    def __init__(self, verbosity: int = 0, as_json: bool = False, debug: bool = False):
        self.as_json, self.debug, self.verbosity = as_json, debug, verbosity
        self.is_main = is_first_process()

    def run(self, work: Callable[[], dict[str, Any]], next_step: str | None = None) -> None:
        """Do the work, show its result and what comes next, and end the process with the right code."""
        listener = self._start_progress()
        self._start_logs()
        try:
            result = work()
            code = 0
        except HalleError as error:
            code, result = error.exit_code, None
            self._fail(error)
        except KeyboardInterrupt:
            code, result = 130, None
            self._say("error: interrupted")
        except OSError as error:
            code, result = self._explain_storage(error), None
        except Exception as error:
            code, result = self._explain(error), None
        finally:
            if listener is not None:
                progress.unlisten(listener)
                listener.close()
        if result is not None and self.is_main:
            self._show(result)
            if next_step and not self.as_json and self.verbosity >= 0:
                self._say(f"\nnext: {next_step}")
        sys.exit(code)

    def _start_progress(self) -> ProgressLines | None:
        if not self.is_main or self.verbosity < 0:
            return None
        listener = ProgressBar() if sys.stderr.isatty() else ProgressLines()
        progress.listen(listener)
        return listener

    def _start_logs(self) -> None:
        level = {-1: logging.ERROR, 0: logging.INFO}.get(self.verbosity, logging.DEBUG)
        logger = logging.getLogger("halle")
        logger.setLevel(logging.DEBUG if self.verbosity > 0 else logging.INFO)
        handler = logging.StreamHandler(sys.stderr)
        handler.setLevel(level if self.is_main else logging.ERROR)
        handler.setFormatter(_LogFormat())
        logger.handlers = [handler]
        logger.propagate = False

    def _explain_storage(self, error: OSError) -> int:
        """Say of a full or broken disk what it is, wherever it showed."""
        from stages.artifacts.storage import storage_error

        found = storage_error(error)
        if found is None:
            return self._explain(error)
        self._fail(found)
        return found.exit_code

    def _explain(self, error: Exception) -> int:
        """Say what an error means that no stage expected, and return the exit code."""
        if is_out_of_memory(error):
            self._say("error: out of memory\n\nhint: lower the batch size, or choose a smaller preset")
            return 4
        self._say("error: this is a bug in halle; please report it with the lines below\n")
        self._say(traceback.format_exc())
        return 1

    def _fail(self, error: HalleError) -> None:
        if self.as_json and self.is_main:
            several = {"problems": error.problems} if error.problems else {}
            print(json.dumps({"error": error.message, "hint": error.hint, "exit_code": error.exit_code, **several}))
        word = "" if isinstance(error, InterruptedRunError) else "error: "
        if self.is_main or not isinstance(error, (PeerError, InterruptedRunError)):  # else the main process says it
            self._say(f"{word}{error.message}" + (f"\n\nhint: {error.hint}" if error.hint else ""))
        if self.debug:
            self._say(traceback.format_exc())

    def _say(self, text: str) -> None:
        speaker = "" if self.is_main else f"process {os.environ['RANK']}: "
        print(printable(speaker + text), file=sys.stderr, flush=True)

    def _show(self, result: dict[str, Any]) -> None:
        if self.as_json:
            print(json.dumps(result, ensure_ascii=False, indent=2))
        else:
            print(printable("\n".join(_lines(result))), flush=True)


def printable(text: str) -> str:
    """Keep file names and texts of strangers from steering the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _lines(result: dict[str, Any], indent: str = "") -> list[str]:
    width = max((len(key) for key in result), default=0)
    lines = []
    for key, value in result.items():
        rows = _rows(value)
        if rows:
            lines += [f"{indent}{key}", *(f"{indent}  {line}" for line in _table(rows))]
        elif isinstance(value, dict) and value:
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
            lines += [f"{indent}{key}", *(f"{indent}  {_in_words(item)}" for item in value)]
        else:
            lines.append(f"{indent}{key:<{width}}  {_in_words(value)}")
    return lines


def _rows(value: Any) -> list[dict[str, Any]]:
    """Return the rows of what makes a table: dicts of the same three keys or more, in a list or by name."""
    if isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()):
        value = [{"": name, **item} for name, item in value.items()]
    if not (isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) for item in value)):
        return []
    nested = any(isinstance(cell, (dict, list, tuple)) for row in value for cell in row.values())
    return [] if nested or len({tuple(row) for row in value}) > 1 or len(value[0]) < 3 else list(value)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Return aligned lines: the names of the columns, then a line for each row; numbers stand to the right."""
    cells = [list(rows[0]), *([_in_words(cell) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_number = [all(cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool)) for cell in column)
                 for column in zip(*(row.values() for row in rows), strict=True)]
    return ["  ".join(cell.rjust(width) if number else cell.ljust(width)
                      for cell, width, number in zip(line, widths, is_number, strict=True)).rstrip() for line in cells]


def _in_words(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{key}={_in_words(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        words = [(_in_words(item), isinstance(item, (list, tuple))) for item in value]
        return ", ".join(f"({word})" if nested else word for word, nested in words)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class _LogFormat(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = printable(record.getMessage())
        return message if record.levelno == logging.INFO else f"{record.levelname.lower()}: {message}"


def duration_text(seconds: float | None) -> str:
    """Write seconds as 42s, 3m05s or 2h07m."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class ProgressLines:
    """One plain line every 30 seconds, for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, state: progress.Progress) -> None:
        now = time.monotonic()
        if state.finished or now - self._last < PLAIN_SECONDS:
            return
        self._last = now
        print(printable(f"{state.what}: {state.done}/{state.total}, {duration_text(state.seconds)} gone, "
                        f"{duration_text(state.seconds_left)} left  {state.note}"), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is held open."""


class ProgressBar:
    """A line that redraws itself, for terminals."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        # markup is off everywhere: names and notes may hold brackets
        self._rich = RichProgress(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                                  TimeElapsedColumn(), TimeRemainingColumn(),
                                  TextColumn("{task.fields[note]}", markup=False), transient=True)
        self._rich.console.file = sys.stderr
        self._rich.start()
        self._tasks: dict[int, Any] = {}

    def __call__(self, state: progress.Progress) -> None:
        key = id(state)
        if key not in self._tasks:
            self._tasks[key] = self._rich.add_task(printable(state.what), total=state.total, completed=state.start,
                                                   note="")
        task = self._tasks[key]
        self._rich.update(task, completed=state.done, note=printable(state.note))
        if state.finished:
            self._rich.remove_task(self._tasks.pop(key))

    def close(self) -> None:
        self._rich.stop()
