"""A journal of JSON lines that several processes fill, each in a part of its own, until the parts become one file.

```
items.jsonl          what is done; with one process, the only file
items.part-1.jsonl   what process 1 has added: the same rows, each with its place among the work of all
```
"""

from __future__ import annotations

from pathlib import Path

from stages.artifacts import storage
from stages.artifacts.storage import canonical_json, read_journal, write_jsonl
from stages.parallel import ALONE, Share


class Journal:
    """The rows of `path` and of its parts. A killed process leaves its part, which counts as much."""

    def __init__(self, path: Path, share: Share = ALONE):
        self.path, self.share = path, share

    def rows(self) -> list[dict]:
        """Return all rows; those of parts come last, in the order in which one process would have added them."""
        return [*read_journal(self.path, mend=False), *self._rows_of_parts()]

    def add(self, row: dict) -> None:
        """Add a row about the item that the process's share is at."""
        if self.share.world_size == 1:
            storage.append_jsonl(self.path, row)
        else:
            part = self.path.with_suffix(f".part-{self.share.rank}{self.path.suffix}")
            storage.append_jsonl(part, {"place": self.share.place, "row": row})

    def join(self) -> None:
        """Move the rows of all parts into the one file, and mend a torn last line; no other process may be adding.

        What two processes added alike is kept once. Killed halfway, it does the same again.
        """
        known, parts = read_journal(self.path), self._parts()
        if not parts:
            return
        added = {canonical_json(row): row for row in self._rows_of_parts()}
        kept = [row for row in known if canonical_json(row) not in added]
        write_jsonl(self.path, [*kept, *added.values()])
        self._remove(parts)

    def forget(self) -> None:
        """Delete all rows."""
        self._remove([self.path, *self._parts()])

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.part-*{self.path.suffix}"))

    def _rows_of_parts(self) -> list[dict]:
        lines = [line for part in self._parts() for line in read_journal(part, mend=False)]
        return [line["row"] for line in sorted(lines, key=lambda line: line["place"])]

    @staticmethod
    def _remove(files: list[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)
