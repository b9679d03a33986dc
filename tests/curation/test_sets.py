"""Shorter sets are the same speech, cut in pauses; Table 2 counts them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.artifacts import storage
from stages.artifacts.manifest import read_manifest
from stages.config.stage_configs import CurateConfig
from stages.curation.sets import cut_rows, write_sets
from stages.curation.statistics import table, table_line
from stages.speech.transcriber import Word

PAUSES = (0.02, 0.1, 0.3, 0.8)


def row(words: list[Word], name: str = "ep-0001", **columns) -> dict:
    """A clip that begins 0.1 s before its first word and ends 0.1 s after its last, 100 s into a shard."""
    return {"id": name, "audio": "shards/00000.flac", "start": 100.0,
            "duration": round(words[-1].end - words[0].start + 0.2, 6), "speaker": "ep-A",
            "text": " ".join(word.text for word in words), "split": "train", "words": len(words),
            "source": "ep.mp3", "source_start": round(words[0].start - 0.1, 6), "license": "CC0", **columns}


def spoken(pauses: list[float], start: float = 50.0) -> list[Word]:
    """Words of 0.4 s with these pauses after them."""
    words = []
    for index, pause in enumerate(pauses):
        words.append(Word(f"w{index}", round(start, 6), round(start + 0.4, 6)))
        start += 0.4 + pause
    return words


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(PAUSES), min_size=20, max_size=120), st.floats(4.0, 12.0))
def test_pieces_are_within_the_limits_in_order_and_never_cut_a_word(pauses, longest):
    words = spoken(pauses)
    whole = row(words)
    pieces = cut_rows([whole], lambda _: words, 3.0, longest)
    if whole["duration"] <= longest:
        assert pieces == [whole]
        return
    end = whole["start"]
    for piece in pieces:
        assert 3.0 <= piece["duration"] <= longest + 1e-9
        assert piece["start"] >= end - 1e-6
        end = piece["start"] + piece["duration"]
        origin = piece["source_start"]
        inside = [word for word in words if origin <= word.start and word.end <= origin + piece["duration"]]
        assert piece["text"] == " ".join(word.text for word in inside) and piece["words"] == len(inside)
        assert piece["start"] - whole["start"] == pytest.approx(origin - whole["source_start"])
    assert end <= whole["start"] + whole["duration"] + 1e-6
    assert len({piece["id"] for piece in pieces}) == len(pieces)


def test_cuts_are_in_the_long_pauses_and_all_columns_are_kept():
    words = spoken([0.02] * 9 + [0.8] + [0.02] * 9 + [0.8] + [0.02] * 9 + [0.1])
    pieces = cut_rows([row(words)], lambda _: words, 3.0, 6.0)
    assert [piece["id"] for piece in pieces] == ["ep-0001-01", "ep-0001-02", "ep-0001-03"]
    assert [piece["text"].split()[0] for piece in pieces] == ["w0", "w10", "w20"]
    assert {piece["license"] for piece in pieces} == {"CC0"} and pieces[1]["audio"] == "shards/00000.flac"
    assert pieces[1]["duration"] == pytest.approx(10 * 0.4 + 9 * 0.02 + 0.4)  # 0.2 s of each pause stay


def test_speech_without_a_pause_is_left_out():
    words = spoken([0.02] * 40)
    assert cut_rows([row(words)], lambda _: words, 3.0, 6.0) == []


def test_a_set_is_a_manifest_of_its_own_that_reads_the_same_clips(tmp_path):
    words = spoken([0.02] * 9 + [0.8] + [0.02] * 9 + [0.1])
    rows = [row(words), row(words[:10], "ep-0002", split="test")]
    found = write_sets(rows, lambda _: words, CurateConfig(sets=(28, 6)), tmp_path)
    assert {name: len(of_set) for name, of_set in found.items()} == {"28s": 2, "6s": 3}
    read = read_manifest(tmp_path / "sets" / "6s").utterances
    assert {utterance.audio for utterance in read} == {(tmp_path / "shards" / "00000.flac").resolve()}
    assert [utterance.split for utterance in read] == ["train", "train", "test"]


def test_a_set_of_recordings_referred_to_points_there_too(tmp_path):
    storage.write_json(tmp_path / "manifest.json", {"audio_root": "/somewhere"})
    words = spoken([0.3] * 30)
    write_sets([row(words)], lambda _: words, CurateConfig(sets=(6,)), tmp_path)
    assert storage.read_json(tmp_path / "sets" / "6s" / "manifest.json")["audio_root"] == "/somewhere"


def test_sets_are_shorter_than_the_utterances():
    with pytest.raises(ValueError, match="sets should lie between min_seconds and max_seconds"):
        CurateConfig(sets=(180,), max_seconds=90)


def test_the_table_counts_every_split_as_the_paper_does():
    texts = ["one two three four", "five six", "seven"]
    facts = zip(("train", "train", "test"), (10.0, 28.0, 20.0), texts, strict=True)
    rows = [{"split": split, "duration": seconds, "text": text} for split, seconds, text in facts]
    train, test = table({"28s": rows})
    assert (train["name"], test["name"]) == ("train-28s", "test-28s")
    assert {key: train[key] for key in ("clips", "mean_seconds", "sd_seconds", "hours", "words")} == {
        "clips": 2, "mean_seconds": 19.0, "sd_seconds": 9.0, "hours": round(38 / 3600, 4), "words": 6}
    assert (train["audio_rate"], train["max_audio_tokens"]) == (48, 1344)  # as in Table 2
    assert train["max_tokens"] == 1344 + train["max_text_tokens"] and 4 <= train["max_text_tokens"] <= 19
    assert "1344 audio +" in table_line(train) and "†" not in table_line(train)


def test_long_sets_count_their_audio_tokens_at_8_hz():
    train, = table({"90s": [{"split": "train", "duration": 90.0, "text": "a b"}]})
    assert (train["audio_rate"], train["max_audio_tokens"]) == (8, 720) and "720† audio" in table_line(train)
