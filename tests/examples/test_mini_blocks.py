"""What the mini recipe's `blocks.py` decodes, and of which utterances."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.artifacts.manifest import write_manifest
from stages.audio.io import write_audio
from stages.codec.registry import load_codec

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "mini" / "blocks.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mini_blocks", SCRIPT)
    module = sys.modules["mini_blocks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, time = tmp_path_factory.mktemp("data"), np.arange(30_000) / 24_000
    rows = []
    for number, (speaker, name) in enumerate([("awb", "test-short"), ("rms", "test-short"), ("rms", "test-long"),
                                              ("rms", "test-short"), ("other", "test-short")]):  # fmt: skip
        write_audio(folder / f"{number}.wav", 0.3 * np.sin(2 * np.pi * (150 + 50 * number) * time), 24_000)
        rows.append({"id": f"u{number}", "audio": f"{number}.wav", "duration": 1.25, "speaker": speaker, "text": "A b.",
                     "split": "test", "set": name})  # fmt: skip
    write_manifest(folder, rows)
    return folder


def test_blocks_are_decoded_one_after_the_other_up_to_the_whole_codec(script, halle_tokens):
    codec = load_codec(halle_tokens[1])
    waveform = np.random.default_rng(0).normal(size=10_000).astype(np.float32) * 0.1
    found = list(script.decoded_by_blocks(codec, waveform))
    batch = torch.from_numpy(waveform)[None, None]
    codes = codec.encode(batch)
    whole = codec.decode(codes, waveform.size)[0, 0].clamp(-1, 1).numpy()
    first = codec.decode_latents(codec.hierarchy.teacher_feature(codes, 1))[0, 0, : waveform.size].detach().numpy()
    assert len(found) == codec.config.mrvq.num_blocks and all(each.shape == waveform.shape for each in found)
    np.testing.assert_allclose(found[-1], whole, atol=1e-5)
    np.testing.assert_allclose(found[0], first.clip(-1, 1), atol=1e-5)


def test_short_test_utterances_of_the_voices_are_chosen(script, data):
    assert [utterance.id for utterance in script.chosen(data, 1)] == ["u1", "u0"]
    assert [utterance.id for utterance in script.chosen(data, 9)] == ["u1", "u3", "u0"]


def test_recordings_and_every_number_of_blocks_have_a_row(script, halle_tokens, data):
    codec = load_codec(halle_tokens[1])
    scores = script.scores_of({"tiny": codec}, script.chosen(data, 1))
    assert list(scores) == [("recordings", 0), *(("tiny", s) for s in range(1, codec.config.mrvq.num_blocks + 1))]
    table = script.as_markdown(scores).splitlines()
    assert table[2].startswith("| recordings |  | ") and table[3].startswith("| tiny | 1 | ")
