"""One of two processes of `train-ar`, of which the first cannot save: python save_fails.py STORE OUT."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(store: str, out: str) -> None:
    import safetensors
    import torch
    from tiny_chain import tiny_config

    from halle_cli.console import Console
    from stages import train_ar
    from stages.artifacts import checkpoint

    torch.set_num_threads(1)

    def full(*arguments, **options):
        raise safetensors.SafetensorError(f"I/O error: no space (os error {errno.ENOSPC})")

    checkpoint.save_file = full
    config = tiny_config("train-ar", "training.save_every=1", tokens=store, out=out)
    Console().run(lambda: train_ar.run(config))


if __name__ == "__main__":
    main(*sys.argv[1:])
