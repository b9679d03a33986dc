"""Hugging Face datasets are read offline from disk, and a name that cannot be fetched says what to do."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_corpora import sentence, settings, voice

from stages.artifacts.manifest import read_manifest
from stages.audio.io import encode_audio, read_audio
from stages.curate import run
from stages.curation.hub import _load_folder
from stages.curation.readers import read_corpus
from stages.errors import MissingModelError, UsageError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def dataset(count: int = 3, first: int = 0):
    rows = [
        {
            "audio": {"bytes": encode_audio(voice(i), 24_000, ".flac"), "path": f"{i}.flac"},
            "text": sentence(i), "speaker_id": i % 2, "id": f"clip-{i}", "gender": "f",
        }
        for i in range(first, first + count)
    ]
    return datasets.Dataset.from_list(rows)


def test_a_dataset_saved_to_disk_is_curated(tmp_path):
    dataset(4).save_to_disk(tmp_path / "saved")
    summary = run(settings(tmp_path / "saved", tmp_path / "out"))
    assert (summary["layout"], summary["inputs"], summary["accepted"]) == ("dataset", 4, 4)
    manifest = read_manifest(tmp_path / "out")
    assert [u.text for u in manifest.utterances] == [sentence(i) for i in range(4)]
    assert manifest.utterances[1].speaker == "1" and manifest.utterances[0].extra["gender"] == "f"
    assert np.abs(read_audio(manifest.utterances[2].audio) - voice(2)).max() < 1e-3


def test_the_splits_of_a_dataset_are_kept(tmp_path):
    splits = {"train": dataset(2), "validation": dataset(1, 2), "test": dataset(1, 3)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    corpus = read_corpus(settings(tmp_path / "saved"))
    assert [r.split for r in corpus.recordings] == ["train", "train", "validation", "test"]


def test_a_folder_of_parquet_files_is_read(tmp_path):
    (tmp_path / "pq" / "data").mkdir(parents=True)
    audio = datasets.Audio(decode=False)
    dataset(2).cast_column("audio", audio).to_parquet(tmp_path / "pq" / "data" / "train-00000-of-00001.parquet")
    dataset(1, 2).to_parquet(tmp_path / "pq" / "data" / "test-00000-of-00001.parquet")
    corpus = read_corpus(settings(tmp_path / "pq"))
    assert sorted((r.id, r.split) for r in corpus.recordings) == [
        ("clip-0", "train"), ("clip-1", "train"), ("clip-2", "test"),
    ]
    assert all(r.payload()[:4] == b"fLaC" for r in corpus.recordings)


def test_a_dataset_without_audio_is_refused(tmp_path):
    datasets.Dataset.from_list([{"text": "a"}]).save_to_disk(tmp_path / "saved")
    with pytest.raises(UsageError, match="expected an audio column"):
        read_corpus(settings(tmp_path / "saved"))


def test_references_into_a_dataset_are_refused(tmp_path):
    dataset(1).save_to_disk(tmp_path / "saved")
    with pytest.raises(UsageError, match="no files to refer to"):
        run(settings(tmp_path / "saved", tmp_path / "out", clips="reference"))


def test_a_name_that_cannot_be_fetched_ends_with_a_hint(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingModelError, match="could not fetch the dataset `nobody/nothing`") as caught:
        read_corpus(settings("nobody/nothing"))
    assert caught.value.exit_code == 7 and "hf download" in caught.value.hint


def test_pointers_in_place_of_large_files_are_told(tmp_path):
    (tmp_path / "train-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1\n",
                                                           encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        _load_folder(tmp_path)
    assert "git lfs pull" in caught.value.hint
