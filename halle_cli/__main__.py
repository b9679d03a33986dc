"""`python -m halle_cli` and the `halle` script."""

from __future__ import annotations

import os

# GNU's OpenMP, which torch has on Linux, looks for work 300,000 times before a thread sleeps. Beside another busy
# program a step of two threads then takes five times as long as with these, alone as long (benchmarks/threads.py).
_SPINS = "10000"


def main() -> None:
    _spin_shortly()  # before torch is loaded, which reads it then
    from halle_cli.app import app

    app()


def _spin_shortly() -> None:
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


if __name__ == "__main__":
    main()
