"""Score the mini model and its VALL-E counterpart, which are to be spoken first, and say which figures they reach.

    python results.py --seen RUNS/results/seen --unseen RUNS/results/unseen [--alone RUNS/results/halle-alone ...]
        [--spoken RUNS/results/valle-seen] [--continuation RUNS/results/continuation] [--curves NAME=RUN ...]
        --out RUNS/results

The folders are of `halle eval`, with a system `HALL-E-mini` and perhaps one `VALL-E-mini`. They spoke many texts at
once: how long one takes is told by the folders after --alone, of some of the seen voices' texts; which texts a system
ended whose audio was given to --seen, by those after --spoken, where it spoke. Prints the tables of
RESULTS.md and writes them, with all that they rest on and plots, as OUT/results.{md,json} and OUT/*.svg.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import Figure

from stages.artifacts.storage import read_json, read_jsonl, write_json, write_text
from stages.audio.io import read_audio
from stages.metrics.duration_classes import class_of
from stages.metrics.languages import normalise
from stages.reports.history import read_history
from stages.speech.speaker import load_embedder, similarity

RECORDINGS, HALLE, VALLE = "recordings", "HALL-E-mini", "VALL-E-mini"
CLASSES = ("4-10", "10-30", "30-60", "60-90")
COLUMNS = {"wer": ("WER, %", 1), "speaker_similarity": ("SIM", 3), "duration_distance": ("WD, s", 2),
           "dnsmos": ("DNSMOS", 2), "real_time_factor": ("RTF", 2)}
COLOURS = {RECORDINGS: "C0", VALLE: "C1", HALLE: "C2"}
RATE = 16_000
RESAMPLES = 2000


@dataclass(frozen=True)
class Evaluation:
    """A folder of `halle eval`, read."""

    folder: Path
    scores: dict
    rows: list[dict]

    @classmethod
    def read(cls, folder: Path, alone: Sequence[Path] = (), spoken: Sequence[Path] = ()) -> Evaluation:
        """Read `folder`; in the folders `alone` systems spoke one text at a time, in `spoken` those it has audio of."""
        scores = read_json(folder / "scores.json")
        for timed in alone:
            for name, systems in read_json(timed / "scores.json")["classes"].items():
                for system in systems.keys() & scores["classes"].get(name, {}).keys() - {RECORDINGS}:
                    scores["classes"][name][system]["real_time_factor"] = systems[system]["real_time_factor"]
        rows = read_jsonl(folder / "items.jsonl")
        by_id = {row["id"]: row["systems"] for row in rows}
        for row in [row for where in spoken for row in read_jsonl(where / "items.jsonl")]:
            for system in row["systems"].keys() & by_id.get(row["id"], {}).keys() - {RECORDINGS}:
                by_id[row["id"]][system]["finished"] = row["systems"][system]["finished"]
        return cls(folder, scores, rows)

    @property
    def systems(self) -> list[str]:
        return [name for name in (RECORDINGS, VALLE, HALLE) if name in self.scores["systems"]]

    def of_class(self, *names: str) -> list[dict]:
        return [row for row in self.rows if not row["refused"] and class_of(row["reference_seconds"]) in names]


# ---- tables in the paper's form


def class_table(evaluation: Evaluation) -> str:
    """Return a line for every class of duration and system: values, with 95 % intervals of the WER."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = ["| seconds | system | texts | " + " | ".join(titles) + " |", "|---|---|---|" + "---|" * len(titles)]
    for name in CLASSES:
        systems = evaluation.scores["classes"].get(name, {})
        for system in filter(systems.__contains__, evaluation.systems):
            scores = systems[system]
            cells = [cell(scores.get(metric), digits, with_interval=metric == "wer")
                     for metric, (_, digits) in COLUMNS.items()]
            lines.append(f"| {name} | {system} | {scores['wer']['texts']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(score: dict | None, digits: int, with_interval: bool = False) -> str:
    if score is None or score["value"] is None:
        return ""
    text = f"{score['value']:.{digits}f}"
    if with_interval and score["interval"]:
        low, high = score["interval"]
        text += f" ({low:.{digits}f} to {high:.{digits}f})"
    return text


def continuation_table(across: Evaluation, continuation: Evaluation) -> str:
    """Return a line for every class: WER of the texts that were spoken in both settings, and of the recordings.

    A continuation begins with the first seconds of the recording; only what comes after them is scored.
    """
    twins = {row["id"]: row for row in continuation.of_class(*CLASSES)}
    lines = ["| seconds | texts | recordings | across sentences | continuation |", "|---|---|---|---|---|"]
    for name in CLASSES:
        rows = [row for row in across.of_class(name) if row["id"] in twins]
        if rows:
            wers = (corpus_wer(rows, RECORDINGS), corpus_wer(rows, HALLE),
                    corpus_wer([twins[row["id"]] for row in rows], HALLE))
            lines.append(f"| {name} | {len(rows)} | " + " | ".join(f"{wer:.1f}" for wer in wers) + " |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Ending:
    """How the speech of a text ends."""

    ended: bool  # by the model
    looped: bool  # a phrase of four words is heard more often than it is written, and more than once
    heard: bool  # two of the text's last five words are among the last ten that were recognised

    @classmethod
    def of(cls, text: str, entry: dict) -> Ending:
        script, heard = (normalise(words, "en").split() for words in (text, entry["heard"] or ""))
        written = Counter(four_grams(script))
        looped = any(count > max(1, written[gram]) for gram, count in Counter(four_grams(heard)).items())
        return cls(bool(entry["finished"]), looped, sum(word in heard[-10:] for word in script[-5:]) >= 2)

    @property
    def finished(self) -> bool:
        return self.ended and not self.looped and self.heard


def four_grams(words: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(4)), strict=False))


def endings_table(evaluation: Evaluation) -> str:
    """Return a line for every class and system that spoke: how many texts are finished, and what others lack."""
    lines = ["| seconds | system | texts | finished | not ended | a phrase in a loop | end not heard |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in CLASSES:
        rows = evaluation.of_class(name)
        for system in evaluation.systems[1:] if rows else ():
            endings = [Ending.of(row["text"], row["systems"][system]) for row in rows]
            counts = (len(rows), sum(ending.finished for ending in endings),
                      sum(not ending.ended for ending in endings), sum(ending.looped for ending in endings),
                      sum(not ending.heard for ending in endings))  # fmt: skip
            lines.append(f"| {name} | {system} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines) + "\n"


# ---- figures


def corpus_wer(rows: Sequence[dict], system: str) -> float:
    """Return the errors of all words of all rows, in per cent; what is missing counts as wrong (halle eval does so)."""
    found = [row["systems"][system]["metrics"]["wer"] for row in rows]
    errors = sum(entry["substitutions"] + entry["insertions"] + entry["deletions"] for entry in found)
    return 100 * errors / sum(entry["words"] for entry in found)


def wer_near_recordings(evaluation: Evaluation) -> Figure:
    rows = evaluation.of_class("4-10", "10-30")
    truth, ours = corpus_wer(rows, RECORDINGS), corpus_wer(rows, HALLE)
    most = truth + min(max(5.0, truth), 15.0)
    return Figure("WER, 4-30 s, seen voices", f"at most {most:.1f} % (recordings {truth:.1f} %)", f"{ours:.1f} %",
                  ours <= most)


def wer_long_over_short(evaluation: Evaluation) -> Figure:
    long, short = (corpus_wer(evaluation.of_class(name), HALLE) for name in ("60-90", "10-30"))
    return Figure("WER at 60-90 s over WER at 10-30 s", "at most 1.25", f"{long / short:.2f} ({long:.1f} and "
                  f"{short:.1f} %)", long / short <= 1.25)


def valle_over_halle(evaluation: Evaluation) -> list[Figure]:
    if VALLE not in evaluation.systems:
        return []
    rows = evaluation.of_class("60-90")
    theirs, ours = corpus_wer(rows, VALLE), corpus_wer(rows, HALLE)
    return [Figure("WER of VALL-E-mini over HALL-E-mini at 60-90 s", "above 1.5",
                   f"{theirs / ours:.2f} ({theirs:.1f} and {ours:.1f} %)", theirs / ours > 1.5)]


def finished_texts(evaluation: Evaluation) -> Figure:
    rows = evaluation.of_class("60-90")
    finished = sum(Ending.of(row["text"], row["systems"][HALLE]).finished for row in rows)
    return Figure("texts finished at 60-90 s", "at least 95 %", f"{finished} of {len(rows)}",
                  finished >= 0.95 * len(rows))


def voice_figures(evaluation: Evaluation) -> list[Figure]:
    """Return whether speech in unseen voices resembles its own prompt more than other unseen speakers' prompts."""
    rows = [row for row in evaluation.of_class(*CLASSES) if row["systems"][HALLE]["audio"]]
    embedder = load_embedder("resemblyzer", "cpu")

    def vector(path: str) -> np.ndarray:
        return embedder.embed(read_audio(evaluation.folder / path, RATE), RATE)

    prompts: dict[str, list[np.ndarray]] = {}
    for row in rows:
        prompts.setdefault(row["speaker"], []).append(vector(row["prompt_audio"]))
    centres = {speaker: np.mean(found, axis=0) for speaker, found in prompts.items()}
    margins, right = [], 0
    for row in rows:
        made = vector(row["systems"][HALLE]["audio"])
        own = similarity(made, vector(row["prompt_audio"]))
        others = {speaker: similarity(made, centre) for speaker, centre in centres.items() if speaker != row["speaker"]}
        margins.append(own - np.mean(list(others.values())))
        right += own > max(others.values())
    low, high = bootstrap(np.array(margins))
    share, chance = right / len(rows), 1 / len(centres)
    return [
        Figure("similarity to its own prompt less that to other unseen speakers'", "95 % interval above 0",
               f"{np.mean(margins):+.3f} ({low:+.3f} to {high:+.3f}, {len(rows)} texts, resemblyzer)", low > 0),
        Figure(f"its speaker is the nearest among {len(centres)}", "at least 3 times chance",
               f"{share:.0%}, {share / chance:.1f} times", share >= 3 * chance),
    ]  # fmt: skip


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    means = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]).tolist())


# ---- plots


def plot_errors(evaluation: Evaluation, out: Path) -> None:
    """Draw WER against duration, a line a system, with its intervals."""
    pyplot = quiet_pyplot()
    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    for system in evaluation.systems:
        found = [(name, evaluation.scores["classes"][name][system]["wer"]) for name in CLASSES
                 if system in evaluation.scores["classes"].get(name, {})]
        values = np.array([score["value"] for _, score in found])
        spread = np.abs(np.array([score["interval"] for _, score in found]).T - values)
        axes.errorbar([name for name, _ in found], values, yerr=spread, marker="o", capsize=3, label=system,
                      color=COLOURS[system])
    axes.set(xlabel="seconds of the recording", ylabel="WER, %", ylim=(0, None), title="Word errors by duration")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / "wer-by-duration.svg")


def plot_durations(evaluation: Evaluation, out: Path) -> None:
    """Draw how long every text took, against its recording."""
    pyplot = quiet_pyplot()
    figure, axes = pyplot.subplots(figsize=(4.6, 4.2))
    for system in evaluation.systems[1:]:
        pairs = [(row["reference_seconds"], row["systems"][system]["seconds"]) for row in evaluation.of_class(*CLASSES)
                 if row["systems"][system]["seconds"]]
        axes.scatter(*zip(*pairs, strict=True), s=10, label=system, color=COLOURS[system])
    axes.plot([0, 90], [0, 90], color="grey", linewidth=1)
    axes.set(xlabel="seconds of the recording", ylabel="seconds of the speech", title="Durations")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / "durations.svg")


def plot_training(runs: dict[str, Path], out: Path) -> None:
    """Draw the validation loss of every run against its steps."""
    pyplot = quiet_pyplot()
    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    for name, run in runs.items():
        losses = read_history(run)["validation.loss"]
        axes.plot(losses.steps, losses.values, label=name)
    axes.set(xlabel="step", ylabel="validation loss, nats a code", title="Training")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / "training.svg")


def quiet_pyplot():
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "halle"  # the same file from the same numbers
    from matplotlib import pyplot

    return pyplot


def as_markdown(figures: Sequence[Figure], seen: Evaluation, unseen: Evaluation | None,
                continuation: Evaluation | None) -> str:  # fmt: skip
    """Return all tables."""
    lines = ["| figure | wanted | measured | |", "|---|---|---|---|"]
    lines += [f"| {f.name} | {f.wanted} | {f.value} | {'reached' if f.reached else 'missed'} |" for f in figures]
    parts = ["\n".join(lines) + "\n", "Seen voices\n", class_table(seen), endings_table(seen)]
    parts += ["Unseen voices\n", class_table(unseen), endings_table(unseen)] if unseen else []
    parts += ["WER, %, by setting\n", continuation_table(seen, continuation)] if continuation else []
    return "\n".join(parts)


def named_run(text: str) -> tuple[str, Path]:
    name, _, run = text.rpartition("=")
    return name, Path(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seen", type=Path, required=True)
    parser.add_argument("--unseen", type=Path)
    parser.add_argument("--alone", type=Path, nargs="*", default=[], help="where systems spoke one text at a time")
    parser.add_argument("--spoken", type=Path, nargs="*", default=[], help="where systems spoke whose audio is judged")
    parser.add_argument("--continuation", type=Path, help="the same texts as some of --seen in that setting")
    parser.add_argument("--curves", type=named_run, nargs="*", default=[], metavar="NAME=RUN", help="runs to be drawn")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    seen = Evaluation.read(options.seen, options.alone, options.spoken)
    unseen = options.unseen and Evaluation.read(options.unseen, spoken=options.spoken)
    figures = [wer_near_recordings(seen), wer_long_over_short(seen), finished_texts(seen), *valle_over_halle(seen),
               *(voice_figures(unseen) if unseen else [])]
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "results.json", {"figures": [vars(figure) for figure in figures]})
    continuation = options.continuation and Evaluation.read(options.continuation)
    write_text(options.out / "results.md", as_markdown(figures, seen, unseen, continuation))
    plot_errors(seen, options.out)
    plot_durations(seen, options.out)
    if options.curves:
        plot_training(dict(options.curves), options.out)
    print((options.out / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
