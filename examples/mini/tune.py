"""Find how a small model is best sampled: the same trials for every system, on texts that results are not given for.

    python tune.py --set RUNS/tuning-data --model RUNS/HALL-E-mini --out RUNS/tuning-halle

Every trial is a `halle eval` in a folder of its own below OUT: what is finished is not done again. Prints a table, and
the options with which `halle pack` writes the best settings into the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stages import evaluate
from stages.artifacts.storage import read_json, write_text
from stages.config.resolve import resolve
from stages.config.sampling import setting_text

NAMES = ("temperature", "guidance", "nar_guidance", "nar_mean", "mean_temperature")
TRIALS = ((1.0, 1.0, 1.0, False, 0.0), (0.5, 3.0, 3.0, False, 0.0), (0.5, 3.0, 3.0, True, 0.0),
          (0.5, 3.0, 3.0, True, 1.0), (0.5, 3.0, 3.0, True, 1.5), (0.5, 3.0, 3.0, True, 2.0),
          (0.5, 3.0, 2.0, True, 1.5), (0.5, 2.0, 2.0, True, 1.0), (0.3, 3.0, 3.0, True, 1.5),
          (0.7, 3.0, 3.0, True, 1.5), (0.5, 4.0, 3.0, True, 2.0), (0.7, 5.0, 3.0, True, 2.0))


def settings_of(trial: tuple[float, ...]) -> list[str]:
    return [f"{name}={setting_text(value)}" for name, value in zip(NAMES, trial, strict=True)]


def word_errors(options: argparse.Namespace, trial: tuple[float, ...]) -> dict:
    """Speak and hear all texts in one setting; return the score: value, interval."""
    settings = settings_of(trial)
    out = options.out / "-".join(settings)
    config = resolve("eval", overrides=("batch_size=8", *(f"sampling.{text}" for text in settings)),
                     options={"set": options.set, "model": options.model, "out": out.as_posix(), "metrics": ("wer",)})
    evaluate.run(config)
    systems = read_json(out / "scores.json")["systems"]
    return next(system["scores"]["wer"] for name, system in systems.items() if name != "recordings")


def as_markdown(found: dict[tuple[float, ...], dict]) -> str:
    lines = ["| " + " | ".join(NAMES) + " | WER, % |", "|---" * (len(NAMES) + 1) + "|"]
    for trial, score in found.items():
        low, high = score["interval"]
        cells = [setting_text(value) for value in trial]
        lines.append("| " + " | ".join(cells) + f" | {score['value']:.1f} ({low:.1f} to {high:.1f}) |")
    return "\n".join(lines) + "\n"


def best_of(found: dict[tuple[float, ...], dict]) -> tuple[float, ...]:
    return min(found, key=lambda trial: found[trial]["value"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", required=True, help="what `make_corpus.py --tuning` made, curated")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {trial: word_errors(options, trial) for trial in TRIALS}
    table = as_markdown(found)
    write_text(options.out / "tuning.md", table)
    print(table)
    print("best:", " ".join(f"--sampling {text}" for text in settings_of(best_of(found))))


if __name__ == "__main__":
    main()
