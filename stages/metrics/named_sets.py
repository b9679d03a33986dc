"""Test sets that go by a name: where each comes from, and how it is built when its ingredients are on this disk.

    demo-90s            in the package
    libri-long-90s      joined from LibriSpeech test-clean by the lists in `sets/`
    test-90s            announced, not published
"""

from __future__ import annotations

import hashlib
import io
import logging
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts.manifest import FILE_NAME, write_manifest
from stages.artifacts.storage import read_jsonl, staged_folder
from stages.errors import UsageError
from stages.metrics.librispeech import (
    SAMPLE_RATE,
    SHA256,
    URL,
    Corpus,
    Known,
    check_corpus,
    find_corpus,
    load_samples,
    places,
    read_table,
)
from stages.progress import Progress

log = logging.getLogger("halle.eval")

SETS = Path(__file__).parent / "sets"
TEST, PROMPT = "test", "prompt"
CLEAN_SECONDS = (4, 35)  # section 7.1


@dataclass(frozen=True)
class Recording:
    """A row to be built: consecutive `utterances` joined into one recording, and the id of the row that prompts it."""

    id: str
    utterances: tuple[str, ...]
    split: str = TEST
    prompt: str = ""


@dataclass(frozen=True)
class NamedSet:
    """A test set that halle knows of. `find` returns its folder below the data root or raises what to fetch."""

    what: str
    find: Callable[[str, Path], Path]


def resolve(name: str, data_root: Path) -> Path | None:
    """Return the folder of the test set `name`, built below the data root if need be; None for an unknown name.

    Raises `UsageError` that says what to fetch, how large it is, under which licence, and where to put it.
    """
    if name not in NAMED_SETS:
        return None
    built = data_root / name
    return built if (built / FILE_NAME).is_file() else NAMED_SETS[name].find(name, data_root)


# ---- where the sets come from


def _shipped(name: str, data_root: Path) -> Path:
    return SETS / name


def _announced(name: str, data_root: Path) -> Path:
    place = data_root / name
    raise UsageError(
        f"there is no test set `{name}` at `{place}`: {NAMED_SETS[name].what}; it has been announced by the authors of "
        "HALL-E at https://github.com/YutoNishimura-v2/HALL-E and is not part of halle",
        hint=f"once you have its recordings and transcripts: halle curate RECORDINGS --out {place} (or another place, "
             "with --data-root or $HALLE_DATA); until then --set libri-long-90s or --set demo-90s")


def _from_librispeech(name: str, data_root: Path) -> Path:
    corpus = find_corpus(data_root)
    if corpus is None:
        looked = ", ".join(f"`{place}`" for place in places(data_root))
        raise UsageError(
            f"there is no test set `{name}` at `{data_root / name}`, nor what it is made of, LibriSpeech test-clean "
            f"(346,663,984 bytes, CC BY 4.0), at {looked}: {NAMED_SETS[name].what}",
            hint=f"curl -L {URL} -o test-clean.tar.gz && mkdir -p {data_root} && "
                 f"tar -xzf test-clean.tar.gz -C {data_root} (its sha256 is {SHA256}); "
                 "or give another place with --data-root or $HALLE_DATA")
    known = read_table()
    check_corpus(corpus, known)
    build(data_root / name, list(recordings_of(name, known)), corpus)
    log.info("built `%s` from `%s`", data_root / name, corpus.where)
    return data_root / name


def recordings_of(name: str, known: dict[str, Known]) -> Iterator[Recording]:
    """Yield the rows of a set made of LibriSpeech: by length, or by the list that ships."""
    if name == "librispeech-clean":
        least, most = (seconds * SAMPLE_RATE for seconds in CLEAN_SECONDS)
        yield from (Recording(one, (one,)) for one, facts in known.items() if least <= facts.samples <= most)
        return
    rows = read_jsonl(SETS / f"{name}.jsonl")
    yield from (Recording(row["id"], tuple(row["utterances"]), TEST, row["prompt"]) for row in rows)
    yield from (Recording(one, (one,), PROMPT) for one in sorted({row["prompt"] for row in rows}))


# ---- building


def build(folder: Path, recordings: list[Recording], corpus: Corpus) -> None:
    """Write audio and manifest of a set; the folder appears when it is complete, the same bytes for the same corpus.

    A recording of one utterance is the corpus's own file. Several are joined sample by sample with no pause between:
    the corpus was cut within silences, so that every utterance brings some at both ends.
    """
    progress = Progress(f"build {folder.name}", len(recordings))
    with staged_folder(folder) as staging:
        (staging / "audio").mkdir()
        rows = []
        for recording in recordings:
            rows.append(_write_recording(staging, recording, corpus))
            progress.advance(note=recording.id)
        write_manifest(staging, rows)
    progress.close()


def _write_recording(folder: Path, recording: Recording, corpus: Corpus) -> dict:
    """Write the audio of a recording and return its row."""
    parts = [load_samples(corpus, utterance) for utterance in recording.utterances]
    single = len(parts) == 1
    data = corpus.load(recording.utterances[0]) if single else wav_file(np.concatenate(parts))
    audio = f"audio/{recording.id}.{'flac' if single else 'wav'}"
    (folder / audio).write_bytes(data)
    row = {
        "id": recording.id,
        "audio": audio,
        "start": 0.0,
        "duration": sum(map(len, parts)) / SAMPLE_RATE,
        "speaker": recording.id.split("-", maxsplit=1)[0],
        "text": " ".join(as_sentence(corpus.texts[utterance]) for utterance in recording.utterances),
        "split": recording.split,
        "sample_rate": SAMPLE_RATE,
        "language": "en",
        "license": "CC BY 4.0",
        "source": "LibriSpeech test-clean",
        "audio_sha256": hashlib.sha256(data).hexdigest(),
    }
    return row | ({"prompt_id": recording.prompt} if recording.prompt else {})


def as_sentence(text: str) -> str:
    """Return a transcript in capitals, without punctuation, as a sentence: what nearly every utterance is.

    Of the 1483 that LibriSpeech-PC's list of prompts and texts has with punctuation, 98 % end in one of `.?!`. In
    capitals, the normaliser would read `PH D` and `VIVE LE ROI` as initials.
    """
    return f"{text.capitalize()}."


def wav_file(samples: np.ndarray) -> bytes:
    """Return a WAV file of 16-bit mono samples [samples], the same bytes whatever libraries are installed."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


NAMED_SETS: dict[str, NamedSet] = {
    "demo-90s": NamedSet("8 readings of 12 to 85 s by synthetic voices, in the package, CC0", _shipped),
    "librispeech-clean": NamedSet("the 1850 utterances of 4 to 35 s of LibriSpeech test-clean, 4.8 h",
                                  _from_librispeech),
    "libri-long-90s": NamedSet("225 recordings of 60 to 90 s, 4.8 h, joined from chapters of LibriSpeech test-clean",
                               _from_librispeech),
    "libri-long-180s": NamedSet("102 recordings of 121 to 180 s, 4.3 h, joined from chapters of LibriSpeech test-clean",
                                _from_librispeech),
    "test-90s": NamedSet("MinutesSpeech test-90s, 685 recordings of podcasts up to 90 s, 8.6 h, Creative Commons",
                         _announced),
    "test-180s": NamedSet("MinutesSpeech test-180s, 536 recordings of podcasts up to 180 s, 8.5 h, Creative Commons",
                          _announced),
}
