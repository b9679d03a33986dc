"""Step `check`: what a recording is, decoded once, and why it cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from tiny_corpora import record, settings, voice

from stages.artifacts.storage import sha256_file
from stages.audio.io import read_audio
from stages.audio.loudness import loudness
from stages.curation.recordings import Recording
from stages.curation.soundness import CHECK


def check(path, **changes) -> dict:
    recording = Recording(path.stem, path, path.name, None)
    return CHECK.run(recording, {}, settings(path.parent, **{"min_rate": 8000, **changes}))


def stereo(path, left: np.ndarray, right: np.ndarray, rate: int = 24_000):
    soundfile.write(path, np.stack([left, right], axis=1), rate, subtype="PCM_16")
    return path


def test_a_sound_recording_is_described(tmp_path):
    path = record(tmp_path / "a.flac", seconds=12.5)
    found = check(path)
    assert {key: found[key] for key in ("id", "path", "seconds", "sample_rate", "channels", "reason", "warnings")} == {
        "id": "a", "path": "a.flac", "seconds": 12.5, "sample_rate": 24_000, "channels": 1, "reason": "",
        "warnings": []}
    assert found["sha256"] == sha256_file(path)
    assert found["loudness"] == pytest.approx(loudness(read_audio(path), 24_000), abs=0.01)


def test_the_same_samples_have_the_same_content_in_any_file(tmp_path):
    samples, rate = soundfile.read(record(tmp_path / "a.flac"), dtype="int16")
    soundfile.write(tmp_path / "b.wav", samples, rate)
    contents = [check(tmp_path / name)["content"] for name in ("a.flac", "b.wav")]
    assert contents[0] == contents[1] != check(record(tmp_path / "c.wav", 1))["content"]


def test_channels_that_cancel_are_told(tmp_path):
    tone = voice()
    assert check(stereo(tmp_path / "a.wav", tone, tone))["warnings"] == []
    assert check(stereo(tmp_path / "b.wav", tone, -0.9 * tone))["warnings"] == ["OPPOSITE_CHANNELS"]
    found = check(stereo(tmp_path / "c.wav", tone, -tone))
    assert found["reason"] == "SILENT" and "opposite" in found["detail"]
    found = check(stereo(tmp_path / "d.wav", 0 * tone, 0 * tone))
    assert found["reason"] == "SILENT" and "nothing is heard" in found["detail"]


@pytest.mark.parametrize("reason, changes", [
    ("LOW_RATE", {"min_rate": 32_000}), ("TOO_SHORT", {"min_seconds": 3.5}), ("OFFSET", {"max_offset": 0.001}),
])
def test_the_settings_rule_recordings_out(tmp_path, reason, changes):
    path = tmp_path / "a.wav"
    soundfile.write(path, voice() + 0.01, 24_000)
    assert check(path)["reason"] == ""
    assert check(path, **changes)["reason"] == reason


def test_damage_far_into_a_recording_is_found(tmp_path):
    path = record(tmp_path / "a.flac", seconds=60.0)
    content = bytearray(path.read_bytes())
    content[-2000:-1000] = bytes(1000)
    path.write_bytes(content)
    found = check(path)
    assert (found["reason"], found["seconds"], found["sha256"]) == ("DECODE_ERROR", 60.0, "")


def test_few_bits_are_told_and_a_link_that_leaves_the_source_is_refused(tmp_path):
    path = tmp_path / "src" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, voice(), 24_000, subtype="PCM_U8")
    assert check(path)["warnings"] == ["LOW_BIT_DEPTH"]
    link = tmp_path / "src" / "b.wav"
    link.symlink_to(record(tmp_path / "elsewhere.wav"))
    assert check(link)["reason"] == "OUTSIDE_ROOT"
    assert check(link, follow_links=True)["reason"] == ""
