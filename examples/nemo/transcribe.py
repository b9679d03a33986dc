"""Let NeMo's conformer-transducer, the recogniser of the HALL-E paper, hear the sounds of an evaluation.

    python transcribe.py EVAL_FOLDER [--out FILE] [--model NAME_OR_FILE.nemo]

Reads every WAV below EVAL_FOLDER/audio and EVAL_FOLDER/recordings, writes one JSON line a sound, and goes on where it
was interrupted. `halle eval --transcripts FILE` reads the lines. Runs in an environment of its own: see README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # halle need not be installed here

from stages.speech.stitching import join, plan_windows, spread, stitch_all
from stages.speech.transcriber import SILENCE, Word

MODEL = "nvidia/stt_en_conformer_transducer_xlarge"  # 2.6 GB
RATE = 16_000
TIME_ERROR = 0.5  # seconds by which times of a word differ from window to window


def sounds_of(folder: Path) -> dict[str, Path]:
    """Return the WAV files of an evaluation by the sha256 of their contents; equal ones are heard once."""
    files = sorted(file for part in ("audio", "recordings") for file in (folder / part).rglob("*.wav"))
    return {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in files}


def read_sound(file: Path) -> np.ndarray:
    """Return float32 [samples] at 16 kHz, one channel."""
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, RATE)


def load_model(name: str, device: str):
    """Return NeMo's model: a .nemo file, or a name that NeMo finds in its caches or downloads."""
    from nemo.collections.asr.models import ASRModel

    model = ASRModel.restore_from(name) if name.endswith(".nemo") else ASRModel.from_pretrained(name)
    return model.to(device).eval()


def hear(model, samples: np.ndarray, batch_size: int) -> list[Word]:
    """Return the words of [samples] with their seconds, heard in windows of at most 30 s and stitched."""
    windows = plan_windows(len(samples), RATE)
    spans = [(first / RATE, end / RATE) for first, end in windows]
    loud = [index for index, (first, end) in enumerate(windows) if np.abs(samples[first:end]).max(initial=0) >= SILENCE]
    heard: list[list[Word]] = [[] for _ in windows]
    if loud:
        found = model.transcribe([samples[slice(*windows[index])] for index in loud], batch_size=batch_size,
                                 timestamps=True, verbose=False)
        found = found[0] if isinstance(found, tuple) else found  # NeMo before 2.1: best ones, all of them
        for index, hypothesis in zip(loud, found, strict=True):
            heard[index] = list(words_of(hypothesis, *spans[index]))
    return stitch_all(heard, spans, TIME_ERROR)


def words_of(hypothesis, start: float, end: float) -> Iterator[Word]:
    """Yield the words of one of NeMo's hypotheses, from `start` seconds on."""
    timed = hypothesis.timestamp.get("word") if isinstance(hypothesis.timestamp, dict) else None
    if timed is None or " ".join(word["word"] for word in timed) != hypothesis.text:
        yield from spread(hypothesis.text, start, end)
    else:
        yield from (Word(word["word"], start + float(word["start"]), start + float(word["end"])) for word in timed)


def lines_of(file: Path) -> list[dict]:
    """Return the lines written before; the last one may be half a line."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def transcribe(folder: Path, out: Path, name: str, device: str, batch_size: int) -> int:
    """Write a line for every sound that has none; return how many were heard.

    Lines of another recogniser or version go: an evaluation rests on one.
    """
    sounds = sounds_of(folder)
    if not sounds:
        raise SystemExit(f"error: there is no WAV file in `{folder / 'audio'}` and `{folder / 'recordings'}`\n\n"
                         "hint: give the output folder of `halle eval`")
    import nemo

    recogniser, version = Path(name).stem, f"nemo {nemo.__version__}, windows of 30 s"
    kept = [line for line in lines_of(out) if (line["recogniser"], line["version"]) == (recogniser, version)]
    todo = {sha256: file for sha256, file in sounds.items() if sha256 not in {line["audio_sha256"] for line in kept}}
    model = load_model(name, device) if todo else None
    partial = out.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    partial.replace(out)
    with out.open("a", encoding="utf-8") as lines:
        for number, (sha256, file) in enumerate(todo.items(), 1):
            words = hear(model, read_sound(file), batch_size)
            lines.write(json.dumps({
                "audio_sha256": sha256, "recogniser": recogniser, "version": version, "text": join(words),
                "words": [[word.text, round(word.start, 3), round(word.end, 3)] for word in words]}) + "\n")
            lines.flush()
            print(f"{number}/{len(todo)} {file.relative_to(folder)}", file=sys.stderr)
    return len(todo)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Let NeMo hear the sounds of an evaluation.")
    parser.add_argument("folder", type=Path, help="output folder of halle eval")
    parser.add_argument("--out", type=Path, help="file to write; by default FOLDER/MODEL.jsonl")
    parser.add_argument("--model", default=MODEL, help="a name that NeMo knows, or a .nemo file; default: %(default)s")
    parser.add_argument("--device", default="cuda", help="cuda or cpu; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="windows of 30 s at once; default: %(default)s")
    given = parser.parse_args(arguments)
    out = given.out or given.folder / f"{Path(given.model).stem}.jsonl"
    heard = transcribe(given.folder, out, given.model, given.device, given.batch_size)
    print(f"{heard} sounds heard, transcripts in {out}")


if __name__ == "__main__":
    main()
