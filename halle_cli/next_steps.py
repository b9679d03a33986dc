"""What to type after a stage is done."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

NEXT_STEP = {
    "curate": "halle train-codec --data {out} --out RUN",
    "train-codec": "halle mreq --teacher {out} --data {data} --out RUN",
    "mreq": "halle tokenize --codec {out} --data {data} --out STORE",
    "tokenize": "halle train-ar --tokens {out} --codec {codec} --out RUN, and halle train-nar --tokens {out} "
                "--codec {codec} --out RUN",
    "train-ar": "halle train-nar --tokens {tokens} --codec {codec} --out RUN, then halle pack",
    "train-nar": "halle pack --codec {codec} --ar RUN --nar {out} --out MODEL",
    "pack": "halle synth --text script.txt --prompt ref.wav --model {out}",
}
NEXT_STEP_OF_FINETUNING = {
    "tokenize": "halle train-ar --preset finetune --init {init} --tokens {out} --out RUN, and halle train-nar likewise",
    "train-ar": "halle train-nar --preset finetune --init {init} --tokens {tokens} --out RUN, then halle pack",
}


def next_step(name: str, settings: dict[str, Any], preset: str = "mini") -> str:
    """Return the command that goes on from a stage with these settings, or ''."""
    texts = NEXT_STEP
    if start := settings.get("like") or (preset == "finetune" and settings.get("init")):
        from stages.artifacts.model_hub import hub_name

        model = start if (Path(start) / "model.json").is_file() or hub_name(start) else None  # a run or a store
        texts = {**NEXT_STEP, **NEXT_STEP_OF_FINETUNING}
        settings = {**settings, "init": model or "MODEL", "codec": settings.get("codec") or model}
    return texts.get(name, "").format(**{key: _as_typed(key, value) for key, value in settings.items()})


def _as_typed(key: str, value: Any) -> str:
    """Return what follows an option on the command line; of a repeated one, its further uses too."""
    if value is None:
        return key.upper()
    return f" --{key} ".join(shlex.quote(str(item)) for item in (value if isinstance(value, list) else [value]))
