"""Who says what: the utterances of the corpus, before any of them is made.

All of it is a pure function of the options, so that a build that was stopped continues where it was.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from texts import TEST, TRAIN, VALIDATION, as_sentence, side_of
from voices import Voice, seconds_to_say, unseen_voices

from stages.artifacts import storage
from stages.randomness import derive_seed
from stages.text.tables import text_key

TEST_SHARE, VALIDATION_SHARE = 0.06, 0.04  # of the sentences; the human reader has fewer, so larger shares
HUMAN_TEST_SHARE, HUMAN_VALIDATION_SHARE = 0.17, 0.03
PAUSE_SECONDS = (0.2, 0.6)
MEAN_PAUSE = sum(PAUSE_SECONDS) / 2
PLAIN_WEIGHT = 3  # a plain voice reads so many times as much as a variant
ANY_LENGTH, SHORT, LONG, COMMANDS = (3.5, 82.0), (3.8, 13.0), (66.0, 82.0), (3.5, 15.0)
KATHLEEN_SHORT = (3.3, 9.0)  # she has fewer sentences


@dataclass(frozen=True)
class Sizes:
    """How much is made: hours that flite reads to train on and to validate, and test utterances a voice."""

    train_hours: float = 22.0
    validation_hours: float = 0.8
    test_short: int = 120  # of each plain voice in TESTED
    test_long: int = 12
    unseen_short: int = 20  # of each voice that is never trained on
    unseen_long: int = 2
    other_short: int = 3  # of each other voice


# Seconds by estimate, well inside the classes 4-10, 10-30, 30-60 and 60-90 s that results are given for.
RESULT_LENGTHS = ((4.6, 9.0), (11.0, 27.0), (33.0, 55.0), (64.0, 82.0))
SEEN, UNSEEN = "seen", "unseen"
RESULT_TEXTS = {SEEN: 60, UNSEEN: 30}  # of each class, over all voices of a kind
TUNING = "tuning"
TUNING_TEXTS = ((RESULT_LENGTHS[0], 12), (RESULT_LENGTHS[1], 4))  # how long, and how many
SMALL = Sizes(0.1, 0.02, 3, 1, 1, 0, 0)
HUMAN_CORPORA = ("kathleen", "an4")
TESTED = ("rms", "awb")  # with the human reader: the voices that results are given for


@dataclass(frozen=True)
class Piece:
    """One sentence of an utterance; of a recording, if `audio` names one."""

    text: str
    seconds: float
    audio: str = ""


@dataclass(frozen=True)
class Utterance:
    """What one file will hold. Its id depends on all of it, so a file of that name needs no second look."""

    speaker: str
    split: str
    set: str
    pieces: tuple[Piece, ...]
    voice: Voice | None = None

    @property
    def id(self) -> str:
        facts = asdict(self) | {"audio": [Path(piece.audio).name for piece in self.pieces]}
        facts["pieces"] = [(piece.text, piece.seconds) for piece in self.pieces]  # wherever the recordings lie
        return f"{self.speaker}-{storage.fingerprint_of(facts)[:12]}"

    @property
    def text(self) -> str:
        return " ".join(piece.text for piece in self.pieces)

    @property
    def file_name(self) -> str:
        return f"audio/{self.id}.flac"


# ---- which sentences make an utterance


def deck(pieces: list, seed: int) -> Iterator:
    """Deal all pieces in random order, then all again in another, without end."""
    for round_number in itertools.count():
        yield from random.Random(derive_seed(seed, "deck", round_number)).sample(pieces, len(pieces))


def length_between(least: float, most: float, generator: random.Random) -> float:
    """Draw seconds, log-uniform: as many utterances between 5 and 10 s as between 20 and 40 s."""
    return least * (most / least) ** generator.random()


def take_pieces(pieces: Iterator[Piece], range_seconds: tuple[float, float], target: float) -> tuple[Piece, ...]:
    """Deal pieces until they last `target` seconds; one that would pass the range's end is put aside and lost."""
    taken: list[Piece] = []
    seconds = 0.0
    for piece in pieces:
        if taken and seconds + MEAN_PAUSE + piece.seconds > range_seconds[1]:
            break
        seconds += piece.seconds + (MEAN_PAUSE if taken else 0.0)
        taken.append(piece)
        if seconds >= target:
            break
    return tuple(taken)


def read_by(
    voice: Voice, sentences: Iterator[str], split: str, name: str, lengths: tuple[float, float], seed: int
) -> Utterance:
    """Return one utterance of `voice` of a random length."""
    target = length_between(*lengths, random.Random(seed))
    timed = (Piece(sentence, round(seconds_to_say(voice, sentence), 2)) for sentence in sentences)
    return Utterance(voice.name, split, name, take_pieces(timed, lengths, target), voice)


def seconds_of(utterance: Utterance) -> float:
    return sum(piece.seconds for piece in utterance.pieces) + MEAN_PAUSE * (len(utterance.pieces) - 1)


def read_for_hours(
    voices: list[Voice], sentences: list[str], split: str, hours: float, seed: int
) -> Iterator[Utterance]:
    """Plan utterances of all voices in turn; fewer hours are always the beginning of more."""
    if hours <= 0:
        return
    turns = [voice for voice in voices for _ in range(PLAIN_WEIGHT if voice.is_plain else 1)]
    seconds, dealt = 0.0, deck(sentences, derive_seed(seed, split))
    for index, voice in enumerate(deck(turns, derive_seed(seed, split, "voices"))):
        utterance = read_by(voice, dealt, split, split, ANY_LENGTH, derive_seed(seed, split, index))
        yield utterance
        seconds += seconds_of(utterance)
        if seconds >= 3600 * hours:
            return


def read_test(voices: list[Voice], sentences: list[str], sizes: Sizes, seed: int) -> Iterator[Utterance]:
    """Plan the test sets. All voices begin with the same sentences, so that they can be compared."""
    for voice in voices:
        num_short, num_long = sizes.other_short, 0
        if voice.test_only:
            num_short, num_long = sizes.unseen_short, sizes.unseen_long
        elif voice.name in TESTED:
            num_short, num_long = sizes.test_short, sizes.test_long
        for name, number, lengths in (("test-short", num_short, SHORT), ("test-long", num_long, LONG)):
            dealt = deck(sentences, derive_seed(seed, name))
            for index in range(number):
                yield read_by(voice, dealt, TEST, name, lengths, derive_seed(seed, name, index))


def plan_speech(voices: list[Voice], sentences: list[str], sizes: Sizes, seed: int) -> list[Utterance]:
    """Return all that flite reads: tests and validation first, then what is trained on."""
    sides: dict[str, list[str]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for sentence in sentences:
        sides[side_of(sentence, seed, TEST_SHARE, VALIDATION_SHARE)].append(sentence)
    trained = [voice for voice in voices if not voice.test_only]
    return [
        *read_test(voices, sides[TEST], sizes, seed),
        *read_for_hours(trained, sides[VALIDATION], VALIDATION, sizes.validation_hours, seed),
        *read_for_hours(trained, sides[TRAIN], TRAIN, sizes.train_hours, seed),
    ]


def plan_definitions(voices: list[Voice], sentences: list[str], hours: float, seed: int) -> list[Utterance]:
    """Plan more speech of the plain voices, for language models, which need more of it than codecs."""
    plain = [voice for voice in voices if voice.is_plain]
    return list(read_for_hours(plain, sentences, TRAIN, hours, derive_seed(seed, "definitions")))


def plan_results(voices: list[Voice], sentences: list[str], texts: dict[str, int], seed: int) -> list[Utterance]:
    """Plan what language models are scored on: test sentences, as many texts of every length by voices of both kinds.

    Seen are the plain voices, unseen those that are never trained on.
    """
    dealt = deck([text for text in sentences if side_of(text, seed, TEST_SHARE, VALIDATION_SHARE) == TEST],
                 derive_seed(seed, "results"))
    readers = {SEEN: [voice for voice in voices if voice.is_plain],
               UNSEEN: unseen_voices()}
    return [
        read_by(readers[kind][index % len(readers[kind])], dealt, TEST, kind, lengths,
                derive_seed(seed, "results", kind, number, index))
        for kind in readers if readers[kind]
        for number, lengths in enumerate(RESULT_LENGTHS)
        for index in range(texts[kind])
    ]


def plan_tuning(voices: list[Voice], sentences: list[str], seed: int) -> list[Utterance]:
    """Plan what settings of sampling are compared on: validation sentences by the plain voices, most of them short."""
    plain = [voice for voice in voices if voice.is_plain]
    dealt = deck([text for text in sentences if side_of(text, seed, TEST_SHARE, VALIDATION_SHARE) == VALIDATION],
                 derive_seed(seed, TUNING))
    lengths = [length for length, number in TUNING_TEXTS for _ in range(number)]
    return [read_by(plain[index % len(plain)], dealt, TEST, TUNING, length, derive_seed(seed, TUNING, index))
            for index, length in enumerate(lengths)]


# ---- human corpora


def read_metadata(folder: Path, known: set[str]) -> list[dict]:
    """Return the rows whose text nobody else reads, with the path of each recording."""
    if not (folder / "metadata.jsonl").is_file():
        return []
    rows = storage.read_jsonl(folder / "metadata.jsonl")
    return [row | {"audio": (folder / row["file_name"]).resolve().as_posix()}
            for row in rows if text_key(row["text"]) not in known]


def texts_of(utterances: list[Utterance]) -> set[str]:
    """Return the key of every sentence that is read."""
    return {text_key(piece.text) for utterance in utterances for piece in utterance.pieces}


def join_takes(
    speaker: str, rows: list[dict], split: str, name: str, lengths: tuple[float, float], seed: int, number: int = 0
) -> Iterator[Utterance]:
    """Join a speaker's takes in random order: each once, or as often as `number` utterances need."""
    pieces = [Piece(as_sentence(row["text"], (1, 100)) or row["text"], row["duration"], row["audio"]) for row in rows]
    dealt = deck(pieces, derive_seed(seed, speaker, name))
    once = itertools.islice(dealt, len(pieces))
    for index in range(number) if number else itertools.count():
        generator = random.Random(derive_seed(seed, speaker, name, index))
        taken = take_pieces(dealt if number else once, lengths, length_between(*lengths, generator))
        if not taken:
            return
        yield Utterance(speaker, split, name, taken)


def plan_kathleen(rows: list[dict], sizes: Sizes, seed: int) -> list[Utterance]:
    """One woman in a studio: split by sentence, so that she is trained on and tested."""
    sides: dict[str, list[dict]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for row in rows:
        sides[side_of(row["text"], seed, HUMAN_TEST_SHARE, HUMAN_VALIDATION_SHARE)].append(row)
    return [
        *join_takes("kathleen", sides[TEST], TEST, "test-short", KATHLEEN_SHORT, seed),
        *join_takes("kathleen", sides[TEST], TEST, "test-long", LONG, seed, sizes.test_long),
        *join_takes("kathleen", sides[VALIDATION], VALIDATION, VALIDATION, ANY_LENGTH, seed),
        *join_takes("kathleen", sides[TRAIN], TRAIN, TRAIN, ANY_LENGTH, seed),
    ]


def plan_an4(rows: list[dict], seed: int) -> list[Utterance]:
    """Short commands of 84 speakers, joined a speaker at a time; trained on only."""
    planned = []
    for speaker in sorted({row["speaker"] for row in rows}):
        takes = [row for row in rows if row["speaker"] == speaker]
        planned += join_takes(speaker, takes, TRAIN, TRAIN, COMMANDS, seed)
    return planned


def plan_humans(folder: Path, sizes: Sizes, speech: list[Utterance], seed: int) -> list[Utterance]:
    """Plan what the human corpora in `folder` hold, without what flite reads in `speech`: a text has one side."""
    known = texts_of(speech)
    kathleen = plan_kathleen(read_metadata(folder / "kathleen", known), sizes, seed)
    return [*kathleen, *plan_an4(read_metadata(folder / "an4", known | texts_of(kathleen)), seed)]
