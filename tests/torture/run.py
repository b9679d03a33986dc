"""Torture every stage and print one table: figure, asked, measured.

    python tests/torture/run.py --kills 20 --out runs/torture           # about an hour on two cores
    python tests/torture/run.py --kills 3 --only R1,R7 --stages curate,train-ar
    python tests/torture/run.py --kills 200 --out runs/torture-long     # the long form: 1,600 kills

The table is written after every figure. Run again with the same numbers, it goes on with what is missing; figures that
failed are measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent), str(HERE), str(HERE.parent / "curation")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="a stage; other counts follow from it")
    parser.add_argument("--only", default="", help="figures, such as R1,R7")
    parser.add_argument("--stages", default="", help="stages, such as curate,train-ar; by default all eight")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/torture"))
    asked = parser.parse_args()

    import torch
    from no_network import blocked_network
    from tiny_chain import make_chain, make_recordings
    from torture_figures import FIGURES, Bench, read_rows, run_figure, table

    torch.set_num_threads(1)  # forked children must find no threads at work
    out = asked.out
    out.mkdir(parents=True, exist_ok=True)
    results = out / f"figures-{asked.kills}-{asked.seed}-{asked.stages.replace(',', '-') or 'all'}.jsonl"
    done = {row["figure"]: row for row in read_rows(results) if not row["problems"]}
    wanted = [figure for figure in FIGURES if not asked.only or figure.name in asked.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="halle-torture-") as folder, blocked_network():
        work = Path(folder)
        chain = make_chain(make_recordings(work / "recordings"), work / "chain")
        bench = Bench(chain, work, asked.kills, asked.seed, tuple(filter(None, asked.stages.split(","))))
        for figure in wanted:
            if figure.name in done:
                continue
            row = run_figure(figure, bench)
            done[figure.name] = row
            rows = [done[other.name] for other in FIGURES if other.name in done]
            results.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
            (out / "table.md").write_text(table(rows), encoding="utf-8")
            told = f"{row['figure']}: {row['measured']} ({row['seconds']:.0f} s)"
            print(told, *row["problems"], sep="\n  ", flush=True)
    print(table([done[figure.name] for figure in wanted]))
    sys.exit(any(done[figure.name]["problems"] for figure in wanted))


if __name__ == "__main__":
    main()
