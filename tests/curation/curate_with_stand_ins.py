"""`halle curate` with the steps of stand_in_steps.py, in one of several processes: settings are in the file given."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import stand_in_steps

from stages import curate
from stages.config.stage_configs import CurateConfig
from stages.curation import chain
from stages.curation.steps import Step


def check(recording, inputs, config):
    print(f"rank {os.environ['RANK']} decoded {recording.id}", flush=True)
    return first.run(recording, inputs, config)


if __name__ == "__main__":
    first = stand_in_steps.STEPS[0]
    chain.STEPS = (Step("check", first.needs, first.settings, check), *stand_in_steps.STEPS[1:])
    curate.run(CurateConfig(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
