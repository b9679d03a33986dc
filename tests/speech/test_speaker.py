from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.audio.io import read_audio
from stages.errors import MissingModelError
from stages.speech import speaker
from stages.speech.speaker import WavLMEmbedder, load_embedder, similarity

RATE = 16_000
SPEECH = Path(__file__).parents[2] / "examples" / "speech"


@pytest.fixture(scope="module")
def wavlm_folder(tmp_path_factory):
    """A random WavLM of the real architecture with an x-vector head, as `save_pretrained` writes it."""
    pytest.importorskip("transformers")
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, tdnn_dim=(16,) * 5, xvector_output_dim=12,
        use_weighted_layer_sum=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny-wavlm"
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    return folder


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def test_a_wavlm_folder_gives_unit_vectors_that_depend_on_the_recording_alone(wavlm_folder):
    embedder = load_embedder(str(wavlm_folder))
    first, second = embedder.embed(noise(1.0), RATE), embedder.embed(noise(1.0, seed=1), RATE)
    assert embedder.name == "tiny-wavlm" and first.shape == (12,)
    assert np.linalg.norm(first) == pytest.approx(1.0)
    np.testing.assert_array_equal(embedder.embed(noise(1.0), RATE), first)
    assert similarity(first, second) < 0.99999


def test_the_vector_is_that_of_transformers_itself(wavlm_folder):
    import torch
    from transformers import WavLMForXVector

    with torch.inference_mode():
        theirs = WavLMForXVector.from_pretrained(wavlm_folder)(torch.from_numpy(noise(2.0))[None]).embeddings[0]
    ours = load_embedder(str(wavlm_folder)).embed(noise(2.0), RATE)
    np.testing.assert_allclose(ours, theirs / theirs.norm(), atol=1e-5)


def test_long_speech_is_heard_in_equal_windows_of_at_most_30_seconds(wavlm_folder, monkeypatch):
    embedder = WavLMEmbedder(str(wavlm_folder))
    seen = []
    monkeypatch.setattr(embedder, "_embed_window", lambda samples: seen.append(len(samples)) or np.ones(2))
    embedder.embed(noise(70.0), RATE)
    assert len(seen) == 3 and sum(seen) == 70 * RATE and max(seen) <= 30 * RATE


def test_a_model_that_is_not_on_this_machine_is_not_downloaded(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("nothing is to be downloaded"))
    for name in ("microsoft/none-of-this-name", str(tmp_path / "nowhere")):
        with pytest.raises(MissingModelError, match="no speaker model") as caught:
            load_embedder(name)
        assert name in caught.value.hint
    with pytest.raises(MissingModelError, match="cannot be loaded"):
        load_embedder(str(tmp_path))


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(speaker, "find_spec", lambda name: None)
    with pytest.raises(MissingModelError, match="not installed") as caught:
        load_embedder("microsoft/wavlm-base-plus-sv")
    assert "halle[hf]" in caught.value.hint


def test_a_real_speaker_model_tells_voices_apart():
    pytest.importorskip("resemblyzer")
    embedder = load_embedder("resemblyzer")
    rows = [json.loads(line) for line in (SPEECH / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]

    def vectors(voice):
        files = [row["file_name"] for row in rows if voice in row["file_name"]][:2]
        return [embedder.embed(read_audio(SPEECH / file, RATE), RATE) for file in files]

    (his, again), (hers, _) = vectors("rms"), vectors("slt")
    assert similarity(his, again) > 0.85 > similarity(his, hers)
