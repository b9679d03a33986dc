from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from stages.errors import MissingModelError, UsageError
from stages.speech import quick_whisper
from stages.speech.transcriber import Word, load_transcriber

RATE = 16_000


class Model:
    """What faster-whisper's model does with sound, seen from outside."""

    supported_languages = ("en",)
    made: list[tuple] = []  # noqa: RUF012

    def __init__(self, *arguments, **settings):
        Model.made.append((arguments, settings))

    def transcribe(self, samples, **settings):
        Model.heard = (len(samples), settings)
        word = SimpleNamespace
        yes = SimpleNamespace(words=[word(word=" Hello", start=0.1, end=0.5), word(word=" there.", start=0.5, end=9.0)])
        return iter([yes, SimpleNamespace(words=None)]), None


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Stand in for the packages, which are not needed to test what is made of their answers."""
    package, utils = ModuleType("faster_whisper"), ModuleType("faster_whisper.utils")

    def download_model(name, local_files_only):
        assert local_files_only
        raise ValueError(name)

    package.WhisperModel, utils.download_model = Model, download_model
    for module in (package, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(quick_whisper, "find_spec", lambda name: object())
    monkeypatch.setattr(quick_whisper, "version", lambda name: "1.2.1")
    Model.made.clear()
    return str(tmp_path)


def test_words_come_with_times_that_stay_within_the_sound(installed):
    transcriber = load_transcriber(f"faster-whisper:{installed}", "en-US", "cuda:1")
    assert not Model.made  # loading waits for the first sound
    transcript = transcriber.transcribe(np.full(2 * 8000, 0.1, np.float32), 8000)
    assert transcript.words == (Word("Hello", 0.1, 0.5), Word("there.", 0.5, 2.0))
    assert transcript.text == "Hello there."
    assert Model.made == [((installed,), {"device": "cuda", "device_index": 1, "compute_type": "float16"})]
    assert Model.heard[0] == 2 * RATE
    assert Model.heard[1]["word_timestamps"] is True
    assert Model.heard[1]["temperature"] == 0.0  # the same sound gives the same words


def test_silence_is_not_listened_to(installed):
    transcriber = load_transcriber(f"faster-whisper:{installed}")
    assert transcriber.transcribe(np.zeros(RATE, np.float32), RATE).words == ()
    assert not Model.made


def test_a_model_that_is_not_there_is_named_and_nothing_downloaded(installed):
    with pytest.raises(MissingModelError, match="faster-whisper:distil-large-v3") as raised:
        load_transcriber("faster-whisper:distil-large-v3")
    assert "hf download" in raised.value.hint


def test_a_language_that_the_model_lacks_is_refused(installed):
    with pytest.raises(UsageError, match="`th`"):
        load_transcriber(f"faster-whisper:{installed}", "th").transcribe(np.ones(RATE, np.float32), RATE)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(quick_whisper, "find_spec", lambda name: None)
    with pytest.raises(MissingModelError) as raised:
        load_transcriber("faster-whisper:tiny")
    assert raised.value.hint == "pip install 'halle[faster-whisper]'"
