"""Let language models be trained only on a codec whose speech is still understood.

    python gate.py --data RUNS/data --codec RUNS/halle-mini-codec --out RUNS/gate

Reconstructs short test utterances of three voices and compares the word error rate with that of the recordings. Within
MOST points OUT is marked as finished; beyond them it exits with 5, and nothing after it in the queue is run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from figures import VOICES, pooled_scores, score_voice

from stages.artifacts.storage import is_complete, write_checksums, write_json
from stages.metrics.scoring import RECORDINGS

MOST = 15.0  # points of WER above the recordings
UTTERANCES = 30  # of each voice
MISSED = 5


def points_above_recordings(scores: dict) -> float:
    """Return by how much the WER of the codec exceeds that of the recordings, in points."""
    return next(row["value"] for row in scores["differences"] if (row["against"], row["metric"]) == (RECORDINGS, "wer"))


def verdict(codec: Path, points: float) -> str:
    """Say whether the codec may be used, and if not what to do."""
    found = f"`{codec}` adds {points:+.1f} points of word error rate to the recordings'"
    if points <= MOST:
        return f"gate: {found}, at most {MOST:g} are allowed"
    return (f"error: expected a codec that adds at most {MOST:g} points; {found}\n\n"
            "hint: train it longer (--steps), and look at its report.html; language models would learn noise")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "codec", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=UTTERANCES, help="utterances a voice")
    options = parser.parse_args()
    if is_complete(options.out):
        return 0
    folders = [score_voice(options.data, [options.codec], voice, options.out, ("wer",), options.limit)
               for voice in VOICES]
    scores = pooled_scores(folders, ("wer",))
    points = points_above_recordings(scores)
    write_json(options.out / "gate.json", {"points": points, "most": MOST, "scores": scores})
    print(verdict(options.codec, points), file=sys.stdout if points <= MOST else sys.stderr)
    if points > MOST:
        return MISSED
    write_checksums(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
