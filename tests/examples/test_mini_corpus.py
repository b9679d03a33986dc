"""The corpus of the mini model: many voices, plain sentences, and no test sentence that is trained on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from stages.audio.io import audio_info, read_audio
from stages.text.tables import text_key

MINI = Path(__file__).parents[2] / "examples" / "mini"
GLOSS = '00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is; "{}"; "{}"\n'
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


@pytest.fixture(scope="module")
def mini() -> SimpleNamespace:
    """The example's modules, which import each other by their plain names."""
    sys.path.insert(0, str(MINI))
    try:
        import make_corpus
        import plan
        import texts
        import voices
    finally:
        sys.path.remove(str(MINI))
    return SimpleNamespace(make_corpus=make_corpus, plan=plan, texts=texts, voices=voices)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """3536 different sentences of about eight words."""
    names = [f"{first}{second}a" for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u")]
    return [f"The {left} of my {right} is a {names[(i * 7 + 3) % 60]} {'very ' * (i % 5)}indeed."
            for i, (left, right) in enumerate((x, y) for x in names for y in names if x != y)][:3536]


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """A WordNet of those sentences."""
    folder = tmp_path_factory.mktemp("wordnet")
    quarter = len(sentences) // 4
    for index, name in enumerate(("data.noun", "data.verb", "data.adj", "data.adv")):
        part = [sentence.rstrip(".") for sentence in sentences[index * quarter : (index + 1) * quarter]]
        lines = [GLOSS.format(*pair) for pair in zip(part[::2], part[1::2], strict=False)]
        (folder / name).write_text("  1 This is the | \"licence that nobody reads aloud\"\n" + "".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="module")
def human(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """A reader of 300 sentences and two speakers of commands, who also say 60 sentences that flite reads."""
    folder = tmp_path_factory.mktemp("human")
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 3).astype(np.float32)
    own = [f"And {sentence.lower()}" for sentence in sentences[:300]] + sentences[:60]
    rows = {
        "kathleen": [{"text": text, "speaker": "kathleen"} for text in own],
        "an4": [{"text": f"enter {name} {number}", "speaker": name}
                for name in ("ann", "bob") for number in ("one", "two", "three", "four", "five")]
        + [{"text": sentence, "speaker": "ann"} for sentence in sentences[:60]],
    }
    for name, found in rows.items():
        (folder / name).mkdir()
        soundfile.write(folder / name / "a.flac", noise, 16_000)
        lines = [json.dumps(row | {"file_name": "a.flac", "duration": 3.0}) + "\n" for row in found]
        (folder / name / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def planned(mini: SimpleNamespace, sentences: list[str], human: Path) -> list:
    sizes = mini.plan.Sizes(train_hours=4.0)
    speech = mini.plan.plan_speech(mini.voices.all_voices(), sentences, sizes, seed=0)
    return [*mini.plan.plan_humans(human, sizes, speech, seed=0), *speech]


# ---- sentences


@pytest.mark.parametrize(("text", "sentence"), [
    ("the lake was frozen", "The lake was frozen."),
    ("  she didn't   say, did she?", "She didn't say, did she?"),
    ("too short really", ""),
    ("a word " * 13, ""),
    ("he was born in 1990 or so", ""),
    ("the phrase `rich man' is one", ""),
    ("a secondhand (or used) car", ""),
    ("the FBI came to see him", ""),
    ("J. Smith came to see him", ""),
    ("and then he -- well, he fell", ""),
    ("a café in the old town", ""),
])
def test_only_plain_english_of_four_to_25_words_is_read(mini: SimpleNamespace, text: str, sentence: str) -> None:
    assert mini.texts.as_sentence(text) == sentence


def test_every_example_of_wordnet_is_taken_once_and_its_licence_is_not(
    mini: SimpleNamespace, wordnet: Path, sentences: list[str], tmp_path: Path
) -> None:
    assert set(mini.texts.wordnet_sentences(wordnet)) == set(sentences)
    shutil.copytree(wordnet, tmp_path / "copy")
    again = GLOSS.format(sentences[0].rstrip(".").lower(), "too short")  # also read in data.noun, as `The ...`
    (tmp_path / "copy" / "data.adv").write_text(again, encoding="utf-8")
    assert len(mini.texts.wordnet_sentences(tmp_path / "copy")) == len(sentences) * 3 // 4


def test_definitions_are_read_by_the_plain_voices_and_none_is_an_example(
    mini: SimpleNamespace, wordnet: Path, sentences: list[str], tmp_path: Path
) -> None:
    shutil.copytree(wordnet, tmp_path / "copy")
    glosses = ('a thing to sit on; or to stand on when it must be so; "they moved a chair"', sentences[0].rstrip("."))
    with (tmp_path / "copy" / "data.adv").open("a", encoding="utf-8") as file:
        file.writelines(f"000 x | {gloss}\n" for gloss in glosses)
    texts = mini.texts.wordnet_definitions(tmp_path / "copy")
    assert {"A thing to sit on.", "Or to stand on when it must be so."} <= set(texts)
    assert set(texts).isdisjoint(mini.texts.wordnet_sentences(tmp_path / "copy"))
    planned = mini.plan.plan_definitions(mini.voices.all_voices(), texts, 0.05, seed=0)
    assert {utterance.speaker for utterance in planned} == set(mini.voices.BASES)
    assert {utterance.split for utterance in planned} == {"train"}
    fewer = mini.plan.plan_definitions(mini.voices.all_voices(), texts, 0.02, seed=0)
    assert 0 < len(fewer) < len(planned) and fewer == planned[: len(fewer)]


# ---- voices


def test_there_are_over_sixty_voices_and_no_two_are_alike(mini: SimpleNamespace) -> None:
    voices = mini.voices.all_voices()
    assert len(voices) >= 60
    assert len({voice.name for voice in voices}) == len(voices)
    assert len({(voice.base, voice.formants, voice.pitch) for voice in voices}) == len(voices)
    assert Counter(voice.base for voice in voices if voice.is_plain) == dict.fromkeys(mini.voices.BASES, 1)


def test_what_is_spread_over_voices_stays_within_what_is_intelligible(mini: SimpleNamespace) -> None:
    for voice in mini.voices.all_voices():
        assert 0.8 <= voice.formants <= 1.3 and 0.8 <= voice.tempo <= 1.2 and abs(voice.tilt) <= 2
        assert voice.pitch is None or 80 <= voice.pitch <= 290


def test_several_voices_are_never_trained_on(mini: SimpleNamespace, planned: list) -> None:
    unseen = {voice.name for voice in mini.voices.all_voices() if voice.test_only}
    assert unseen == set(mini.voices.TEST_ONLY) and len(unseen) >= 4
    assert {item.split for item in planned if item.speaker in unseen} == {"test"}
    assert {item.speaker for item in planned if item.split == "test"} >= unseen


@needs_flite
def test_a_variant_has_the_pitch_and_the_tempo_that_were_asked_for(mini: SimpleNamespace) -> None:
    sentence = "We all know where we were all along, and why we may roam."
    plain = mini.voices.Voice("slt", "slt")
    low = mini.voices.Voice("slt-x", "slt", formants=0.85, pitch=120.0, tempo=0.8)
    ordinary, slow = mini.voices.say(plain, sentence), mini.voices.say(low, sentence)
    assert len(slow) / len(ordinary) == pytest.approx(1 / 0.8, rel=0.05)
    assert _pitch(slow) == pytest.approx(120, rel=0.06)
    assert _pitch(ordinary) == pytest.approx(mini.voices.BASES["slt"], rel=0.06)


def _pitch(waveform: np.ndarray) -> float:
    """The median of where frames of 50 ms repeat themselves, Hz."""
    found = []
    for start in range(0, len(waveform) - 1200, 480):
        frame = waveform[start : start + 1200]
        repeats = np.correlate(frame, frame, "full")[1199:]
        lag = 80 + int(repeats[80:320].argmax())
        if frame.std() > 0.02 and repeats[lag] > 0.5 * repeats[0]:
            found.append(24_000 / lag)
    return float(np.median(found))


def test_tilting_by_one_db_an_octave_raises_4_khz_by_two_db(mini: SimpleNamespace) -> None:
    seconds = np.arange(24_000) / 24_000
    for frequency, gain in ((1000, 0.0), (4000, 2.0), (500, -1.0)):
        tone = np.sin(2 * np.pi * frequency * seconds).astype(np.float32)
        change = 20 * np.log10(mini.voices.tilt_spectrum(tone, 1.0).std() / tone.std())
        assert change == pytest.approx(gain, abs=0.01)


# ---- splits and sets


def test_a_sentence_is_on_one_side_whoever_says_it(mini: SimpleNamespace, planned: list) -> None:
    sides = defaultdict(set)
    for item in planned:
        for piece in item.pieces:
            sides[text_key(piece.text)].add(item.split)
    assert {len(names) for names in sides.values()} == {1}
    assert Counter(split for names in sides.values() for split in names).keys() == {"train", "validation", "test"}


def test_the_tested_voices_read_a_hundred_utterances_and_nine_hundred_words(planned: list) -> None:
    for speaker in ("rms", "awb", "kathleen"):
        short = [item for item in planned if item.speaker == speaker and item.set == "test-short"]
        if speaker != "kathleen":  # the stand-in for her corpus is a quarter of it
            assert len(short) >= 100 and sum(len(item.text.split()) for item in short) >= 900
        assert len([item for item in planned if item.speaker == speaker and item.set == "test-long"]) >= 10


def test_lengths_are_those_of_each_set(mini: SimpleNamespace, planned: list) -> None:
    lengths = defaultdict(list)
    for item in planned:
        lengths[item.set].append(mini.plan.seconds_of(item))
    assert max(lengths["test-short"]) <= 13.0
    assert min(lengths["test-long"]) >= 60.0 and max(lengths["test-long"]) <= 82.0
    for name in ("train", "validation"):
        assert max(lengths[name]) <= 82.0
    assert max(lengths["train"]) > 60.0
    in_the_middle = sum(5.0 <= seconds <= 20.0 for seconds in lengths["train"])
    assert in_the_middle > 0.3 * len(lengths["train"])


def test_over_an_hour_and_a_half_is_held_out(mini: SimpleNamespace, planned: list) -> None:
    assert sum(mini.plan.seconds_of(item) for item in planned if item.split != "train") >= 1.5 * 3600


def test_fewer_hours_are_a_part_of_more(mini: SimpleNamespace, sentences: list[str], planned: list) -> None:
    sizes = mini.plan.Sizes(train_hours=1.0)
    fewer = mini.plan.plan_speech(mini.voices.all_voices(), sentences, sizes, seed=0)
    assert {item.id for item in fewer} < {item.id for item in planned}
    assert len({item.id for item in planned}) == len(planned)


def test_commands_are_trained_on_and_joined_by_one_speaker(planned: list) -> None:
    commands = [item for item in planned if item.speaker in ("ann", "bob")]
    assert {item.split for item in commands} == {"train"}
    assert all(item.speaker in piece.text.lower() for item in commands for piece in item.pieces)
    assert any(len(item.pieces) > 1 for item in commands)


# ---- the command


def _run(*options: object, path: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(MINI / "make_corpus.py"), *map(str, options)]
    environment = None if path is None else {"PATH": path, "PYTHONPATH": str(MINI.parents[1])}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)


def test_without_flite_it_says_how_to_get_it(tmp_path: Path, wordnet: Path) -> None:
    done = _run("--out", tmp_path / "out", "--wordnet", wordnet, path=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: `flite` is not installed") and "hint: apt install flite" in done.stderr
    assert not (tmp_path / "out").exists()


@needs_flite
def test_without_wordnet_it_says_how_to_get_it(tmp_path: Path) -> None:
    done = _run("--out", tmp_path / "out", "--wordnet", tmp_path)
    assert done.returncode == 2 and "hint: apt install wordnet-base" in done.stderr


@needs_flite
def test_a_build_that_lost_a_file_makes_only_that_again(
    mini: SimpleNamespace, tmp_path: Path, wordnet: Path, human: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = mini.plan.Sizes(0.004, 0.0, 1, 0, 0, 0, 0)
    planned = mini.plan.plan_speech(mini.voices.all_voices()[:3], mini.texts.wordnet_sentences(wordnet), sizes, seed=0)
    planned += mini.plan.plan_humans(human, sizes, planned, seed=0)[-2:]
    mini.make_corpus.make_all(planned, tmp_path, 2, lambda line: None)
    before = {path.name: path.read_bytes() for path in (tmp_path / "audio").iterdir()}
    assert sorted(before) == sorted(Path(item.file_name).name for item in planned)
    for item in planned:
        info = audio_info(tmp_path / item.file_name)
        assert info.sample_rate == 24_000 and info.duration == pytest.approx(mini.plan.seconds_of(item), rel=0.35)
        level = 20 * np.log10(read_audio(tmp_path / item.file_name).std())
        assert level == pytest.approx(-20.0, abs=0.2)

    (tmp_path / planned[0].file_name).unlink()
    made = []
    make = mini.make_corpus.make
    monkeypatch.setattr(mini.make_corpus, "make", lambda item, out: (made.append(item.id), make(item, out)))
    mini.make_corpus.make_all(planned, tmp_path, 2, lambda line: None)
    assert made == [planned[0].id]
    assert {path.name: path.read_bytes() for path in (tmp_path / "audio").iterdir()} == before


def test_results_are_of_test_sentences_in_four_lengths_by_voices_that_are_trained_on_and_that_are_not(mini, sentences):
    voices, plan = mini.voices.all_voices(), mini.plan
    found = plan.plan_results(voices, sentences, {plan.SEEN: 8, plan.UNSEEN: 10}, seed=0)
    assert Counter(u.set for u in found) == {plan.SEEN: 4 * 8, plan.UNSEEN: 4 * 10}
    unseen = {u.speaker for u in found if u.set == plan.UNSEEN}
    assert len(unseen) == 10 and unseen.isdisjoint(voice.name for voice in voices if not voice.test_only)
    assert {u.speaker for u in found if u.set == plan.SEEN} == set(mini.voices.BASES)
    trained = plan.plan_speech(voices, sentences, plan.SMALL, seed=0)
    known = {piece.text for u in trained if u.split != "test" for piece in u.pieces}
    assert not known & {piece.text for u in found for piece in u.pieces}
    for (low, high), chosen in zip(plan.RESULT_LENGTHS, (found[i * 8 : (i + 1) * 8] for i in range(4)), strict=True):
        assert all(low - 4 <= plan.seconds_of(u) <= high for u in chosen)


def test_sampling_is_tuned_on_validation_sentences_by_the_plain_voices(mini, sentences):
    found = mini.plan.plan_tuning(mini.voices.all_voices(), sentences, seed=0)
    assert len(found) == 16 and {utterance.speaker for utterance in found} == set(mini.voices.BASES)
    texts = {mini.plan.SEEN: 4, mini.plan.UNSEEN: 4}
    known = mini.plan.texts_of(mini.plan.plan_results(mini.voices.all_voices(), sentences, texts, seed=0))
    assert not known & mini.plan.texts_of(found)
    assert sum(mini.plan.seconds_of(utterance) < 9.1 for utterance in found) == 12
