from __future__ import annotations

import os

import pytest

from stages.errors import UsageError
from stages.metrics.cases import Case
from stages.metrics.hypotheses import match_hypotheses


def case(name):
    return Case(name, f"words of {name}")


def test_hypotheses_are_matched_by_stem_and_the_rest_is_counted(tmp_path):
    for name in ("a.wav", "b.FLAC", "stranger.wav", "c%2Fd.ogg", "notes.txt"):
        (tmp_path / name).touch()
    found = match_hypotheses([case("a"), case("b"), case("c/d"), case("e")], tmp_path)
    assert {key: path.name for key, path in found.matched.items()} == {"a": "a.wav", "b": "b.FLAC", "c/d": "c%2Fd.ogg"}
    assert found.missing == ("e",)
    assert found.unknown == ("stranger.wav",)


def test_two_files_for_one_utterance_are_refused(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.flac").touch()
    with pytest.raises(UsageError, match=r"`a.flac` and `a.wav` .* both for `a`"):
        match_hypotheses([case("a")], tmp_path)


def test_a_folder_of_other_audio_is_refused_with_a_name_to_use(tmp_path):
    (tmp_path / "x.wav").touch()
    with pytest.raises(UsageError, match=r"1 others, 1 utterances") as caught:
        match_hypotheses([case("a")], tmp_path)
    assert "a.wav" in caught.value.hint
    with pytest.raises(UsageError, match="expected a folder"):
        match_hypotheses([case("a")], tmp_path / "none")


def test_files_are_counted_in_words(tmp_path):
    for name in ("a.wav", "stranger.wav", "another.wav"):
        (tmp_path / name).touch()
    found = match_hypotheses([case("a"), case("b"), case("c"), case("d")], tmp_path)
    assert found.in_words == "1 matched, 3 missing, 2 of no utterance scored here"


@pytest.mark.skipif(os.name == "nt", reason="names there are Unicode")
def test_names_that_are_no_text_are_matched_and_told_in_characters_that_can_be_written(tmp_path):
    for name in (b"caf\xe9.wav", b"str\xe4nger.wav"):
        (tmp_path / os.fsdecode(name)).touch()
    found = match_hypotheses([case("caf%E9")], tmp_path)
    assert set(found.matched) == {"caf%E9"} and found.unknown == ("str%E4nger.wav",)
