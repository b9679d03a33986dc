"""What the whole corpus tells reaches the manifest, `rejected.jsonl` and the page of a curation."""

from __future__ import annotations

import soundfile
import stand_in_steps
from takes import voice
from tiny_corpora import settings

from stages.artifacts import storage
from stages.curate import run
from stages.curation import chain
from stages.curation.duplicates import FINGERPRINT


def test_an_episode_published_again_is_left_out_with_a_reason_and_a_licence(tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "STEPS", (*stand_in_steps.STEPS, FINGERPRINT))
    (tmp_path / "src").mkdir()
    for name, waveform in (("a", voice(0, 9)), ("b", voice(1, 9)), ("louder", 1.5 * voice(0, 9))):
        soundfile.write(tmp_path / "src" / f"{name}.wav", waveform, 16_000)
    told = run(settings(tmp_path / "src", tmp_path / "out", workers=1, license="CC0", validation_share=0, test_share=0))
    rows = storage.read_jsonl(tmp_path / "out" / "rejected.jsonl")
    assert [(row["id"], row["reason"], row["detail"]) for row in rows] == [
        ("louder-0001", "DUPLICATE_SOUND", "the same sound as `a-0001`"),
        ("louder-0002", "DUPLICATE_SOUND", "the same sound as `a-0002`")]
    assert {(row["license"], row["speaker"], row["duration"]) for row in rows} == {
        ("CC0", "louder-A", 4.5), ("CC0", "louder-B", 4.5)}
    assert [row["name"] for row in told["table"]] == ["train-90s"]
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "DUPLICATE_SOUND" in html and html.count("data:audio/mpeg") == 4
