"""Rebuild the audio of demo-90s: every text of its manifest, read by the flite voice that the manifest names.

    python make_demo_90s.py [--out FOLDER]

Needs flite, and a checkout of halle, whose examples/speech encodes the audio. Run twice with the same flite,
libsndfile and libopus it writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SET = HERE / "demo-90s"
sys.path.insert(0, str(HERE.parents[2] / "examples" / "speech"))


def make_demo(out: Path) -> float:
    """Write audio and manifest into `out`; return the seconds of speech."""
    from make_speech import write_reading

    rows = [json.loads(line) for line in (SET / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["duration"] = round(write_reading(row["text"], row["speaker"], out / row["audio"]), 4)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "manifest.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    return sum(row["duration"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=SET, help="folder to write (default: the set itself)")
    options = parser.parse_args()
    if shutil.which("flite") is None:
        sys.exit("error: `flite` is not installed\n\nhint: apt install flite, or brew install flite")
    print(f"{make_demo(options.out) / 60:.1f} minutes of speech in {options.out}")


if __name__ == "__main__":
    main()
