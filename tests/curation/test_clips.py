"""Clips in shards: the same samples as in files of their own, the same bytes whoever writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_corpora import audio_folder
from tiny_corpora import settings as config_of

from stages.artifacts import storage
from stages.artifacts.manifest import read_manifest
from stages.audio import recording
from stages.audio.base import AudioError
from stages.audio.end_to_end import write_end_to_end
from stages.audio.io import audio_info, read_audio, write_audio
from stages.config.stage_configs import CurateConfig
from stages.curate import plan, run
from stages.curation import clips
from stages.curation.clips import write_utterances
from stages.curation.recordings import Recording
from stages.curation.screening import Take
from stages.curation.segmentation import Assembly
from stages.data.waveforms import WaveformCrops


@pytest.fixture(autouse=True)
def five_clips_a_shard(monkeypatch):
    monkeypatch.setattr(clips, "SHARD_CLIPS", 5)


def curate(source: Path, out: Path, **changes) -> list:
    run(config_of(source, out, validation_share=0, test_share=0, **changes))
    storage.verify_checksums(out)
    return list(read_manifest(out).utterances)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def assemblies_of(folder: Path, count: int = 12, seconds: float = 0.5) -> list[Assembly]:
    """Parts of one recording, each of another length."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * count * 2 * 24_000)).astype(np.float32)
    write_audio(folder / "source.flac", noise, 24_000)
    made = []
    for number in range(count):
        duration = seconds + number / 24_000
        part = Recording(f"u{number}", folder / "source.flac", "source.flac", "x", start=number * seconds,
                         duration=duration)
        made.append(Assembly(part.id, "train", (Take(part, duration, 24_000),)))
    return made


def stop() -> None:
    raise KeyboardInterrupt


def samples(row) -> np.ndarray:
    return read_audio(row.audio, start=row.start, duration=row.duration)


@pytest.mark.parametrize("changes", [{}, {"sample_rate": 16_000, "loudness_db": -20.0}, {"join_seconds": (4.0, 9.0)}])
def test_shards_hold_the_samples_that_files_of_one_clip_hold(tmp_path, changes):
    source = audio_folder(tmp_path / "src", 12, seconds=2.0)
    single = curate(source, tmp_path / "single", clips="flac", **changes)
    shards = curate(source, tmp_path / "shards", clips="shards", **changes)
    assert {row.audio.name for row in shards} == {f"{number:05d}.flac" for number in range(-(-len(single) // 5))}
    assert not (tmp_path / "shards" / "clips").exists()
    for one, other in zip(single, shards, strict=True):
        assert np.array_equal(samples(one), samples(other))
        assert (one.id, one.duration, one.text, one.extra) == (other.id, other.duration, other.text, other.extra)
    assert shards[1].start == shards[0].duration > 0
    crops = [WaveformCrops(rows, 24_000, 12_000, seed=1).batch(2, range(8)) for rows in (single, shards)]
    assert np.array_equal(*crops), "training hears the same"


@pytest.mark.parametrize("kind", ["flac", "shards"])
def test_a_recording_is_decoded_once_for_all_of_its_clips(tmp_path, monkeypatch, kind):
    (tmp_path / "sub").mkdir()
    assemblies = [*assemblies_of(tmp_path, 6), *(replace(one, id=f"v{one.id}") for one in
                                                assemblies_of(tmp_path / "sub", 6))]
    config, decoded, decode = CurateConfig(clips=kind, workers=1), [], recording.stream_audio

    def counted(path):
        decoded.append(path.relative_to(tmp_path).as_posix())
        yield from decode(path)

    monkeypatch.setattr(recording, "stream_audio", counted)
    rows = write_utterances(None, assemblies, config, tmp_path / "once", in_order=True)
    assert len(rows) == 12 and decoded == ["source.flac", "sub/source.flac"]
    assert rows == write_utterances(None, assemblies, config, tmp_path / "sought")
    folder = "shards" if kind == "shards" else "clips"
    assert contents(tmp_path / "once" / folder) == contents(tmp_path / "sought" / folder)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=9), rate=st.sampled_from([8000, 44_100, 96_000]),
       ask=st.data())
def test_any_part_of_any_clip_is_found_to_the_sample(tmp_path_factory, lengths, rate, ask):
    path = tmp_path_factory.mktemp("shard") / "00000.flac"
    noise = np.random.default_rng(len(lengths)).uniform(-1, 1, sum(lengths)).astype(np.float32)
    ends = np.cumsum(lengths)
    assert write_end_to_end(path, np.split(noise, ends[:-1]), rate) == lengths
    number = ask.draw(st.integers(0, len(lengths) - 1))
    first = ask.draw(st.integers(0, lengths[number] - 1))
    count = ask.draw(st.integers(1, lengths[number] - first))
    start = round(float(ends[number] - lengths[number]) / rate, 6)  # as the manifest says it
    found = read_audio(path, start=start + first / rate, duration=count / rate)
    begin = ends[number] - lengths[number] + first
    assert len(found) == count and np.abs(found - noise[begin : begin + count]).max() <= 2**-15


def test_a_clip_an_hour_into_a_shard_is_found_to_the_sample(tmp_path):
    tick = np.random.default_rng(0).uniform(-1, 1, 999).astype(np.float32)
    silence = np.zeros(3600 * 24_000 // 100 + 7, dtype=np.float32)
    lengths = write_end_to_end(tmp_path / "a.flac", [*[silence] * 100, tick, silence], 24_000)
    start = round(sum(lengths[:100]) / 24_000, 6)
    found = read_audio(tmp_path / "a.flac", start=start, duration=999 / 24_000)
    assert start > 3600 and np.abs(found - tick).max() <= 2**-15


def test_any_number_of_workers_and_processes_writes_the_same_bytes(tmp_path):
    assemblies = assemblies_of(tmp_path)
    rows, bytes_written = [], []
    for name, workers, processes in (("one", 1, 1), ("four", 4, 1), ("two", 2, 3)):
        config, out = CurateConfig(clips="shards", workers=workers), tmp_path / name
        for rank in reversed(range(processes)):
            write_utterances(tmp_path, assemblies, config, out, rank, processes)
        rows.append(write_utterances(tmp_path, assemblies, config, out))
        bytes_written.append(contents(out / "shards"))
    assert len(bytes_written[0]) == 6 and len(rows[0]) == 12
    assert rows[0] == rows[1] == rows[2] and bytes_written[0] == bytes_written[1] == bytes_written[2]


@pytest.mark.parametrize("stopped_at, allowed", [("_render", 7), ("write_json", 1), ("_flush_file", 3)])
def test_a_stopped_run_goes_on_with_the_shards_that_are_missing(tmp_path, monkeypatch, stopped_at, allowed):
    """Stopped in the second shard of 5, 5 and 2 clips: at a clip, before its JSON is written, and just after."""
    assemblies, config = assemblies_of(tmp_path), CurateConfig(clips="shards", workers=1)
    expected = write_utterances(tmp_path, assemblies, config, tmp_path / "whole")
    place = clips if stopped_at == "_render" else storage
    function, calls = getattr(place, stopped_at), []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) > allowed:
            raise KeyboardInterrupt
        return function(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(place, stopped_at, stop)
        with pytest.raises(KeyboardInterrupt):
            write_utterances(tmp_path, assemblies, config, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out" / "shards").glob("*.flac")] == ["00000.flac"]
    done, render = [], clips._render
    monkeypatch.setattr(clips, "_render", lambda *given: done.append(given) or render(*given))
    assert write_utterances(tmp_path, assemblies, config, tmp_path / "out") == expected
    assert len(done) == 7
    assert contents(tmp_path / "out" / "shards") == contents(tmp_path / "whole" / "shards")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_shard_of_other_clips_is_not_taken(tmp_path, monkeypatch, stopped):
    assemblies, config = assemblies_of(tmp_path), CurateConfig(clips="shards", workers=1)
    write_utterances(tmp_path, assemblies[1:], config, tmp_path / "out")
    if stopped:  # when the new JSON is there and the new shard is not
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(storage, "_flush_file", lambda path: path.stat() if path.suffix == ".json" else stop())
            write_utterances(tmp_path, assemblies, config, tmp_path / "out")
    rows = write_utterances(tmp_path, assemblies, config, tmp_path / "out")
    write_utterances(tmp_path, assemblies, config, tmp_path / "fresh")
    assert [row["id"] for row in rows] == [f"u{number}" for number in range(12)]
    assert contents(tmp_path / "out" / "shards") == contents(tmp_path / "fresh" / "shards")


def test_a_shard_is_full_by_clips_or_by_seconds(tmp_path, monkeypatch):
    assemblies, config = assemblies_of(tmp_path), CurateConfig(clips="shards")
    monkeypatch.setattr(clips, "SHARD_SECONDS", 1.6)
    write_utterances(tmp_path, assemblies, config, tmp_path / "out")
    assert [len(storage.read_json(file)["ids"]) for file in sorted((tmp_path / "out").rglob("*.json"))] == [3, 3, 3, 3]
    monkeypatch.setattr(clips, "SHARD_SECONDS", 0.1)
    rows = write_utterances(tmp_path, assemblies, config, tmp_path / "long")
    assert len({row["audio"] for row in rows}) == 12, "a clip that is longer has a shard of its own"


def test_many_clips_go_into_shards_unless_files_are_asked_for(tmp_path, monkeypatch):
    source = audio_folder(tmp_path / "src", 3)
    monkeypatch.setattr(clips, "MANY_CLIPS", 3)
    assert {row.audio.parent.name for row in curate(source, tmp_path / "three")} == {"clips"}
    monkeypatch.setattr(clips, "MANY_CLIPS", 2)
    assert {row.audio.parent.name for row in curate(source, tmp_path / "many")} == {"shards"}
    assert {row.audio.parent.name for row in curate(source, tmp_path / "files", clips="flac")} == {"clips"}
    told = plan(config_of(source, tmp_path / "new", clips="shards"))["clips"]
    assert told == f"24000 Hz FLAC in {(tmp_path / 'new' / 'shards').as_posix()}"


def test_other_settings_leave_no_shard_of_before(tmp_path):
    source = audio_folder(tmp_path / "src", 6, seconds=2.0)
    curate(source, tmp_path / "out", clips="shards")
    rows = curate(source, tmp_path / "out", clips="shards", loudness_db=-30.0, allow_change=("loudness_db",))
    assert np.sqrt(np.mean(samples(rows[0]) ** 2)) == pytest.approx(10 ** (-30 / 20), rel=0.01)
    curate(source, tmp_path / "out", clips="flac", loudness_db=-30.0, allow_change=("clips",))
    assert not (tmp_path / "out" / "shards").exists()


def test_what_is_curated_again_still_tells_where_it_came_from(tmp_path):
    source = audio_folder(tmp_path / "src", 6, seconds=2.0)
    first = curate(source, tmp_path / "shards", clips="shards")
    again = curate(tmp_path / "shards", tmp_path / "again")
    assert first[1].start > 0 and again[1].start == 0
    assert all(np.array_equal(samples(one), samples(other)) for one, other in zip(first, again, strict=True))
    for rows in (first, again):
        told = [(row.extra["source"], row.extra["source_start"]) for row in rows]
        assert told == [(f"u{number:02d}.wav", 0.0) for number in range(6)]


def test_samples_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(AudioError, match="NON_FINITE"):
        write_end_to_end(tmp_path / "a.flac", [np.zeros(9), np.full(9, np.nan)], 24_000)
    write_end_to_end(tmp_path / "b.flac", [np.full(9, 7.0)], 24_000)
    assert read_audio(tmp_path / "b.flac").tolist() == pytest.approx([1.0] * 9, abs=1e-4)
    assert audio_info(tmp_path / "b.flac").num_samples == 9
