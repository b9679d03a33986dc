from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.artifacts.manifest import Manifest, Utterance, read_manifest, write_manifest
from stages.audio.io import write_audio
from stages.data import waveforms
from stages.data.waveforms import (
    WaveformCrops,
    allowed_bad,
    crop_length,
    own_items,
    training_and_validation_crops,
)
from stages.errors import BadInputsError, UsageError

RATE = 8000


def make_utterances(folder, seconds=(1.0, 2.0, 0.2), split="train") -> list[Utterance]:
    """Ramps, so that a crop's values tell where it begins."""
    rows = []
    for number, duration in enumerate(seconds):
        path = folder / f"{split}{number}.wav"
        write_audio(path, np.linspace(-0.9, 0.9, int(duration * RATE), dtype=np.float32), RATE)
        rows.append(Utterance(f"{split}{number}", path, 0.0, duration, "a", "x", split))
    return rows


def manifest_of(folder, utterances) -> Manifest:
    write_manifest(folder, [{**vars(row), "audio": row.audio.relative_to(folder).as_posix()} for row in utterances])
    return read_manifest(folder)


def test_a_crop_is_a_function_of_seed_step_and_index(tmp_path) -> None:
    rows = make_utterances(tmp_path)
    first, second = (WaveformCrops(rows, RATE, 2000, seed=3) for _ in range(2))
    second.batch(7, range(5))  # what was asked before must not matter
    assert torch.equal(first.batch(4, range(6)), second.batch(4, range(6)))
    assert torch.equal(first.batch(4, range(6))[2:4], second.batch(4, [2, 3]))
    assert not torch.equal(first.batch(4, [0]), first.batch(5, [0]))
    assert not torch.equal(first.batch(4, [0]), WaveformCrops(rows, RATE, 2000, seed=4).batch(4, [0]))
    assert first.batch(4, range(6)).shape == (6, 1, 2000)


def test_crops_are_the_same_whether_files_are_kept_in_memory_or_not(tmp_path, monkeypatch) -> None:
    rows = make_utterances(tmp_path)
    kept = WaveformCrops(rows, RATE, 2000, seed=3).batch(1, range(8))
    monkeypatch.setattr(waveforms, "CACHE_BYTES", 0)
    assert torch.equal(WaveformCrops(rows, RATE, 2000, seed=3).batch(1, range(8)), kept)


def test_utterances_are_drawn_by_duration_and_starts_uniformly(tmp_path) -> None:
    crops = WaveformCrops(make_utterances(tmp_path), RATE, 2000, seed=0)
    found = np.stack([crops.crop(1, index) for index in range(600)])
    slopes = found[:, 1000] - found[:, 0]  # the 2 s ramp is half as steep
    steep, gentle = slopes > 0.17, slopes < 0.17
    assert 0.6 < gentle.mean() < 0.74
    starts = (found[gentle, 0] + 0.9) / (0.9 * 2 * (16_000 - 2000) / 16_000)
    assert starts.min() < 0.02 and starts.max() > 0.98 and abs(starts.mean() - 0.5) < 0.06
    assert steep.any()


def test_a_part_of_a_recording_stays_inside_its_span(tmp_path) -> None:
    (whole,) = make_utterances(tmp_path, (2.0,))
    part = Utterance("p", whole.audio, 1.0, 0.5, "a", "x", "train")
    found = WaveformCrops([part], RATE, 2000, seed=0).batch(1, range(30))
    assert float(found.min()) >= -0.01 and float(found.max()) <= 0.46


def test_short_utterances_are_left_out_and_counted(tmp_path) -> None:
    crops = WaveformCrops(make_utterances(tmp_path), RATE, 2000, seed=0)
    assert (len(crops), crops.num_left_out) == (2, 1)


def test_only_short_utterances_are_refused_with_a_hint(tmp_path) -> None:
    with pytest.raises(UsageError, match="expected at least 4 s, the longest of `3` has 2 s") as caught:
        WaveformCrops(make_utterances(tmp_path), RATE, 4 * RATE, seed=0)
    assert "crop_seconds" in caught.value.hint


def test_a_bad_file_is_replaced_by_another_draw_until_there_are_too_many(tmp_path, caplog) -> None:
    rows = make_utterances(tmp_path)
    rows[1].audio.write_bytes(b"not audio at all")
    crops = WaveformCrops(rows, RATE, 2000, seed=0, max_bad="1")
    assert crops.batch(1, range(20)).shape == (20, 1, 2000)
    assert sum("left out" in message for message in caplog.messages) == 1
    with pytest.raises(BadInputsError, match="`1` of 2 recordings"):
        WaveformCrops(rows, RATE, 2000, seed=0, max_bad="1%").batch(1, range(20))


def test_all_files_bad_ends_whatever_is_allowed(tmp_path) -> None:
    rows = make_utterances(tmp_path)
    for row in rows:
        row.audio.unlink()
    with pytest.raises(BadInputsError):
        WaveformCrops(rows, RATE, 2000, seed=0, max_bad="100%").batch(1, range(4))


def test_crops_after_too_many_bad_files_end_too(tmp_path) -> None:
    rows = make_utterances(tmp_path)
    for row in rows:
        row.audio.unlink()
    crops = WaveformCrops(rows, RATE, 2000, seed=0)
    for index in range(6):  # as threads that read ahead ask, whatever became of the others
        with pytest.raises(BadInputsError, match="of 2 recordings cannot be read"):
            crops.crop(1, index)


def test_validation_uses_its_own_split_or_says_that_it_does_not(tmp_path, caplog) -> None:
    train, held_out = make_utterances(tmp_path), make_utterances(tmp_path, (1.0,), "validation")
    both = manifest_of(tmp_path, [*train, *held_out])
    crops, validation = training_and_validation_crops(both, RATE, 2000, 0, "10%")
    assert (len(crops), len(validation)) == (2, 1)
    assert any("1 of 3 training utterances are shorter" in message for message in caplog.messages)
    _, validation = training_and_validation_crops(manifest_of(tmp_path, train), RATE, 2000, 0, "10%")
    assert len(validation) == 2
    assert any("the manifest has no validation utterance" in message for message in caplog.messages)
    short = manifest_of(tmp_path, [*train, *make_utterances(tmp_path, (0.1,), "validation")])
    training_and_validation_crops(short, RATE, 2000, 0, "10%")
    assert any("no validation utterance is as long as a crop" in message for message in caplog.messages)


def test_processes_and_micro_batches_share_the_global_batch() -> None:
    parts = [own_items(12, 3, micro, rank, 2) for micro in range(3) for rank in range(2)]
    assert [index for part in parts for index in part] == list(range(12))
    with pytest.raises(UsageError, match="2 processes divide, got `12`"):
        own_items(12, 4, 0, 0, 2)


def test_crops_are_whole_frames_and_long_enough() -> None:
    assert crop_length(1.01, 24_000, 3000, 2048) == 24_000
    assert crop_length(0.01, 24_000, 3000, 2048) == 3000
    with pytest.raises(UsageError, match=r"at least 0\.085 s"):
        crop_length(0.01, 24_000, 500, 2048)


@pytest.mark.parametrize("text, allowed", [("3", 3), ("10%", 20), ("0.5%", 1), ("0", 0)])
def test_bad_inputs_are_allowed_by_count_or_share(text: str, allowed: int) -> None:
    assert allowed_bad(text, 200) == allowed


def test_a_malformed_allowance_is_refused() -> None:
    with pytest.raises(UsageError, match="got `many`"):
        allowed_bad("many", 10)
