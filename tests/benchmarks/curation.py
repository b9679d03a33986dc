"""How far `halle curate` is from the truth, on long recordings of which everything is known.

    python tests/benchmarks/curation.py --data DATA --out runs/curation

builds the recordings (long_recordings.py) where they are not there yet, curates them, and prints one table. Steps that
are done are not done again; `--steps check,vad,diarize` goes so far and measures what there is. An utterance holds two
speakers when another one talks in it for more than 0.25 s, a cut is inside a word when it is more than 50 ms from where
the word begins and ends. Diarization is scored without a collar and with 0.25 s before and after every border, overlap
counted (pyannote.metrics calls that collar 0.5). A measurement, not a test: nothing here can fail.

The diarizer's settings were chosen on the recordings of seed 0: `--seed 1` mixes others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jiwer
from curation_scores import (
    DiarizationError,
    cuts_inside_words,
    diarization_error,
    num_speakers_in,
    unaccounted_seconds,
)
from long_recordings import DONE, RATE, build, plain

from stages import curate
from stages.artifacts import storage
from stages.audio.io import read_audio
from stages.config.stage_configs import CurateConfig
from stages.speech.spans import Span, Turn, total_seconds
from stages.speech.transcriber import load_transcriber

STEPS = ("check", "gate", "fingerprint", "vad", "diarize", "transcribe", "cut")
COLLAR = 0.25
HEARD = "clips-heard.json"
LEAST_SPEED = {"gate": 50, "vad": 50}  # hours of audio an hour


@dataclass(frozen=True)
class Truth:
    """What is known of a recording."""

    name: str
    seconds: float
    turns: list[Turn]
    clips: list[dict]

    @property
    def kind(self) -> str:
        return self.name.split("-")[0]

    @cached_property
    def words(self) -> list[tuple[str, Span]]:
        return [(word["text"], Span(word["start"], word["end"])) for clip in self.clips for word in clip["words"]]

    @property
    def num_speakers(self) -> int:
        return len({turn.speaker for turn in self.turns})


def read_truth(folder: Path, name: str) -> Truth:
    known = storage.read_json(folder / f"{name}.json")
    fields = [line.split() for line in (folder / f"{name}.rttm").read_text(encoding="utf-8").splitlines()]
    turns = [Turn(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in fields]
    return Truth(name, known["seconds"], turns, known["clips"])


@dataclass
class Scores:
    """Figures of several recordings, added up."""

    seconds: float = 0.0
    recordings: int = 0
    right_count: int = 0  # of speakers
    exact: DiarizationError = field(default_factory=DiarizationError)
    lenient: DiarizationError = field(default_factory=DiarizationError)  # with a collar
    utterances: int = 0
    two_speakers: int = 0
    cuts_in_words: int = 0
    kept_seconds: float = 0.0
    unaccounted: float = 0.0
    said: list[str] = field(default_factory=list)  # in the utterances
    written: list[str] = field(default_factory=list)

    def add_turns(self, truth: Truth, turns: Sequence[Turn]) -> None:
        self.recordings += 1
        self.seconds += truth.seconds
        self.right_count += len({turn.speaker for turn in turns}) == truth.num_speakers
        self.exact += diarization_error(truth.turns, turns)
        self.lenient += diarization_error(truth.turns, turns, COLLAR)

    def add_utterances(self, truth: Truth, utterances: Sequence[dict]) -> None:
        """Take in utterances, kept ones of the recording: {start, end, text}."""
        spans = [Span(one["start"], one["end"]) for one in utterances]
        self.utterances += len(spans)
        self.kept_seconds += total_seconds(spans)
        self.two_speakers += sum(num_speakers_in(span, truth.turns) > 1 for span in spans)
        self.cuts_in_words += cuts_inside_words(spans, [word for _, word in truth.words])
        for one, span in zip(utterances, spans, strict=True):
            self.said.append(" ".join(text for text, word in truth.words if _inside(word, span)))
            self.written.append(plain(one["text"]))

    @property
    def word_error_rate(self) -> float:
        return word_error_rate(self.said, self.written)


def _inside(word: Span, span: Span) -> bool:
    return span.start <= (word.start + word.end) / 2 < span.end


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Return errors over the words that were said; words where nothing was said count too."""
    pairs = [(one, other) for one, other in zip(said, heard, strict=True) if one]
    invented = sum(len(other.split()) for one, other in zip(said, heard, strict=True) if not one)
    found = jiwer.process_words([one for one, _ in pairs], [other for _, other in pairs])
    errors = found.substitutions + found.deletions + found.insertions + invented
    return errors / (found.hits + found.substitutions + found.deletions)


# ---- what was found


def found_in(out: Path, step: str, name: str) -> dict | None:
    path = out / "work" / step / f"{name}.json"
    return storage.read_json(path) if path.is_file() else None


def kept_utterances(truth: Truth, out: Path) -> list[dict] | None:
    """Return the utterances in the manifest, those of step `cut` before there is one, None before that.

    Each is {start, end, text}, in seconds of the recording.
    """
    if (out / "manifest.jsonl").is_file():
        rows = map(json.loads, (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
        return [{"start": row["source_start"], "end": row["source_start"] + row["duration"], "text": row["text"]}
                for row in rows if Path(row["source"]).stem == truth.name]
    cut = found_in(out, "cut", truth.name)
    return None if cut is None else cut["utterances"]


def measure(truths: Iterable[Truth], out: Path) -> dict[str, Scores]:
    """Compare all results in a curated folder with the truth; return kind -> scores."""
    scores: dict[str, Scores] = {}
    for truth in truths:
        own = scores.setdefault(truth.kind, Scores())
        diarized, cut = found_in(out, "diarize", truth.name), found_in(out, "cut", truth.name)
        own.add_turns(truth, [Turn(*turn) for turn in (diarized or {}).get("turns", [])])
        if cut is not None:
            pieces = [Span(piece["start"], piece["end"]) for piece in [*cut["utterances"], *cut["dropped"]]]
            own.unaccounted += unaccounted_seconds(pieces, truth.seconds)
        own.add_utterances(truth, kept_utterances(truth, out) or [])
    return scores


def throughput(truths: Sequence[Truth], out: Path) -> dict[str, tuple[float, float]]:
    """Return step -> hours of audio a process gets done an hour, and in an hour of a processor's time.

    The second is what it would be if nothing else ran. A process's first recording, which loads the model, is left out.
    """
    speeds = {}
    for step in STEPS:
        found = [result for truth in truths if (result := found_in(out, step, truth.name))]
        measured = [result for result in found if not result["first"]] or found
        if measured:
            seconds = sum(one["seconds"] for one in measured)
            speeds[step] = (seconds / sum(one["took"] for one in measured),
                            seconds / sum(one["cpu"] for one in measured))
    return speeds


def uncut_word_error_rate(truths: Iterable[Truth], recordings: Path, out: Path, recogniser: str) -> float:
    """Return what the recogniser makes of the clips that utterances were kept of, before they were put together.

    What it heard is kept in a file.
    """
    known = storage.read_json(recordings / HEARD) if (recordings / HEARD).is_file() else {}
    transcriber = load_transcriber(recogniser)
    said, heard = [], []
    for truth in truths:
        spans = [Span(one["start"], one["end"]) for one in kept_utterances(truth, out) or []]
        for index, clip in enumerate(truth.clips):
            name = f"{truth.name}-{index:03d}"
            if not any(_inside(Span(clip["start"], clip["end"]), span) for span in spans):
                continue
            if name not in known:
                waveform = read_audio(recordings / "truth" / "clips" / f"{name}.flac", RATE)
                known[name] = plain(transcriber.transcribe(waveform, RATE).text)
            said.append(clip["text"])
            heard.append(known[name])
        storage.write_json(recordings / HEARD, known)
    return word_error_rate(said, heard)


# ---- the table

FIGURES: dict[str, tuple[str, Callable[[Scores], str]]] = {
    "recordings, minutes": ("", lambda own: f"{own.recordings}, {own.seconds / 60:.0f}"),
    "recordings with the right number of speakers": ("", lambda own: f"{own.right_count}"),
    "diarization error rate, no collar": ("25 %", lambda own: f"{own.exact.rate:.1%}"),
    "of it missed, false alarm, confused": ("", lambda own: ", ".join(
        f"{part / own.exact.total:.1%}" for part in (own.exact.missed, own.exact.false_alarm, own.exact.confused))),
    "diarization error rate, collar 0.25 s": ("", lambda own: f"{own.lenient.rate:.1%}"),
    "utterances, minutes kept": ("", lambda own: f"{own.utterances}, {own.kept_seconds / 60:.0f}"),
    "utterances holding two speakers": ("5 %", lambda own: _share(own.two_speakers, own.utterances)),
    "cuts inside a word": ("2 %", lambda own: _share(own.cuts_in_words, 2 * own.utterances)),
    "seconds unaccounted for": ("0", lambda own: f"{own.unaccounted:.3f}" if own.utterances else ""),
    "word error rate of kept utterances": ("", lambda own: f"{own.word_error_rate:.1%}" if own.said else ""),
}


def speed_table(speeds: dict[str, tuple[float, float]]) -> str:
    """Return hours of audio an hour, a row each step, as Markdown."""
    rows = ["| step | at least | hours of audio an hour, one process | of a processor's time |", "|---" * 4 + "|"]
    rows += [f"| {step} | {LEAST_SPEED.get(step, '')} | {wall:,.1f} | {cpu:,.1f} |"
             for step, (wall, cpu) in speeds.items()]
    return "\n".join(rows)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else ""


def to_table(scores: dict[str, Scores]) -> str:
    """Return the figures of each kind of recordings and of all, as Markdown."""
    columns = scores | ({"all": _together(list(scores.values()))} if len(scores) > 1 else {})
    rows = [f"| figure | at most | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    rows += [f"| {name} | {most} | {' | '.join(told(own) for own in columns.values())} |"
             for name, (most, told) in FIGURES.items()]
    return "\n".join(rows)


def _together(scores: Sequence[Scores]) -> Scores:
    total = Scores()
    for own in scores:
        for name, value in vars(own).items():
            setattr(total, name, getattr(total, name) + value)
    return total


def _copy_some(recordings: Path, kind: str, only: Sequence[str], with_words: bool) -> Path:
    """Return a folder with those recordings, or all, and perhaps the true words beside them."""
    for path in sorted((recordings / "audio").glob("*.flac")):
        if not only or path.stem in only:
            storage.write_bytes(recordings / kind / path.name, path.read_bytes())
            if with_words:
                words = recordings / "truth" / f"{path.stem}.ctm"
                storage.write_bytes(recordings / kind / words.name, words.read_bytes())
    return recordings / kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with an4/ and kathleen/, audio folders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--an4", type=int, default=28, help="recordings of an4's speakers")
    parser.add_argument("--voices", type=int, default=8, help="recordings of Kathleen and flite")
    parser.add_argument("--steps", default=",".join([*STEPS, "write"]))
    parser.add_argument("--gate", default="none", help="estimator that is timed; it drops nothing here")
    parser.add_argument("--transcriber", default="pocketsphinx", help="`none` takes the true words and their times")
    parser.add_argument("--diarizer", default="resemblyzer")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="some of the recordings, such as an4-00,voices-00")
    options = parser.parse_args()
    recordings, out = options.out / f"recordings-{options.seed}", options.out / f"curated-{options.seed}"
    if not (recordings / DONE).is_file():
        build(options.data, recordings, options.seed, options.an4, options.voices)
    audio, only = recordings / "audio", options.only.split(",") if options.only else []
    if only or options.transcriber == "none":
        kind = "some" if only else "with-words"
        audio, out = _copy_some(recordings, kind, only, options.transcriber == "none"), Path(f"{out}-{kind}")
    curate.run(CurateConfig(
        source=str(audio), layout="recordings", out=str(out), device="cpu", sample_rate=RATE,
        allow_change=("source",),
        steps=tuple(options.steps.split(",")), workers=options.workers, diarizer=options.diarizer,
        transcriber=options.transcriber, gate={"estimator": options.gate, "mean": 1.0, "deviation": 10.0}))
    truths = [read_truth(recordings / "truth", path.stem) for path in sorted(audio.glob("*.flac"))]
    scores = measure(truths, out)
    print(to_table(scores))
    spoken = [truth for truth in truths if truth.kind == "voices"]
    if spoken and options.transcriber != "none" and found_in(out, "cut", spoken[0].name):
        uncut, kept = uncut_word_error_rate(spoken, recordings, out, options.transcriber), \
            scores["voices"].word_error_rate
        print(f"\nword error rate of voices, same recogniser: utterances {kept:.1%}, uncut clips {uncut:.1%}: "
              f"{100 * (kept - uncut):+.1f} points (at most +3)")
    print("\n" + speed_table(throughput(truths, out)))


if __name__ == "__main__":
    main()
