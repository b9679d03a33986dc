"""Run stages one after the other in this process, as `torchrun stages_in_turn.py WORK.json` does in each of several.

Starting a process takes longer than a tiny stage. WORK.json holds a list of [module, settings]; each stage's result
goes to `rank<N>-<index>.json` beside it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import torch

from stages.config.resolve import CONFIG_OF_STAGE


def main(work: Path) -> None:
    torch.set_num_threads(1)
    for index, (stage, module, settings) in enumerate(json.loads(work.read_text(encoding="utf-8"))):
        config = CONFIG_OF_STAGE[stage].model_validate(settings)
        result = importlib.import_module(f"stages.{module}").run(config)
        target = work.with_name(f"rank{os.environ['RANK']}-{index}.json")
        target.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
