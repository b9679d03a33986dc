"""Whisper, CTC and other models of `transformers`: loaded from disk only, and long speech heard whole."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_recognisers import save_ctc, save_whisper

from stages.errors import MissingModelError, UsageError
from stages.speech import hub_transcriber
from stages.speech.hub_transcriber import HubTranscriber, ctc_words
from stages.speech.transcriber import Transcript, Word, load_transcriber

RATE = 16_000
WORD_SECONDS, NUM_WORDS = 0.4, 200


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"whisper": save_whisper(root / "tiny-whisper"), "ctc": save_ctc(root / "tiny-ctc"),
            "english": save_whisper(root / "tiny-whisper.en", multilingual=False),
            "untimed": save_whisper(root / "untimed", timestamps=False)}  # fmt: skip


@pytest.fixture
def greedy(monkeypatch):
    """Random weights always look like nonsense to Whisper's fallback, which then tries six times."""
    monkeypatch.setitem(hub_transcriber._WHISPER_FALLBACK, "temperature", (0.0,))


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def numbered_speech():
    """80 s in which word n is 0.4 s of the value (n + 1) / 1000."""
    return np.repeat(np.arange(1, NUM_WORDS + 1, dtype=np.float32) / 1000, round(WORD_SECONDS * RATE))


def read_numbers(samples):
    """Hear `numbered_speech`; of a word that a window cuts only a bit, something else."""
    words, at = [], 0
    for value, run in groupby(np.round(samples * 1000).astype(int).tolist()):
        length = len(list(run))
        text = f"w{value - 1}" if length > 0.9 * WORD_SECONDS * RATE else "er"
        words.append(Word(text, at / RATE, (at + length) / RATE))
        at += length
    return words


@pytest.mark.parametrize("kind", ["whisper", "ctc"])
def test_long_speech_is_heard_whole_in_windows_of_at_most_30_seconds(models, kind):
    listener = load_transcriber(str(models[kind]))
    listener._load()
    given_to_model = []
    listener._hear = lambda samples: given_to_model.append(len(samples)) or read_numbers(samples)
    heard = listener.transcribe(numbered_speech(), RATE)
    assert heard.text == " ".join(f"w{number}" for number in range(NUM_WORDS))
    assert [word.text for word in heard.words] == heard.text.split()
    starts = np.array([word.start for word in heard.words])
    np.testing.assert_allclose(starts, WORD_SECONDS * np.arange(NUM_WORDS), atol=0.01)
    assert len(given_to_model) == 3 and max(given_to_model) <= 30 * RATE
    assert sum(given_to_model) >= (80 + 2 * 5) * RATE  # everything, and what neighbours share


def test_every_sample_of_any_length_reaches_the_model(models, monkeypatch):
    listener = load_transcriber(str(models["ctc"]))
    listener._load()
    for seconds in (0.5, 29.9, 30.0, 30.1, 55.0, 61.7):
        waveform = np.arange(1, round(seconds * RATE) + 1, dtype=np.float32) * 1e-6
        pieces = []
        monkeypatch.setattr(listener, "_hear", lambda samples, pieces=pieces: pieces.append(samples) or [])
        listener.transcribe(waveform, RATE)
        assert np.array_equal(np.unique(np.concatenate(pieces)), waveform)
        assert max(map(len, pieces)) <= 30 * RATE


@pytest.mark.usefixtures("greedy")
@pytest.mark.parametrize("kind", ["whisper", "english", "untimed", "ctc"])
def test_models_of_real_architectures_hear_the_same_in_the_same_speech(models, kind):
    listener = load_transcriber(str(models[kind]))
    waveform = noise(31.0)
    first, _, again = (listener.transcribe(sound, RATE) for sound in (waveform, noise(2.0, seed=1), waveform))
    assert first == again and isinstance(first, Transcript)
    assert all(0 <= word.start <= word.end <= 31.0 for word in first.words)
    assert all(a.end <= b.start for a, b in pairwise(first.words))


def test_what_whisper_draws_where_it_is_unsure_is_the_same_each_time(models):
    """Random weights are always unsure, so every temperature is tried."""
    listener = load_transcriber(str(models["whisper"]))
    first, again = (listener.transcribe(noise(1.0), RATE) for _ in range(2))
    assert first == again and first.words


@pytest.mark.usefixtures("greedy")
@pytest.mark.parametrize("kind", ["whisper", "ctc"])
def test_other_sample_rates_reach_the_model_at_its_own(models, kind):
    listener = load_transcriber(str(models[kind]))
    listener._load()
    seen = []
    listener._hear = lambda samples: seen.append(len(samples)) or []
    listener.transcribe(noise(3.0)[: 3 * 8000], 8000)
    assert seen == [3 * RATE]


@pytest.mark.parametrize("num_samples", [0, 100, 40 * RATE])
def test_nothing_is_heard_in_silence_and_the_model_is_not_asked(models, num_samples):
    listener = load_transcriber(str(models["whisper"]))
    listener._load()
    listener._hear = lambda samples: pytest.fail("asked")
    assert listener.transcribe(np.zeros(num_samples, np.float32), RATE) == Transcript("")


def test_a_few_samples_of_sound_are_no_word(models):
    for num_samples in (1, 300, 1500):
        assert load_transcriber(str(models["ctc"])).transcribe(noise(1.0)[:num_samples], RATE) == Transcript("")


def test_whisper_is_told_the_language_and_its_words_lie_in_their_segments(models, monkeypatch):
    listener = load_transcriber(str(models["whisper"]), language="zh-CN")
    listener._load()
    told = {}
    model = listener._hear.__closure__

    def generate(*_, **options):
        told.update(options)
        tokens = [ord(letter) - ord("!") for letter in "ab"]  # the byte alphabet begins with the exclamation mark
        return {"segments": [[{"start": 0.0, "end": 2.0, "tokens": tokens},
                              {"start": 9.0, "end": 12.0, "tokens": tokens},
                              {"start": 11.0, "end": 14.0, "tokens": tokens}]]}

    owner = next(cell.cell_contents for cell in model if hasattr(cell.cell_contents, "generate"))
    monkeypatch.setattr(owner, "generate", generate)
    heard = listener.transcribe(noise(10.0), RATE)
    assert told["language"] == "zh" and told["task"] == "transcribe" and told["return_timestamps"]
    assert heard.words == (Word("ab", 0.0, 2.0), Word("ab", 9.0, 10.0))  # nothing after the sound
    assert "language zh" in listener.version


@pytest.mark.parametrize(("kind", "language"), [("whisper", "xx"), ("english", "zh")])
def test_a_language_that_whisper_does_not_know_is_refused(models, kind, language):
    with pytest.raises(UsageError, match=f"does not know the language `{language}`"):
        load_transcriber(str(models[kind]), language=language).transcribe(noise(1.0), RATE)


def slow_ctc(letters, seconds):
    """Collapse, drop blanks, split at spaces, one frame at a time."""
    spans, previous = [], None
    for frame, letter in enumerate(letters):
        if letter == previous:
            if spans and spans[-1][0] == letter and letter.strip():
                spans[-1][2] = frame + 1
        elif letter:
            spans.append([letter, frame, frame + 1])
        previous = letter
    words, current = [], []
    for span in [*spans, [" ", 0, 0]]:
        if span[0] != " ":
            current.append(span)
        elif current:
            words.append(Word("".join(s[0] for s in current), current[0][1] * seconds, current[-1][2] * seconds))
            current = []
    return words


@given(st.lists(st.sampled_from(["a", "b", "", " "]), max_size=30))
def test_ctc_frames_become_words_as_a_slow_loop_makes_them(letters):
    assert ctc_words(letters, 0.5) == slow_ctc(letters, 0.5)


def test_ctc_words_by_hand():
    assert ctc_words(["", "a", "a", "", "a", " ", " ", "b", ""], 1.0) == [Word("aa", 1.0, 5.0), Word("b", 7.0, 8.0)]


def test_name_and_version_tell_models_apart(models, tmp_path):
    whisper, ctc = (load_transcriber(str(models[kind])) for kind in ("whisper", "ctc"))
    assert (whisper.name, ctc.name) == ("tiny-whisper", "tiny-ctc")
    assert "transformers" in ctc.version and "30 s" in ctc.version
    changed = shutil.copytree(models["ctc"], tmp_path / "tiny-ctc")
    weights = changed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert load_transcriber(str(changed)).version != ctc.version
    assert load_transcriber(str(models["ctc"])).version == ctc.version


def test_weights_are_loaded_at_the_first_sound_only(models):
    listener = load_transcriber(str(models["ctc"]))
    assert listener._hear is None
    listener.transcribe(noise(0.5), RATE)
    assert listener._hear is not None


def test_a_model_that_is_not_here_says_how_to_fetch_it(tmp_path):
    with pytest.raises(MissingModelError, match="`openai/whisper-large-v3` on this machine") as caught:
        load_transcriber("openai/whisper-large-v3")
    assert "hf download openai/whisper-large-v3" in caught.value.hint
    with pytest.raises(MissingModelError, match="on this machine"):
        load_transcriber(str(tmp_path))


def test_half_a_download_counts_as_missing(models, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(models["ctc"] / "config.json", half)
    with pytest.raises(MissingModelError, match="on this machine"):
        load_transcriber(str(half))


def test_a_model_that_cannot_be_read_says_what_is_wrong(models, tmp_path):
    broken = shutil.copytree(models["ctc"], tmp_path / "broken")
    (broken / "preprocessor_config.json").unlink(missing_ok=True)
    (broken / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(MissingModelError, match="cannot be loaded"):
        load_transcriber(str(broken)).transcribe(noise(0.5), RATE)


def test_a_model_that_is_no_recogniser_is_refused(models, tmp_path):
    other = shutil.copytree(models["ctc"], tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["Wav2Vec2ForXVector"]}),
                                       encoding="utf-8")
    with pytest.raises(UsageError, match="is no recogniser: it is a Wav2Vec2ForXVector"):
        load_transcriber(str(other))


def test_a_missing_package_says_how_to_install_it(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(hub_transcriber, "find_spec", lambda name: None)
    with pytest.raises(MissingModelError, match="not installed") as caught:
        HubTranscriber(str(models["ctc"]))
    assert "halle[hf]" in caught.value.hint
