"""Long recordings of which everything is known: who speaks when, and every word's time.

    python tests/benchmarks/long_recordings.py --data DATA --out runs/long-recordings

2 to 8 clips of one speaker make a turn, 2 to 4 speakers a recording; pauses last 0.1 to 2 s, and in 5 % of the speech
two talk at once. Two kinds: `an4` (84 speakers of short commands, two halves that share no speaker) and `voices`
(Kathleen, and flite reading WordNet's examples). The same seed gives the same recordings.

    OUT/audio/an4-00.flac                  what is curated: 16 kHz, mono
    OUT/truth/an4-00.rttm, .ctm, .json     speakers; words; the clips with their texts and samples: apart from the audio

Words are timed by Pocketsphinx aligned to the known text, within the sounding part of their clip.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.artifacts import storage
from stages.audio.activity import activity
from stages.audio.io import read_audio, write_audio
from stages.speech.spans import Span, Turn, intersect, total_seconds, union

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "mini"))

RATE = 16_000
CLIPS_A_TURN, SPEAKERS, PAUSE_SECONDS, OVERLAP = (2, 8), (2, 4), (0.1, 2.0), 0.05
OVERLAP_SECONDS = (0.3, 2.0)  # of one overlap
EDGE_SECONDS = 0.1  # of a clip's own room, kept around its words
JOINED_SECONDS = 0.3  # words of a speaker this close are one stretch of speech
LEVEL_DB, ROOM_DB = -26.0, -65.0
DONE = "recordings.json"  # written last
FLITE = ("rms", "slt", "awb", "kal16")


@dataclass(frozen=True)
class TimedWord:
    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Clip:
    """What one speaker says at a stretch: samples [samples] at 16 kHz, and the words in it."""

    speaker: str
    text: str
    waveform: np.ndarray
    words: tuple[TimedWord, ...]

    @property
    def seconds(self) -> float:
        return len(self.waveform) / RATE


@dataclass(frozen=True)
class Placed:
    """A clip and where it begins in its recording, in seconds."""

    clip: Clip
    start: float

    @property
    def end(self) -> float:
        return self.start + self.clip.seconds

    @cached_property
    def words(self) -> list[TimedWord]:
        return [TimedWord(word.text, self.start + word.start, self.start + word.end) for word in self.clip.words]


# ---- how clips become a recording


def arrange(clips: dict[str, list[Clip]], random: np.random.Generator) -> list[Placed]:
    """Return all clips of some speakers, in turns, from the first second on."""
    left = {speaker: list(own) for speaker, own in clips.items()}
    placed: list[Placed] = []
    spoken = overlapped = 0.0
    speaker, end = "", float(random.uniform(*PAUSE_SECONDS))
    while any(left.values()):
        speaker = _next_speaker(left, speaker, random)
        for index, clip in enumerate(_take_turn(left[speaker], random)):
            gap = float(random.uniform(*PAUSE_SECONDS))
            if index == 0 and placed and placed[-1].clip.speaker != speaker and overlapped < OVERLAP * spoken:
                most = min(OVERLAP_SECONDS[1], clip.seconds - 2 * EDGE_SECONDS, placed[-1].clip.seconds)
                both = max(0.0, float(random.uniform(OVERLAP_SECONDS[0], most)))
                gap, overlapped = -both - 2 * EDGE_SECONDS, overlapped + both
            placed.append(Placed(clip, round((end + gap) * RATE) / RATE))
            end, spoken = placed[-1].end, spoken + clip.seconds
    return placed


def _next_speaker(left: dict[str, list[Clip]], last: str, random: np.random.Generator) -> str:
    """Draw who goes on: another one while there is another, whoever has more to say the likelier."""
    others = [speaker for speaker, clips in left.items() if clips and speaker != last]
    if not others:
        return last
    weights = np.array([len(left[speaker]) for speaker in others], dtype=float)
    return others[int(random.choice(len(others), p=weights / weights.sum()))]


def _take_turn(clips: list[Clip], random: np.random.Generator) -> list[Clip]:
    """Take the clips of a turn off a speaker's; a single one is not left behind."""
    count = int(random.integers(CLIPS_A_TURN[0], CLIPS_A_TURN[1], endpoint=True))
    if len(clips) - count < CLIPS_A_TURN[0]:
        count = len(clips) if len(clips) <= CLIPS_A_TURN[1] else len(clips) - CLIPS_A_TURN[0]
    turn, clips[:] = clips[:count], clips[count:]
    return turn


def true_turns(placed: Sequence[Placed]) -> list[Turn]:
    """Return who speaks when: each speaker's words, joined over pauses of at most 0.3 s."""
    found = []
    for speaker in sorted({one.clip.speaker for one in placed}):
        words = [Span(word.start, word.end) for one in placed if one.clip.speaker == speaker for word in one.words]
        found += [Turn(span.start, span.end, speaker) for span in union(words, gap=JOINED_SECONDS)]
    return sorted(found)


def mix(placed: Sequence[Placed], random: np.random.Generator) -> np.ndarray:
    """Return the recording [samples]: the clips in a quiet room."""
    seconds = max(one.end for one in placed) + PAUSE_SECONDS[1]
    sound = 10 ** (ROOM_DB / 20) * random.standard_normal(round(seconds * RATE)).astype(np.float32)
    for one in placed:
        first = round(one.start * RATE)
        sound[first : first + len(one.clip.waveform)] += one.clip.waveform
    return sound


# ---- clips with the times of their words


class Aligner:
    """Time the words of known text with Pocketsphinx; flite says how words that its dictionary lacks are spoken."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=float(RATE), loglevel="FATAL")

    def cut(self, waveform: np.ndarray, text: str, speaker: str) -> Clip | None:
        """Return the clip from its first word to its last, None when the text cannot be found in it."""
        sounding = activity(waveform, RATE)
        words = self._align(waveform, text, Span(sounding.begin / RATE, sounding.end / RATE))
        if len(words) != len(text.split()):
            return None
        start = max(0.0, words[0].start - EDGE_SECONDS)
        first, end = round(start * RATE), round((words[-1].end + EDGE_SECONDS) * RATE)
        moved = [TimedWord(word.text, word.start - first / RATE, word.end - first / RATE) for word in words]
        return Clip(speaker, text, _fade(waveform[first:end]), tuple(moved))

    def _align(self, waveform: np.ndarray, text: str, sounding: Span) -> list[TimedWord]:
        for word in text.split():
            if self._decoder.lookup_word(word) is None:
                self._decoder.add_word(word, _phones(word), True)
        self._decoder.set_align_text(text)
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        pcm = (np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes()
        self._decoder.process_raw(pcm, no_search=False, full_utt=True)
        self._decoder.end_utt()
        found = []
        for entry in self._decoder.seg() or ():
            inside = intersect([Span(entry.start_frame / 100, (entry.end_frame + 1) / 100)], [sounding])
            if inside and not entry.word.startswith("<"):
                found.append(TimedWord(re.sub(r"\(\d+\)$", "", entry.word), inside[0].start, inside[0].end))
        return found


def _phones(word: str) -> str:
    said = subprocess.run(["flite", "-voice", "slt", "-ps", "-t", word, "-o", "none"], check=True,
                          capture_output=True, text=True, encoding="utf-8").stdout.split()
    return " ".join(phone.upper().replace("AX", "AH") for phone in said if phone != "pau")


def _fade(waveform: np.ndarray, seconds: float = 0.01) -> np.ndarray:
    faded, ramp = waveform.copy(), np.linspace(0, 1, round(seconds * RATE), dtype=np.float32)
    faded[: len(ramp)] *= ramp
    faded[-len(ramp):] *= ramp[::-1]
    return faded


def level(clips: list[Clip], decibels: float) -> list[Clip]:
    """Return a speaker's clips, all made louder by the same factor, so that their mean level is `decibels`."""
    power = np.mean(np.concatenate([clip.waveform for clip in clips]).astype(np.float64) ** 2)
    gain = np.float32(10 ** (decibels / 20) / np.sqrt(power))
    return [Clip(clip.speaker, clip.text, clip.waveform * gain, clip.words) for clip in clips]


def plain(text: str) -> str:
    """Return the words of a text: lower case letters and apostrophes."""
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower().replace("-", " ")).split())


# ---- where clips come from


class Speech:
    """The clips of every speaker, aligned when they are asked for."""

    def __init__(self, data: Path, random: np.random.Generator):
        from texts import wordnet_sentences

        self.data, self._random, self._aligner = data, random, Aligner()
        self._an4 = _by_speaker(data / "an4")
        (self._kathleen,) = _by_speaker(data / "kathleen").values()
        self._kathleen = list({plain(row["text"]): row for row in self._kathleen}.values())  # one take of a sentence
        self._sentences = wordnet_sentences()
        for pool in (self._kathleen, self._sentences):
            random.shuffle(pool)

    def an4_speakers(self) -> list[str]:
        return sorted(self._an4)

    def clips(self, speaker: str, count: int | None = None) -> list[Clip]:
        """Return so many clips of a speaker that no other recording has, of an4's all."""
        if speaker in self._an4:
            read = self._read(self._an4[speaker], speaker)
        elif speaker == "kathleen":
            read = self._read(iter(self._kathleen.pop, None), speaker)
        else:
            read = self._say(speaker)
        found = []
        for clip in read:
            found.append(clip)
            if len(found) == count:
                break
        return level(found, LEVEL_DB + float(self._random.uniform(-3, 3)))

    def _read(self, rows, speaker: str) -> Iterator[Clip]:
        for row in rows:
            clip = self._aligner.cut(read_audio(row["path"], RATE), plain(row["text"]), speaker)
            if clip:
                yield clip

    def _say(self, voice: str) -> Iterator[Clip]:
        import soxr
        from voices import SAMPLE_RATE, Voice, say

        while True:
            sentence = self._sentences.pop()
            waveform = soxr.resample(say(Voice(voice, voice), sentence), SAMPLE_RATE, RATE)
            clip = self._aligner.cut(waveform, plain(sentence), voice)
            if clip:
                yield clip


def _by_speaker(folder: Path) -> dict[str, list[dict]]:
    speakers: dict[str, list[dict]] = {}
    for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        speakers.setdefault(row["speaker"], []).append(row | {"path": folder / row["file_name"]})
    return speakers


# ---- recordings on disk


def build(data: Path, out: Path, seed: int = 0, an4: int = 28, voices: int = 8, clips_a_voice: int = 18) -> None:
    """Write so many recordings of each kind; even numbers share no an4 speaker with odd ones."""
    random = np.random.default_rng(seed)
    speech = Speech(data, random)
    for name, speakers in _casts(speech.an4_speakers(), an4, voices, random):
        count = None if name.startswith("an4") else clips_a_voice
        placed = arrange({speaker: speech.clips(speaker, count) for speaker in speakers}, random)
        write(out, name, placed, mix(placed, random))
    storage.write_json(out / DONE, {"seed": seed, "an4": an4, "voices": voices, "clips_a_voice": clips_a_voice})


def _casts(an4_speakers: list[str], an4: int, voices: int, random: np.random.Generator) -> Iterator[tuple]:
    """Yield names of recordings and their speakers; each of an4's is in one recording."""
    pool = list(random.permutation(an4_speakers))
    sizes = [SPEAKERS[0] + index % (SPEAKERS[1] - SPEAKERS[0] + 1) for index in range(an4)]
    for index, size in enumerate(sizes):
        cast, pool = pool[:size], pool[size:]
        yield f"an4-{index:02d}", [str(speaker) for speaker in cast]
    for index in range(voices):
        size = SPEAKERS[0] + index // 2 % (SPEAKERS[1] - SPEAKERS[0] + 1)
        yield f"voices-{index:02d}", [str(voice) for voice in random.permutation(["kathleen", *FLITE])[:size]]


def write(out: Path, name: str, placed: Sequence[Placed], sound: np.ndarray) -> None:
    """Write a recording, and its truth apart from it."""
    write_audio(out / "audio" / f"{name}.flac", sound, RATE)
    rttm = [f"SPEAKER {name} 1 {turn.start:.3f} {turn.seconds:.3f} <NA> <NA> {turn.speaker} <NA> <NA>"
            for turn in true_turns(placed)]
    words = sorted((word for one in placed for word in one.words), key=lambda word: word.start)
    ctm = [f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text}" for word in words]
    clips = [{"start": one.start, "end": one.end, "speaker": one.clip.speaker, "text": one.clip.text,
              "words": [asdict(word) for word in one.words]} for one in placed]
    for suffix, lines in (("rttm", rttm), ("ctm", ctm)):
        storage.write_bytes(out / "truth" / f"{name}.{suffix}", ("\n".join(lines) + "\n").encode())
    storage.write_json(out / "truth" / f"{name}.json", {"seconds": len(sound) / RATE, "clips": clips})
    for index, one in enumerate(placed):
        write_audio(out / "truth" / "clips" / f"{name}-{index:03d}.flac", one.clip.waveform, RATE)


def overlap_share(turns: Sequence[Turn]) -> float:
    """Return the seconds in which two speak, as a share of those in which anybody does."""
    anybody = total_seconds(union(turn.span for turn in turns))
    return (total_seconds(turns) - anybody) / anybody


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with an4/ and kathleen/, audio folders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--an4", type=int, default=28, help="recordings of an4's speakers")
    parser.add_argument("--voices", type=int, default=8, help="recordings of Kathleen and flite")
    options = parser.parse_args()
    build(options.data, options.out, options.seed, options.an4, options.voices)


if __name__ == "__main__":
    main()
